"""`python sample.py` given files of another kind of model, damaged or pickled: refused in one line.

Nothing is written then, not even the directory for pictures.
"""

import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.convert import save_controlnet, save_single_file
from jaxdiff.convert.embeddings import Embedding, save_embedding
from jaxdiff.convert.lora import Lora, save_lora
from jaxdiff.models import controlnet_config, parameter_shapes
from jaxdiff.models.lora import init_lora


@pytest.fixture(scope="module")
def files(tiny_model, tiny_model_dir, large_model, large_model_dir, tmp_path_factory):
    """A directory of everything that is refused."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copytree(large_model_dir, folder / "large")
    _models(folder, tiny_model, tiny_model_dir)
    config = controlnet_config(
        large_model.unet_config, conditioning_embedding_out_channels=(4, 8), in_channels=4
    )
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), parameter_shapes(config))
    save_controlnet(folder / "canny", config, zeros)
    layers = init_lora(jax.random.key(0), large_model.unet_params, "attn[12]", 2, 2.0)
    for name, model in (("large.safetensors", large_model), ("ink.safetensors", tiny_model)):
        kept = {path: layers[path] for path in layers if model is large_model or "attn1" in path}
        save_lora(folder / name, Lora(kept, {}, {}), model, layout="kohya")
    _cut(folder / "ink.safetensors")
    vectors = {name: np.ones((1, 24), np.float32) for name in ("text_encoder", "text_encoder_2")}
    save_embedding(folder / "zorbi.safetensors", Embedding("<zorbi>", vectors))
    for name in ("model.ckpt", "lora.pt", "zorbi.bin", "net.pth"):
        (folder / name).write_bytes(pickle.dumps({}))
    Image.new("RGB", (16, 16)).save(folder / "photo.png")
    return folder


def _models(folder, tiny_model, tiny_model_dir):
    """Models that lack something, or are not what they say."""
    for name in ("parts", "pickled", "mixed"):
        shutil.copytree(tiny_model_dir, folder / name)
    (folder / "parts" / "model_index.json").unlink()
    weights = folder / "pickled" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    index = folder / "mixed" / "model_index.json"
    said = json.loads(index.read_text()) | {"_class_name": "StableDiffusionXLPipeline"}
    index.write_text(json.dumps(said))
    save_single_file(folder / "model.safetensors", tiny_model)
    _cut(folder / "model.safetensors")


def _cut(file):
    file.write_bytes(file.read_bytes()[:-10])


REFUSED = {
    "ControlNet of SDXL": (
        ["--controlnet", "canny:photo.png"],
        "ControlNet canny needs a model of the family sdxl or sdxl-inpaint; this one's is sd",
    ),
    "LoRA of SDXL": (
        ["--lora", "large.safetensors"],
        "attn2.to_k is for a weight of (16, 48), the model's is (16, 24) (",
    ),
    "embedding of SDXL": (
        ["--embedding", "zorbi.safetensors"],
        "'<zorbi>' holds vectors for text_encoder and text_encoder_2, and this model has only",
    ),
    "refiner of SDXL": (
        ["--refiner", "large"],
        "refiner large needs a model of the family sdxl or sdxl-inpaint; this one's is sd",
    ),
    "SD as SDXL": (
        ["--model", "mixed"],
        "StableDiffusionXLPipeline is for SDXL, but the UNet is of SD",
    ),
    "no model index": (["--model", "parts"], "parts/model_index.json is missing; is parts a"),
    "truncated model": (["--model", "model.safetensors"], "model.safetensors is truncated"),
    "truncated LoRA": (["--lora", "ink.safetensors"], "ink.safetensors is truncated"),
    "pickled model": (["--model", "model.ckpt"], "model.ckpt is a pickle"),
    "pickled weights": (["--model", "pickled"], "pickle"),
    "pickled LoRA": (["--lora", "lora.pt"], "lora.pt is a pickle"),
    "pickled embedding": (["--embedding", "zorbi.bin"], "zorbi.bin is a pickle"),
    "pickled ControlNet": (["--controlnet", "net.pth:photo.png"], "net.pth is a pickle"),
    "ControlNet as model": (["--model", "canny"], "canny/model_index.json is missing"),
    "model as ControlNet": (["--controlnet", "large:photo.png"], "large/config.json is missing"),
    "model as LoRA": (
        ["--lora", "large/vae/diffusion_pytorch_model.safetensors"],
        "keys that are no LoRA layer of this model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(sample_py, files, monkeypatch, tmp_path, name):
    arguments, message = REFUSED[name]
    monkeypatch.chdir(files)
    given = {} if "--model" not in arguments else {"model": None}
    code, out, err = sample_py("cat", *arguments, "--out", tmp_path / "out", **given)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert message in err[0]
    assert not (tmp_path / "out").exists()
