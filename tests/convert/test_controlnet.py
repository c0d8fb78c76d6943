"""ControlNets come in from folders and single files, ours and others', and go out again."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from families import same_tensors, scatter

from jaxdiff.convert import load_controlnet, model_hash, save_controlnet
from jaxdiff.convert.controlnet import check_controlnet_writable, is_controlnet
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.convert.tensors import read_tensors, write_tensors
from jaxdiff.errors import UserError
from jaxdiff.models import ControlNetConfig

SD = ControlNetConfig(
    conditioning_embedding_out_channels=(8, 8, 12, 12),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    block_out_channels=(16, 32),
    layers_per_block=1,
    cross_attention_dim=24,
    norm_num_groups=16,
)
XL = dataclasses.replace(
    SD,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    transformer_layers_per_block=2,
    attention_head_dim=(1, 1),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=16 + 6 * 256,
)


@pytest.fixture(scope="module", params=[SD, XL], ids=["sd", "sdxl"])
def controlnet(request):
    """(config, parameters of float16)."""
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float16)  # noqa: E731
    return request.param, jax.tree.map(draw, parameter_shapes(request.param))


@pytest.mark.parametrize("name", ["folder", "file.safetensors"])
def test_round_trip(controlnet, tmp_path, name):
    config, params = controlnet
    save_controlnet(tmp_path / name, config, params)
    loaded, again = load_controlnet(tmp_path / name, dtype=None)
    assert loaded == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert is_controlnet(tmp_path / name)
    assert len(model_hash(tmp_path / name)) == 10
    save_controlnet(tmp_path / f"two-{name}", loaded, again, dtype=None)
    assert model_hash(tmp_path / f"two-{name}") == model_hash(tmp_path / name)


def test_files_of_others(controlnet, tmp_path):
    """Without a header, with A1111's prefix or none, or with diffusers' names."""
    config, params = controlnet
    save_controlnet(tmp_path / "file.safetensors", config, params)
    save_controlnet(tmp_path / "folder", config, params)
    tensors = read_tensors([tmp_path / "file.safetensors"])
    bare = {name.removeprefix("control_model."): array for name, array in tensors.items()}
    theirs = read_tensors([*(tmp_path / "folder").glob("*.safetensors")])
    whole = tensors | {"model.diffusion_model.out.0.weight": np.ones(2, np.float16)}
    for i, content in enumerate((tensors, bare, theirs, whole)):
        write_tensors(tmp_path / f"{i}.safetensors", content)
        loaded, again = load_controlnet(tmp_path / f"{i}.safetensors", dtype=None)
        assert loaded == config
        jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parity
def test_diffusers_reads_both_layouts_and_is_read(tmp_path):
    import diffusers

    shape = dataclasses.asdict(SD)
    del shape["remat"], shape["attention"]  # our own
    module = scatter(diffusers.ControlNetModel(**shape))
    module.save_pretrained(tmp_path / "theirs")
    config, params = load_controlnet(tmp_path / "theirs", dtype=None)
    save_controlnet(tmp_path / "ours", config, params, dtype=None)
    save_controlnet(tmp_path / "ours.safetensors", config, params, dtype=None)
    expected = {name: value.numpy() for name, value in module.state_dict().items()}
    for again in (
        diffusers.ControlNetModel.from_pretrained(tmp_path / "ours"),
        diffusers.ControlNetModel.from_single_file(
            str(tmp_path / "ours.safetensors"), config=str(tmp_path / "theirs")
        ),
    ):
        got = {name: value.numpy() for name, value in again.half().state_dict().items()}
        assert same_tensors(got, expected)


@pytest.mark.parametrize("marker", ["lora_controlnet", "difference", "task_embedding"])
def test_other_kinds_are_refused(controlnet, tmp_path, marker):
    file = tmp_path / "x.safetensors"
    write_tensors(file, {marker: np.ones(1, np.float32)})
    with pytest.raises(UserError, match="which is not supported; look for a whole ControlNet"):
        load_controlnet(file)


def test_what_is_no_controlnet_is_refused(tiny_model_dir, tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": np.ones(1, np.float32)})
    with pytest.raises(UserError, match="is no ControlNet"):
        load_controlnet(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="class 'UNet2DConditionModel' is not supported"):
        load_controlnet(tiny_model_dir / "unet")
    with pytest.raises(UserError, match="config.json is missing"):
        load_controlnet(tiny_model_dir)
    (tmp_path / "x.pth").touch()
    with pytest.raises(UserError, match="pickle"):
        load_controlnet(tmp_path / "x.pth")
    assert not is_controlnet(tiny_model_dir)


def test_nothing_else_is_replaced(controlnet, tiny_model_dir, tmp_path):
    config, params = controlnet
    (tmp_path / "thesis.txt").write_text("precious")
    for folder in (tmp_path, tiny_model_dir, tiny_model_dir / "unet"):
        for attempt in (check_controlnet_writable, lambda f: save_controlnet(f, config, params)):
            with pytest.raises(UserError, match="exists and is no ControlNet's folder"):
                attempt(folder)
    save_controlnet(tmp_path / "c", config, params)
    check_controlnet_writable(tmp_path / "c")
    content = json.loads((tmp_path / "c" / "config.json").read_text())
    save_controlnet(tmp_path / "c", config, params)
    assert json.loads((tmp_path / "c" / "config.json").read_text()) == content


@pytest.mark.parametrize("name", ["new/folder", "new/x.safetensors", "old.safetensors"])
def test_writable_is_known_beforehand(tmp_path, name):
    (tmp_path / "old.safetensors").write_bytes(b"")
    check_controlnet_writable(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old.safetensors"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.pth", "pickle"),
        ("folder.safetensors", "it is a folder"),
        ("file/x.safetensors", "no folder, at"),
        ("file/x", "no folder, at"),
        ("file", "exists and is no"),
    ],
)
def test_not_writable_is_known_beforehand(tmp_path, name, message):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=message):
        check_controlnet_writable(tmp_path / name)
