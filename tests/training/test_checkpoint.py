"""Checkpoints of a small state: on other devices, damaged in every way, on a full disk."""

import json
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.errors import UserError
from jaxdiff.training import checkpoint
from jaxdiff.training.checkpoint import Checkpoints
from jaxdiff.training.checksums import checksums
from jaxdiff.training.sharding import abstract

HOST = {
    "half": np.random.default_rng(0).normal(size=(8, 6)).astype(jnp.bfloat16),
    "step": np.int32(7),
    "w": np.random.default_rng(1).normal(size=(16, 4096)).astype(np.float32),
}


def _places(devices, *axes):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("fsdp",))
    spec = {"half": PartitionSpec("fsdp"), "step": PartitionSpec(), "w": PartitionSpec(*axes)}
    return {name: NamedSharding(mesh, each) for name, each in spec.items()}


def _state(places):
    return {name: jax.device_put(HOST[name], places[name]) for name in HOST}


def _same(state):
    for name, array in HOST.items():
        np.testing.assert_array_equal(np.asarray(state[name]), array)


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints of eight devices, and what to restore them as on two."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, _state(_places(8, "fsdp")), examples=8 * step)
    checkpoints.close()
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, HOST))
    return tmp_path, abstract(shapes, _places(2, None, "fsdp"))


def test_a_checksum_knows_every_bit_and_no_device():
    first = checksums(_state(_places(8, "fsdp")))
    assert first == checksums(_state(_places(2, None, "fsdp")))
    assert first == checksums(jax.tree.map(jnp.asarray, HOST))
    flipped = HOST["w"].copy()
    flipped.view(np.uint32)[11, 99] ^= 1 << 31
    assert first != checksums({**jax.tree.map(jnp.asarray, HOST), "w": jnp.asarray(flipped)})
    swapped = HOST["w"][:, ::-1].copy()
    assert first != checksums({**jax.tree.map(jnp.asarray, HOST), "w": jnp.asarray(swapped)})


def test_a_state_is_restored_where_it_shall_lie(saved):
    directory, wanted = saved
    restored = Checkpoints(directory, keep=3).restore(wanted)
    assert (restored.step, restored.examples) == (2, 16)
    _same(restored.state)
    assert restored.state["w"].sharding == wanted["w"].sharding


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def _data_file(step):
    return max((f for f in step.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


DAMAGES = {
    "a bit of the data flipped": lambda step: _flip(_data_file(step)),
    "cut off": lambda step: _data_file(step).write_bytes(_data_file(step).read_bytes()[:1000]),
    "a file missing": lambda step: _data_file(step).unlink(),
    "no position": lambda step: (step / "data" / "metadata").write_text("{"),
    "another position": lambda step: _record(step, examples=24),
    "no checksum of the record": lambda step: _record(step, without={"crc"}),
}


def _record(step, without=frozenset(), **changes):
    """Change what a checkpoint says of itself."""
    path = step / "data" / "metadata"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: record[key] for key in record.keys() - without}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_passed_over(damage, saved, caplog):
    directory, wanted = saved
    DAMAGES[damage](directory / "2")
    (directory / "3").mkdir()
    (directory / "2.damaged").mkdir()  # from another time
    restored = Checkpoints(directory, keep=3).restore(wanted)
    assert restored.step == 1
    _same(restored.state)
    assert "checkpoint 3 is damaged" in caplog.text
    assert "checkpoint 2 is damaged" in caplog.text
    if "flipped" in damage:
        assert "w are not what was saved" in caplog.text
    assert (directory / "2.damaged2").is_dir() and (directory / "3.damaged").is_dir()


def test_any_bit_of_the_record_counts(saved):
    path = epath.Path(saved[0]) / "2" / "data" / "metadata"
    content = path.read_bytes()
    for number in range(0, 8 * len(content), 5):
        flipped = bytearray(content)
        flipped[number // 8] ^= 1 << number % 8
        path.write_bytes(bytes(flipped))
        with pytest.raises(ValueError):
            checkpoint._read_record(path)


@pytest.mark.parametrize("lacks", [{"about", "crc"}, {"about", "crc", "checksums"}])
def test_a_record_of_an_older_version_is_understood(lacks, saved, caplog):
    directory, wanted = saved
    _record(directory / "2", without=lacks)
    restored = Checkpoints(directory, keep=3).restore(wanted)
    assert (restored.step, restored.examples) == (2, 16) and not caplog.text


def test_a_checkpoint_says_what_run_it_is_of(saved):
    directory, wanted = saved

    def check(about):
        if about != {"seed": 0}:
            raise UserError(f"of another run: {about}")

    mine = Checkpoints(directory, 3, {"seed": 1}, check)
    assert mine.restore(wanted).step == 2  # which say nothing
    mine.save(3, _state(_places(8, "fsdp")), examples=24)
    mine.close()
    with pytest.raises(UserError, match="of another run: {'seed': 1}"):
        Checkpoints(directory, 3, {"seed": 0}, check).restore({"of": wanted["w"]})


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        ConnectionResetError("connection reset"),
        MemoryError("16 GB"),
        ValueError("PERMISSION_DENIED: Error opening kvstore"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 16 GB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_in_the_way_is_no_damage(error, saved, monkeypatch):
    directory, wanted = saved

    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointHandler, "restore", fail)
    with pytest.raises(UserError, match=r"(?i)/2 cannot be read: .*(permi|conn|16 GB)"):
        Checkpoints(directory, keep=3).restore(wanted)
    assert {path.name for path in directory.iterdir()} == {"1", "2"}


def test_where_every_checkpoint_is_damaged_none_is_touched(saved):
    directory, wanted = saved
    for step in ("1", "2"):
        _flip(_data_file(directory / step))
    with pytest.raises(UserError, match=r"none of the checkpoints \[2, 1\]"):
        Checkpoints(directory, keep=3).restore(wanted)
    assert (directory / "1").is_dir() and (directory / "2").is_dir()


@pytest.fixture
def no_room():
    """Files of at most 64 KB can be written, as on a disk that is almost full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_saving_and_keeps_the_last_good_one(saved, no_room):
    directory, wanted = saved
    checkpoints = Checkpoints(directory, keep=1)
    with pytest.raises(UserError, match=r"checkpoint 3 .*File too large.*good checkpoint: .*/2\. "):
        checkpoints.save(3, _state(_places(8, "fsdp")), examples=24)
        checkpoints.finish()
    with pytest.raises(UserError, match="checkpoint 4 cannot be written"):
        checkpoints.save(4, _state(_places(8, "fsdp")), examples=32)
        for _ in range(600):  # what the loop does when it logs
            checkpoints.check_writing()
            time.sleep(0.1)
    no_room()
    again = Checkpoints(directory, keep=1)
    assert again.restore(wanted).step == 2
    again.save(3, _state(_places(8, "fsdp")), examples=24)
    again.close()
    assert Checkpoints(directory, keep=1).restore(wanted).step == 3
