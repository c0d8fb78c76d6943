"""Safetensors files come in one tensor at a time, in their own types, and go out whole or not."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from families import same_tensors
from safetensors.numpy import load_file, save_file

from jaxdiff.convert.merge import from_torch
from jaxdiff.convert.tensors import (
    PICKLES,
    open_tensors,
    read_metadata,
    read_tensors,
    require_safetensors,
    write_tensors,
)
from jaxdiff.convert.weight_files import weight_files
from jaxdiff.errors import UserError

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.float16([0.5]),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "half": np.array([1.5, -2], ml_dtypes.bfloat16),
    "ids": np.arange(3),
}


@pytest.fixture
def file(tmp_path):
    write_tensors(tmp_path / "x.safetensors", TENSORS, metadata={"é": "ü"})
    return tmp_path / "x.safetensors"


def test_the_file_is_the_library_s_own(file, tmp_path):
    theirs = tmp_path / "theirs.safetensors"
    save_file(TENSORS, theirs, {"format": "pt"})
    loaded = load_file(file)
    assert same_tensors(loaded, TENSORS)
    write_tensors(tmp_path / "plain.safetensors", loaded)
    ours, reference = (tmp_path / "plain.safetensors").stat().st_size, theirs.stat().st_size
    assert abs(ours - reference) <= 8 * len(TENSORS)  # the order of the header's fields is free
    assert same_tensors(read_tensors([theirs]), TENSORS)
    assert read_metadata(file) == {"format": "pt", "é": "ü"}


def test_nothing_is_read_before_it_is_needed(file):
    opened = open_tensors([file])
    content = file.read_bytes()
    changed = content.replace(TENSORS["a.weight"].tobytes(), bytes(24))
    file.write_bytes(changed)
    assert opened["a.weight"].shape == (2, 3)
    assert not np.asarray(opened["a.weight"]).any()
    file.write_bytes(content[:-10])
    with pytest.raises(UserError, match="become shorter"):
        np.asarray(opened["b"])


def test_types_are_changed_and_kept(file, tmp_path):
    target = tmp_path / "y.safetensors"
    write_tensors(target, open_tensors([file]), np.float16, keep={"scalar"})
    types = {name: array.dtype for name, array in read_tensors([target]).items()}
    assert types.pop("ids") == np.int64
    assert types.pop("scalar") == np.float32
    assert set(types.values()) == {np.dtype(np.float16)}


def test_a_failed_write_leaves_the_old_file(file):
    before = file.read_bytes()
    with pytest.raises(UserError, match="b is not finite as float16; nothing written"):
        write_tensors(file, {"a": np.ones(2), "b": np.float32([1, 1e6])}, np.float16)
    assert file.read_bytes() == before
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_parameters_are_read_in_the_type_asked_for(file):
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)}}
    tensor = {"a.weight": open_tensors([file])["a.weight"]}
    for dtype in (np.float16, np.float32, ml_dtypes.bfloat16, None):
        (leaf,) = from_torch(tensor, shapes, "x", dtype)["a"].values()
        assert leaf.dtype == np.dtype(dtype or np.float32)
        assert leaf.ctypes.data % 64 == 0  # where jax takes it without a copy
        np.testing.assert_array_equal(leaf, TENSORS["a.weight"].T)
    large = {"a.weight": np.full((2, 3), 1e6, np.float32)}
    with pytest.raises(UserError, match="x: a.weight does not fit float16; load it as float32"):
        from_torch(large, shapes, "x", np.float16)


def test_a_device_uses_the_arrays_where_they_lie(file):
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)}}
    leaf = from_torch({"a.weight": TENSORS["a.weight"]}, shapes, "x")["a"]["kernel"]
    placed = jax.device_put(leaf, jax.devices()[0])
    assert placed.unsafe_buffer_pointer() == leaf.ctypes.data


@pytest.mark.parametrize("suffix", PICKLES)
def test_pickles_are_refused(tmp_path, suffix):
    with pytest.raises(UserError, match="is a pickle, and loading one runs the code in it"):
        require_safetensors(tmp_path / f"model{suffix}")


def test_other_suffixes_are_refused():
    with pytest.raises(UserError, match="should be a .safetensors file"):
        require_safetensors("model.onnx")


@pytest.mark.parametrize("header", [b"[]", b"{}x", b'{"a":{"dtype":"F32"}}'])
def test_damaged_headers_are_named(tmp_path, header):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="bad.safetensors is truncated or no safetensors file"):
        open_tensors([bad])


def _touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_variants_are_chosen(tmp_path):
    _touch(tmp_path, "model.fp16.safetensors")
    fp16 = tmp_path / "model.fp16.safetensors"
    assert weight_files(tmp_path, "model") == [fp16]  # the only one
    _touch(tmp_path, "model.ema.safetensors")
    with pytest.raises(UserError, match="the variants ema, fp16; choose one"):
        weight_files(tmp_path, "model")
    _touch(tmp_path, "model.safetensors")
    assert weight_files(tmp_path, "model") == [tmp_path / "model.safetensors"]
    assert weight_files(tmp_path, "model", "fp16") == [fp16]
    with pytest.raises(UserError, match="model.bf16.safetensors is missing"):
        weight_files(tmp_path, "model", "bf16")


@pytest.mark.parametrize(
    "index", ["model.safetensors.index.fp16.json", "model.safetensors.fp16.index.json"]
)
def test_shards_of_variants(tmp_path, index):
    shards = [f"model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    _touch(tmp_path, *shards)
    (tmp_path / index).write_text(json.dumps({"weight_map": dict(enumerate(shards))}))
    for variant in (None, "fp16"):
        assert weight_files(tmp_path, "model", variant) == [tmp_path / shard for shard in shards]


def test_an_index_cannot_name_other_files(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.bin"}}')
    with pytest.raises(UserError, match="pickle"):
        weight_files(tmp_path, "model")


def test_only_pickles(tmp_path):
    _touch(tmp_path, "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle, and loading one runs"):
        weight_files(tmp_path, "model")
    with pytest.raises(UserError, match="only safetensors are read"):
        weight_files(tmp_path / "nowhere", "model")
