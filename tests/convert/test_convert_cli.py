"""`python -m jaxdiff.convert` from directory to file and back, and one line for every mistake."""

import shutil

import numpy as np
import pytest

from jaxdiff.convert import load_model, model_hash, save_controlnet, save_single_file
from jaxdiff.convert.__main__ import main
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.convert.tensors import read_tensors
from jaxdiff.models import ControlNetConfig


def _run(*arguments):
    return main([str(argument) for argument in arguments])


def test_there_and_back(tiny_model_dir, tmp_path, capsys):
    file, folder = tmp_path / "a" / "model.safetensors", tmp_path / "again"
    assert _run(tiny_model_dir, file) == 0
    assert _run(file, folder) == 0
    assert model_hash(folder) == model_hash(tiny_model_dir)
    for source in tiny_model_dir.glob("tokenizer/*"):
        assert (folder / "tokenizer" / source.name).read_bytes() == source.read_bytes()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert said[1].startswith(f"wrote {folder}: sd, ")
    assert said[1].endswith("prediction v")


def test_types(tiny_model_dir, tmp_path):
    assert _run(tiny_model_dir, tmp_path / "x.safetensors", "--dtype", "bfloat16") == 0
    types = {array.dtype.name for array in read_tensors([tmp_path / "x.safetensors"]).values()}
    assert types == {"bfloat16"}


def test_controlnets(tmp_path, capsys):
    import jax

    config = ControlNetConfig(
        conditioning_embedding_out_channels=(8, 12),
        down_block_types=("CrossAttnDownBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        cross_attention_dim=24,
        norm_num_groups=16,
    )
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float16), parameter_shapes(config))
    save_controlnet(tmp_path / "c", config, params)
    assert _run(tmp_path / "c", tmp_path / "c.safetensors") == 0
    assert _run(tmp_path / "c.safetensors", tmp_path / "again") == 0
    assert model_hash(tmp_path / "again") == model_hash(tmp_path / "c")
    assert "ControlNet" in capsys.readouterr().out
    assert _run(tmp_path / "c", tmp_path / "d", "--prediction", "v") == 2
    assert "--prediction does nothing for a ControlNet" in capsys.readouterr().err


def test_a_destination_is_replaced_only_when_told(tiny_model_dir, tiny_model, tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    save_single_file(file, tiny_model)
    before = file.read_bytes()
    assert _run(tiny_model_dir, file, "--dtype", "float32") == 2
    assert "exists; choose another, or give --overwrite" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert _run(tiny_model_dir, file, "--dtype", "float32", "--overwrite") == 0
    assert file.read_bytes() != before
    assert _run(file, file, "--overwrite") == 2
    assert "is the source itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "x"], "nowhere does not exist"),
        (["MODEL", "x.ckpt"], "x.ckpt is a pickle"),
        (["MODEL", "x.onnx"], "should be a .safetensors file"),
        (["BROKEN", "x.safetensors"], "model_index.json is missing; is"),
        (["MODEL", "x", "--dtype", "float8"], "float8"),
        (["MODEL", "x", "--variant", "fp16"], "fp16.safetensors is missing"),
        (["MODEL"], "required"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    tiny_model_dir, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    broken = shutil.copytree(tiny_model_dir, tmp_path / "broken")
    (broken / "model_index.json").unlink()
    names = {"MODEL": tiny_model_dir, "BROKEN": broken}
    assert _run(*(names.get(argument, argument) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["broken"]


def test_notes_are_told(tiny_model, tmp_path, capsys):
    from jaxdiff.convert.tensors import write_tensors

    file = tmp_path / "model.safetensors"
    save_single_file(file, tiny_model)
    write_tensors(file, read_tensors([file]))  # another program's: no header
    tiny_model.text[0].tokenizer.save(tmp_path / "tokenizer")
    options = ["--tokenizer-dir", tmp_path / "tokenizer", "--prediction", "eps"]
    assert _run(file, tmp_path / "out", *options) == 0
    assert "note: " in capsys.readouterr().err
    assert load_model(tmp_path / "out").noise.prediction == "eps"
