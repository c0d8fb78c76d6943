"""Loading and saving take little more memory than the parameters do."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxdiff.convert import Model, NoiseConfig, TextTower, save_model, save_single_file
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig

pytestmark = pytest.mark.slow
LIMIT = 1.3

# Prints how much the process grew at most, over the size of the parameters: loading, then saving.
_MEASURE = """
import json, os, resource, sys, jax, ml_dtypes, numpy as np
from jaxdiff.convert import load_model, save_model, save_single_file
from jaxdiff.convert.layout import read_layout
from jaxdiff.convert.merge import parameter_shapes

def now():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

where, dtype, out = sys.argv[1:]
small = load_model("models/emoji64")  # everything that is imported and traced once
del small
begin = now()
model = load_model(where, dtype=np.dtype(getattr(ml_dtypes, dtype, dtype)))
trees = (model.unet_params, model.vae_params, model.text[0].params)
size = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
loaded = (peak() - begin) / size
save = save_single_file if out.endswith(".safetensors") else save_model
save(out, model, None)
print(json.dumps([size, loaded, (peak() - begin) / size]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """About 190 million parameters: 380 MB as float16, twice that as float32."""
    import jax

    unet = UNetConfig(
        block_out_channels=(256, 448, 640),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=256,
    )
    text = TextEncoderConfig(
        vocab_size=4096, hidden_size=256, num_attention_heads=4, intermediate_size=512,
        num_hidden_layers=2, eos_token_id=4095,
    )  # fmt: skip
    vae = AutoencoderConfig(block_out_channels=(32, 64))

    def fill(config):
        shapes = parameter_shapes(config)
        return jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float16), shapes)

    tower = TextTower("text_encoder", text, fill(text), None)
    model = Model(unet, fill(unet), vae, fill(vae), (tower,), NoiseConfig())
    folder = tmp_path_factory.mktemp("large")
    save_model(folder / "float16", model)
    save_model(folder / "float32", model, np.float32)
    save_single_file(folder / "float16.safetensors", model)
    return folder


@pytest.mark.parametrize(
    ("source", "dtype", "out"),
    [
        ("float16", "float16", "out"),
        ("float16", "float32", "out.safetensors"),
        ("float32", "bfloat16", "out"),
        ("float32", "float32", "out"),
        ("float16.safetensors", "float16", "out.safetensors"),
    ],
)
def test_peak_memory(large, tmp_path, source, dtype, out):
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, large / source, dtype, tmp_path / out],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert run.returncode == 0, run.stderr
    size, loading, saving = json.loads(run.stdout)
    print(f"{source} as {dtype}: {size / 1e6:.0f} MB, loading {loading:.2f}, saving {saving:.2f}")
    assert size > 300e6
    assert loading < LIMIT
    assert saving < LIMIT
