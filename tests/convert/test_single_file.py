"""One file for a model: ours come back equal, and what is wrong with one is named."""

import dataclasses
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from families import same_tensors

from jaxdiff.convert import load_model, model_hash, save_model, save_single_file
from jaxdiff.convert.merge import parameter_shapes, to_torch
from jaxdiff.convert.single_file_names import (
    find_skeleton,
    inverted,
    renamed,
    single_file_key,
    skeleton,
    unet_names,
)
from jaxdiff.convert.tensors import read_metadata, read_tensors, write_tensors
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import UNetConfig

SHIPPED = Path(__file__).parents[2] / "models" / "emoji64"


@pytest.fixture
def file(tiny_model, tmp_path):
    """A single file to spoil."""
    save_single_file(tmp_path / "model.safetensors", tiny_model)
    return tmp_path / "model.safetensors"


def _rewrite(file, change, metadata=None):
    tensors = change(read_tensors([file]))
    write_tensors(file, tensors, metadata=read_metadata(file) if metadata is None else metadata)


def test_the_shipped_model_comes_back(tmp_path):
    model = load_model(SHIPPED, Tokenizer.load, dtype=None)
    save_single_file(tmp_path / "emoji.safetensors", model, dtype=None)
    single = load_model(tmp_path / "emoji.safetensors", Tokenizer.load, dtype=None)
    for field in dataclasses.fields(model):
        if field.name != "text":
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(single, field.name),
                getattr(model, field.name),
            )
    (ours,), (theirs,) = single.text, model.text
    assert ours.config == theirs.config
    assert (
        ours.tokenizer(["a red heart, noto style"]).tolist()
        == theirs.tokenizer(["a red heart, noto style"]).tolist()
    )
    save_model(tmp_path / "again", single, dtype=None)
    assert model_hash(tmp_path / "again") == model_hash(SHIPPED)
    for source in SHIPPED.glob("tokenizer/[vm]*"):  # vocabulary and merges
        assert (tmp_path / "again" / "tokenizer" / source.name).read_text() == source.read_text()


def test_the_header_says_what_others_show(file, tiny_model):
    said = read_metadata(file)
    assert said["modelspec.title"] == "tiny"
    assert said["modelspec.resolution"] == "16x16"
    assert said["modelspec.prediction_type"] == "v"
    assert said["modelspec.license"] == "CC0-1.0"
    assert said["modelspec.architecture"] == "jaxdiff-sd"
    assert "unet/config.json" in json.loads(said["jaxdiff.files"])


def test_types_go_in_and_out(tiny_model, tmp_path):
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
        save_single_file(one, tiny_model, dtype)
        assert {t.dtype for t in read_tensors([one]).values()} == {np.dtype(dtype)}
        save_single_file(two, load_model(one), dtype)  # by way of float32
        assert same_tensors(read_tensors([one]), read_tensors([two]))
        leaves = jax.tree.leaves(load_model(one, dtype=dtype).vae_params)
        assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}


def test_names_of_the_full_size():
    """Of Stable Diffusion 1: the 12 blocks in, 12 out; what goes there comes back."""
    names = unet_names(skeleton(UNetConfig()))
    assert len(set(names.values())) == len(names)
    for ours, theirs in {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
        "down_blocks.3.resnets.1.conv2.weight": "input_blocks.11.0.out_layers.3.weight",
        "mid_block.resnets.1.norm1.weight": "middle_block.2.in_layers.0.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.attentions.2.proj_out.weight": "output_blocks.11.1.proj_out.weight",
        "conv_out.bias": "out.2.bias",
    }.items():
        assert single_file_key(ours, UNetConfig()) == theirs
        assert renamed(theirs, inverted(names)) == ours


def test_a_skeleton_is_found_by_names():
    config = UNetConfig(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=3,
    )
    torch = to_torch(jax.tree.map(lambda s: np.empty(s.shape, bool), parameter_shapes(config)))
    keys = {single_file_key(key, config) for key in torch}
    assert len(keys) == len(torch)
    assert find_skeleton(keys, "x") == skeleton(config)


def test_uneven_levels_are_refused(file):
    block = "model.diffusion_model.input_blocks.{}.0.in_layers.0.weight"
    _rewrite(file, lambda tensors: tensors | {block.format(4): tensors[block.format(1)]})
    with pytest.raises(UserError, match="no UNet of Stable Diffusion"):
        load_model(file)


def test_mismatches_are_listed_by_name(file):
    place = "model.diffusion_model."

    def spoil(tensors):
        tensors[f"{place}novelty.weight"] = tensors.pop(f"{place}time_embed.0.weight")
        tensors["first_stage_model.quant_conv.bias"] = np.zeros(3, np.float16)
        return tensors

    _rewrite(file, spoil)
    with pytest.raises(UserError) as caught:
        load_model(file)
    assert "model.safetensors (unet)" in str(caught.value)
    assert "1 missing (time_embedding.linear_1.weight)" in str(caught.value)
    assert "1 unexpected (novelty.weight)" in str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_file_is_named(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"model.safetensors is truncated"):
        load_model(file)


def test_a_pickle_is_refused(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match="is a pickle, and loading one runs the code in it"):
        load_model(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lora_unet_down_blocks_0.lora_up.weight", "no UNet, .* seems to be a LoRA"),
        ("unet.x.lora_A.weight", "seems to be a LoRA"),
        ("control_model.input_hint_block.0.weight", "seems to be a ControlNet"),
        ("emb_params", "seems to be a textual inversion"),
        ("down_blocks.0.resnets.0.conv1.weight", "one part of a model directory"),
        ("model.diffusion_model.joint_blocks.0.x", "no autoencoder, .* Flux or SD3"),
        ("something", "holds all of them"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, name, message):
    file = tmp_path / "x.safetensors"
    write_tensors(file, {name: np.ones(2, np.float32)})
    with pytest.raises(UserError, match=message):
        load_model(file)


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "unet/evil.py"])
def test_a_header_cannot_write_elsewhere(file, name):
    said = read_metadata(file) | {"jaxdiff.files": json.dumps({name: "{}"})}
    _rewrite(file, lambda tensors: tensors, said)
    with pytest.raises(UserError, match="not a model's"):
        load_model(file)


@pytest.mark.parametrize("text", ["{", "[]", '{"unet/config.json": 3}'])
def test_a_damaged_header_is_named(file, text):
    _rewrite(file, lambda tensors: tensors, {"jaxdiff.files": text})
    with pytest.raises(UserError, match="model.safetensors: .*header"):
        load_model(file)


def test_options_that_do_nothing_are_refused(file, tiny_model_dir):
    with pytest.raises(UserError, match="variant 'fp16' does nothing"):
        load_model(file, variant="fp16")
    with pytest.raises(UserError, match="fp16.safetensors is missing"):
        load_model(tiny_model_dir, variant="fp16")


def test_what_the_user_says_of_the_prediction_counts(file, tiny_model_dir):
    for where in (file, tiny_model_dir):
        assert load_model(where, prediction="eps").noise.prediction == "eps"


@pytest.mark.parametrize(("prediction", "kept"), [("v", {"v_pred"}), ("eps", set())])
def test_markers_tell_of_the_noise_and_not_of_the_file_read(tiny_model, tmp_path, prediction, kept):
    """As for a file of v-prediction for which the user says otherwise."""
    noise = dataclasses.replace(tiny_model.noise, prediction=prediction)
    read = {name: np.zeros(0, np.float16) for name in ("v_pred", "ztsnr", "other")}
    save_single_file(
        tmp_path / "x.safetensors", dataclasses.replace(tiny_model, noise=noise, unused=read)
    )
    found = read_tensors([tmp_path / "x.safetensors"])
    assert found.keys() & read.keys() == kept | {"other"}


def test_a_failed_save_leaves_the_old_file(file, tiny_model):
    before = file.read_bytes()
    spoilt = jax.tree.map(lambda leaf: leaf * np.float32(1e6), tiny_model.unet_params)
    with pytest.raises(UserError, match="not finite as float16"):
        save_single_file(file, dataclasses.replace(tiny_model, unet_params=spoilt))
    assert file.read_bytes() == before
    with pytest.raises(UserError, match="cannot be written"):
        save_single_file(file / "below.safetensors", tiny_model)


def test_a_family_can_be_required(tiny_model):
    tiny_model.require_family("sd", task="ControlNet canny")
    with pytest.raises(UserError, match="ControlNet canny needs a model of the family sdxl; .* sd"):
        tiny_model.require_family("sdxl", task="ControlNet canny")
