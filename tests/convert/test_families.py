"""What diffusers saves of every family comes in, and goes out byte for byte, by both layouts."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from families import FAMILIES, same_tensors, save_reference

from jaxdiff.convert import load_model, save_model, save_single_file
from jaxdiff.convert.tensors import read_metadata, read_tensors, write_tensors
from jaxdiff.data.tokenizer import Tokenizer

pytestmark = pytest.mark.parity
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    """(family, diffusers' pipeline, its directory)."""
    folder = tmp_path_factory.mktemp(request.param) / "reference"
    return FAMILIES[request.param], save_reference(request.param, folder), folder


@pytest.fixture(scope="module")
def loaded(case):
    return load_model(case[2], Tokenizer.load, dtype=None)


def _weights(folder, part):
    return read_tensors(sorted((folder / part).glob("*.safetensors")))


def _assert_equal_models(first, second):
    """But for where they were loaded from."""
    for name in (field.name for field in dataclasses.fields(first)):
        one, two = getattr(first, name), getattr(second, name)
        if name.endswith("_params"):
            jax.tree.map(np.testing.assert_array_equal, one, two)
        elif name not in ("text", "notes", "unused"):
            assert one == two, name
    for one, two in zip(first.text, second.text, strict=True):
        assert (one.name, one.config) == (two.name, two.config)
        jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
        assert one.tokenizer.vocab == two.tokenizer.vocab
        assert one.tokenizer.pad == two.tokenizer.pad


def test_directory_to_directory(case, loaded, tmp_path):
    family, pipeline, folder = case
    assert loaded.family == family.name
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.unet_params)} == {np.dtype(np.float16)}
    save_model(tmp_path / "again", loaded, dtype=None)
    for part in PARTS:
        if (folder / part).is_dir():
            ours, theirs = _weights(tmp_path / "again", part), _weights(folder, part)
            theirs = {
                k
                if k.startswith("text_proj") or "text" not in part
                else f"text_model.{k.removeprefix('text_model.')}": a
                for k, a in theirs.items()
            }
            assert same_tensors(ours, theirs), part
    index = json.loads((tmp_path / "again" / "model_index.json").read_text())
    theirs = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == theirs["_class_name"]
    for name in ("force_zeros_for_empty_prompt", "max_noise_level", "text_encoder", "tokenizer_2"):
        assert index.get(name) == theirs.get(name), name
    _assert_equal_models(load_model(tmp_path / "again", Tokenizer.load, dtype=None), loaded)


def test_diffusers_reads_the_directory(case, loaded, tmp_path):
    _, pipeline, _ = case
    save_model(tmp_path / "again", loaded)
    again = type(pipeline).from_pretrained(tmp_path / "again")
    for part in PARTS:
        module = getattr(pipeline, part, None)
        if module is not None:
            theirs = {name: value.numpy() for name, value in module.state_dict().items()}
            ours = getattr(again, part).half().state_dict()
            assert same_tensors({name: value.numpy() for name, value in ours.items()}, theirs)


def test_directory_to_single_file_and_back(case, loaded, tmp_path):
    _, _, folder = case
    save_single_file(tmp_path / "one.safetensors", loaded, dtype=None)
    single = load_model(tmp_path / "one.safetensors", Tokenizer.load, dtype=None)
    _assert_equal_models(single, loaded)
    assert not single.notes
    save_single_file(tmp_path / "two.safetensors", single, dtype=None)
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()
    save_model(tmp_path / "again", single, dtype=None)
    save_model(tmp_path / "direct", loaded, dtype=None)
    for part in PARTS:
        if (folder / part).is_dir():
            assert same_tensors(
                _weights(tmp_path / "again", part), _weights(tmp_path / "direct", part)
            )


def test_diffusers_reads_the_single_file(case, loaded, tmp_path):
    """Somebody else's reader of the layout: the same tensors as in the reference."""
    family, pipeline, folder = case
    if family.unet.get("time_cond_proj_dim") or not family.unet.get("mid_block_type", True):
        pytest.skip("the layout of latent diffusion has no such network")
    save_single_file(tmp_path / "one.safetensors", loaded)
    options = (
        {"safety_checker": None} if family.name.startswith("sd-") or family.name == "sd" else {}
    )
    again = type(pipeline).from_single_file(
        str(tmp_path / "one.safetensors"), config=str(folder), local_files_only=True, **options
    )
    for part in PARTS:
        module = getattr(pipeline, part, None)
        if module is not None:
            theirs = {name: value.numpy() for name, value in module.state_dict().items()}
            ours = getattr(again, part).half().state_dict()
            assert same_tensors({name: value.numpy() for name, value in ours.items()}, theirs), part


def test_a_foreign_single_file(case, loaded, tmp_path):
    """Without its header: shapes, family and noise are guessed from names and shapes alone."""
    family, _, folder = case
    save_single_file(tmp_path / "one.safetensors", loaded, dtype=None)
    tensors = _as_others_have_it(read_tensors([tmp_path / "one.safetensors"]))
    dropped = {"model_ema.decay": np.ones((), np.float32)}
    file = tmp_path / "foreign.safetensors"
    write_tensors(file, tensors | dropped)
    assert "jaxdiff.files" not in read_metadata(file)
    prediction = loaded.noise.prediction
    model = load_model(
        file, Tokenizer.load, dtype=None, prediction=prediction, tokenizer_dir=folder
    )
    assert model.family == family.name
    assert len(model.notes) == 1
    assert "assumed" in model.notes[0]
    _assert_equal_models(_comparable(model), _comparable(loaded))
    save_single_file(tmp_path / "again.safetensors", model, dtype=None)
    assert same_tensors(read_tensors([tmp_path / "again.safetensors"]), tensors)


def _as_others_have_it(tensors):
    """With what the files of others hold besides: a last layer that is not used, buffers."""
    last = "cond_stage_model.model.transformer.resblocks.1."
    more = {name: array for name, array in tensors.items() if name.startswith(last)}
    if more:
        more = {name.replace("blocks.1.", "blocks.2."): array + 1 for name, array in more.items()}
        more["cond_stage_model.model.text_projection"] = np.ones((64, 64), np.float16)
        more["cond_stage_model.model.logit_scale"] = np.ones((), np.float16)
    return tensors | more | {"alphas_cumprod": np.ones(1000, np.float32)}


def _comparable(model):
    """With what no shape shows set to one value, and lists for numbers that stand for them."""
    config = model.unet_config
    levels = range(len(config.block_out_channels))
    config = dataclasses.replace(
        config,
        sample_size=1,
        attention_head_dim=tuple(map(config.heads, levels)),
        only_cross_attention=tuple(map(config.crosses_only, levels)),
        transformer_layers_per_block=tuple(
            config.depth(i) if "Cross" in config.down_block_types[i] else 1 for i in levels
        ),
    )
    return dataclasses.replace(
        model,
        unet_config=config,
        vae_config=dataclasses.replace(model.vae_config, sample_size=1),
        noise=dataclasses.replace(model.noise, spacing="leading"),
    )
