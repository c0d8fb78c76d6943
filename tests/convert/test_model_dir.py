"""A model directory comes back as it was saved, and whatever is wrong with one is named."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiff.convert import NoiseConfig, check_writable, load_model, model_hash, save_model
from jaxdiff.convert.autoencoder import save_autoencoder
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.convert.tensors import read_tensors, write_tensors
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import UNetConfig, count_parameters


@pytest.fixture
def copy(tiny_model_dir, tmp_path):
    """A model directory to spoil."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def _edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_round_trip(tiny_model, tiny_model_dir):
    loaded = load_model(tiny_model_dir, Tokenizer.load)
    for field in dataclasses.fields(loaded):
        if not field.name.endswith("_params") and field.name != "text":
            assert getattr(loaded, field.name) == getattr(tiny_model, field.name)
    for name in ("unet_params", "vae_params"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(loaded, name), getattr(tiny_model, name)
        )
    (ours,), (theirs,) = loaded.text, tiny_model.text
    assert (ours.name, ours.config) == (theirs.name, theirs.config)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert ours.tokenizer.vocab == theirs.tokenizer.vocab


def test_round_trip_without_linear_projection(tiny_model, tmp_path):
    linear = dataclasses.replace(
        tiny_model,
        unet_config=dataclasses.replace(tiny_model.unet_config, use_linear_projection=True),
    )
    for name, model in {"kernels": tiny_model, "matrices": linear}.items():
        save_model(tmp_path / name, model)
        loaded = load_model(tmp_path / name)
        jax.tree.map(np.testing.assert_array_equal, loaded.unet_params, model.unet_params)
        tensors = read_tensors([*(tmp_path / name / "unet").glob("*.safetensors")])
        axes = tensors["down_blocks.0.attentions.0.proj_in.weight"].ndim
        assert axes == {"kernels": 4, "matrices": 2}[name]


def test_weights_are_float16_and_the_hash_is_theirs(tiny_model, tiny_model_dir, tmp_path):
    files = [*tiny_model_dir.rglob("*.safetensors")]
    assert len(files) == 3
    assert {t.dtype for t in read_tensors(files).values()} == {np.dtype(np.float16)}
    save_model(tmp_path / "again", tiny_model)
    assert model_hash(tmp_path / "again") == model_hash(tiny_model_dir)
    save_model(tmp_path / "again", tiny_model, np.float32)
    assert model_hash(tmp_path / "again") != model_hash(tiny_model_dir)
    assert len(model_hash(tiny_model_dir)) == 10


def test_saving_replaces_a_model_and_keeps_its_card(tiny_model, copy):
    (copy / "README.md").write_text("card")
    (copy / "unet" / "stale.bin").write_text("old")
    save_model(copy, tiny_model)
    assert (copy / "README.md").read_text() == "card"
    assert not (copy / "unet" / "stale.bin").exists()
    assert [entry.name for entry in copy.parent.iterdir()] == [copy.name]


def test_a_failed_save_leaves_the_old_model(tiny_model, copy):
    spoilt = jax.tree.map(lambda leaf: leaf * np.float32(1e6), tiny_model.unet_params)
    before = model_hash(copy)
    with pytest.raises(ValueError, match="not finite as float16"):
        save_model(copy, dataclasses.replace(tiny_model, unet_params=spoilt))
    assert model_hash(copy) == before
    assert [entry.name for entry in copy.parent.iterdir()] == [copy.name]


def test_saving_refuses_to_replace_what_is_no_model(tiny_model, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="no model directory"):
        save_model(tmp_path, tiny_model)
    assert (tmp_path / "thesis.txt").exists()


def test_saving_completes_a_directory_of_parts(tiny_model, tmp_path):
    """As a run of the autoencoder leaves it, with a card: all of that stays."""
    save_autoencoder(
        tmp_path,
        tiny_model.vae_config,
        tiny_model.vae_params,
        scaling_factor=1.0,
        facts={"step": 7},
    )
    (tmp_path / "README.md").write_text("card")
    save_model(tmp_path, tiny_model)
    assert (tmp_path / "README.md").read_text() == "card"
    assert json.loads((tmp_path / "vae" / "training.json").read_text()) == {"step": 7}
    moved = jax.tree.map(lambda leaf: leaf + np.float32(1), tiny_model.vae_params)
    save_model(tmp_path, dataclasses.replace(tiny_model, vae_params=moved))
    assert not (tmp_path / "vae" / "training.json").exists()  # another autoencoder's story


def test_a_failed_rename_puts_the_old_model_back(tiny_model, copy, monkeypatch):
    before, rename = model_hash(copy), Path.rename

    def fail(self, target):
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="Input/output error"):
        save_model(copy, tiny_model)
    assert model_hash(copy) == before
    assert [entry.name for entry in copy.parent.iterdir()] == [copy.name]


def test_writable_is_known_beforehand(tmp_path):
    for name in ("a file", "strange", "loose"):
        (tmp_path / name).mkdir()
    (tmp_path / "a file" / "x").write_text("")
    (tmp_path / "strange" / "vae").mkdir()
    (tmp_path / "strange" / "photos").mkdir()
    (tmp_path / "loose" / "thesis.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    check_writable(tmp_path / "new" / "model", NoiseConfig())
    for bad in ("a file/x", "a file/x/model", "strange", "loose"):
        with pytest.raises(UserError, match="no model directory|cannot be written"):
            check_writable(tmp_path / bad)
    with pytest.raises(UserError, match="flow with flow"):
        check_writable(tmp_path / "new", NoiseConfig("flow", prediction="v"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_grid_that_schedulers_have_no_word_for_is_kept(tiny_model, tmp_path):
    noise = dataclasses.replace(tiny_model.noise, spacing="karras")
    save_model(tmp_path / "m", dataclasses.replace(tiny_model, noise=noise))
    assert load_model(tmp_path / "m").meta["sampling"] == {"schedule": "karras"}


@pytest.mark.parametrize("field", ["vocab_size", "max_position_embeddings"])
def test_a_tokenizer_that_does_not_fit_is_refused(tiny_model, field):
    (tower,) = tiny_model.text
    config = dataclasses.replace(tower.config, **{field: getattr(tower.config, field) - 1})
    with pytest.raises(UserError, match=f"encoder's {field}"):
        dataclasses.replace(tiny_model, text=(tower._replace(config=config),))


def test_missing_files_are_named(copy):
    with pytest.raises(UserError, match="does not exist"):
        load_model(copy / "elsewhere")
    for name in (
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ):
        (copy / name).rename(copy / "aside")
        with pytest.raises(UserError, match=name.rpartition("/")[2].replace("vocab.json", "json")):
            load_model(copy, Tokenizer.load)
        (copy / "aside").rename(copy / name)
    load_model(copy, Tokenizer.load)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_weights_are_named(copy, size):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model.safetensors is truncated"):
        load_model(copy)


def test_truncated_json_is_named(copy):
    (copy / "unet" / "config.json").write_text('{"act_fn": "si')
    with pytest.raises(UserError, match=r"unet/config.json cannot be read as JSON"):
        load_model(copy)


def test_mismatches_are_listed_by_name(copy):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = read_tensors([file])
    tensors["extra.weight"] = tensors.pop("conv_in.weight")
    tensors["conv_out.bias"] = tensors["conv_out.bias"][:2]
    write_tensors(file, tensors, np.float16)
    with pytest.raises(UserError) as caught:
        load_model(copy)
    message = str(caught.value)
    assert "1 missing (conv_in.weight)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "conv_out.bias is (2,), expected (4,)" in message
    assert "\n" not in message


def test_parts_that_do_not_fit_are_refused(copy):
    _edit(copy / "unet" / "config.json", cross_attention_dim=32)
    with pytest.raises(UserError, match="does not match its configuration"):
        load_model(copy)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "'FluxPipeline' is not supported"),
        ("unet/config.json", {"_class_name": "UNet3D"}, "class 'UNet3D' is not supported"),
        ("unet/config.json", {"act_fn": "gelu"}, "act_fn='gelu' is not supported; only 'silu' is"),
        ("unet/config.json", {"novelty": 3}, "novelty=3 is not supported"),
        ("unet/config.json", {"layers_per_block": [1, 2]}, "only one for all levels"),
        ("unet/config.json", {"norm_num_groups": 7}, "do not divide"),
        ("unet/config.json", {"norm_num_groups": 0}, "norm_num_groups"),
        ("unet/config.json", {"norm_num_groups": "x"}, "norm_num_groups should be int"),
        ("unet/config.json", {"attention_head_dim": 3}, "3 heads"),
        ("unet/config.json", {"flip_sin_to_cos": False}, "flip_sin_to_cos=False"),
        ("vae/config.json", {"down_block_types": ["AttnDownBlock2D"]}, "only DownEncoderBlock2D"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor=0.1 is not supported"),
        ("text_encoder/config.json", {"architectures": ["T5"]}, "class 'T5' is not supported"),
        ("scheduler/scheduler_config.json", {"_class_name": "X"}, "unknown scheduler class"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "x"}, "squaredcos_cap_v2"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "trained_betas"),
    ],
)
def test_unknown_architectures_are_refused(copy, file, changes, message):
    _edit(copy / file, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_model(copy)
    assert file in str(caught.value)


def test_shards_and_float16_variants_load(tiny_model, copy):
    unet = copy / "unet"
    whole = unet / "diffusion_pytorch_model.safetensors"
    whole.rename(unet / "diffusion_pytorch_model.fp16.safetensors")
    load_model(copy)
    tensors = read_tensors([unet / "diffusion_pytorch_model.fp16.safetensors"])
    (unet / "diffusion_pytorch_model.fp16.safetensors").unlink()
    index = {name: f"shard-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(index.values()):
        part = {name: array for name, array in tensors.items() if index[name] == shard}
        write_tensors(unet / shard, part, np.float16)
    (unet / f"{whole.name}.index.json").write_text(json.dumps({"weight_map": index}))
    loaded = load_model(copy)
    jax.tree.map(np.testing.assert_array_equal, loaded.unet_params, tiny_model.unet_params)
    (unet / "shard-1.safetensors").unlink()
    with pytest.raises(UserError, match="shard-1.safetensors is missing"):
        load_model(copy)


def test_text_encoders_without_prefix_load(tiny_model, copy):
    file = copy / "text_encoder" / "model.safetensors"
    tensors = read_tensors([file])
    assert all(name.startswith("text_model.") for name in tensors)
    bare = {name.removeprefix("text_model."): array for name, array in tensors.items()}
    bare["embeddings.position_ids"] = np.arange(12)[None]
    write_tensors(file, bare, np.float16)
    loaded = load_model(copy)
    jax.tree.map(np.testing.assert_array_equal, loaded.text[0].params, tiny_model.text[0].params)


def test_the_old_end_token_is_the_last_id(copy):
    _edit(copy / "text_encoder" / "config.json", eos_token_id=2)
    config = load_model(copy).text[0].config
    assert config.eos_token_id == config.vocab_size - 1


def test_shapes_of_the_full_size():
    """SD 1.x: 859,520,964 parameters in the UNet, as published; nothing is allocated."""
    shapes = parameter_shapes(UNetConfig())
    assert count_parameters(shapes) == 859_520_964
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}


def test_noise_of_an_unwritable_kind_is_refused(tiny_model, tmp_path):
    odd = dataclasses.replace(tiny_model, noise=NoiseConfig("flow", prediction="v"))
    with pytest.raises(UserError, match="flow with flow"):
        save_model(tmp_path / "odd", odd)
    assert not list(tmp_path.iterdir())
