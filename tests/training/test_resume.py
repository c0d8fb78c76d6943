"""A run is the same on any mesh, on any number of devices, and however often it stops."""

import functools
import json
import os
import shutil
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import toy_objective

from jaxdiff.errors import UserError
from jaxdiff.models import attention
from jaxdiff.planning.blueprint import with_unet_options
from jaxdiff.training import loop
from jaxdiff.training.metrics import MetricsWriter
from jaxdiff.training.options import MeshConfig, PreviewConfig
from jaxdiff.training.parallel import make_runner
from jaxdiff.training.sharding import bytes_per_device

SPLIT = MeshConfig(data=1, fsdp=-1)


def _losses(config):
    lines = (config.workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def _same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize(
    ("run", "steps"),
    ["toy_run 20".split(), pytest.param("diffusion_run", "20", marks=pytest.mark.slow)],
)
def test_every_mesh_and_pmap_give_the_same_losses(run, steps, request, tmp_path):
    config = replace(request.getfixturevalue(run), num_steps=int(steps), checkpoint_every=10)
    runs = {
        "data": {},
        "fsdp": {"mesh": SPLIT},
        "tensor": {"mesh": MeshConfig(data=4, tensor=2)},
        "both": {"mesh": MeshConfig(data=1, fsdp=4, tensor=2)},
        "stacked": {"mesh": MeshConfig(fsdp=4), "steps_per_dispatch": 5, "log_every": 5},
        "pmap": {"parallel": "pmap"},
    }
    found, held = {}, {}
    for name, how in runs.items():
        each = replace(config, workdir=tmp_path / name, **how)
        held[name] = bytes_per_device(loop.train(each))
        found[name] = _losses(each)
    for name in runs:
        expected = [found["data"][step] for step in found[name]]
        np.testing.assert_allclose(list(found[name].values()), expected, rtol=0, atol=1e-5)
    assert held["data"] / 8 < held["fsdp"] < 1.3 * held["data"] / 8  # vectors stay whole
    assert held["both"] < 0.4 * held["data"]


@pytest.mark.slow
def test_a_kernel_that_must_be_cut_by_hand_gives_the_same_losses(
    diffusion_run, monkeypatch, tmp_path
):
    monkeypatch.setattr(attention, "LONG", 128)
    data = replace(diffusion_run.data, resolution=32)
    unet = replace(diffusion_run.objective.unet, sample_size=16)
    objective = replace(diffusion_run.objective, unet=unet)
    mesh = MeshConfig(data=1, fsdp=4, tensor=2)
    run = replace(diffusion_run, objective=objective, data=data, num_steps=3, mesh=mesh)
    losses = []
    for kernel in ("splash", "einsum"):
        config = with_unet_options(
            run, attention=kernel, remat="blocks" if kernel == "splash" else "none"
        )
        config = replace(config, workdir=tmp_path / kernel)
        loop.train(config)
        losses.append(list(_losses(config).values()))
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)


def _train_on(devices, config, monkeypatch):
    runner = functools.partial(make_runner, devices=jax.devices()[:devices])
    monkeypatch.setattr(loop, "make_runner", runner)
    return loop.train(config)


def test_a_run_on_eight_devices_goes_on_on_fewer(toy_run, tmp_path, monkeypatch):
    config = replace(toy_run, num_steps=20, checkpoint_every=10, mesh=SPLIT)
    whole = _train_on(8, config, monkeypatch)
    expected = [loss for step, loss in _losses(config).items() if step > 10]
    shutil.rmtree(config.workdir / "checkpoints" / "20")
    for devices in (8, 4, 2, 1):
        there = replace(config, workdir=tmp_path / f"on{devices}")
        shutil.copytree(config.workdir, there.workdir)
        last = _train_on(devices, there, monkeypatch)
        found = [loss for step, loss in _losses(there).items() if step > 10]
        np.testing.assert_allclose(found, expected, rtol=0, atol=0 if devices == 8 else 1e-6)
        if devices == 8:
            _same(whole, last)


def test_a_run_goes_on_with_its_own_synonyms_only(toy_run, tmp_path):
    """A changed file would change what comes, and is noticed before a step is taken."""
    names = tmp_path / "names.txt"
    names.write_text("disc = a big red circle\n")
    data = replace(toy_run.data, synonyms=str(names))
    config = replace(toy_run, data=data, num_steps=2, checkpoint_every=2)
    loop.train(config)
    names.write_text("ring = a big red circle\n")
    with pytest.raises(UserError, match="was trained with another synonyms"):
        loop.train(replace(config, num_steps=4))


def test_sigterm_saves_and_the_run_goes_on(toy_run, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="jaxdiff")
    whole = loop.train(replace(toy_run, workdir=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        _preempt_at(4, patch)
        stopped = loop.train(replace(toy_run, export=tmp_path / "out"))
    step = int(stopped.step)
    assert step in (4, 5) and f"step {step} is saved" in caplog.text
    assert (toy_run.workdir / "checkpoints" / str(step)).is_dir()
    assert not (tmp_path / "out").exists()
    _same(whole, loop.train(toy_run))


def _preempt_at(stop, monkeypatch):
    """SIGTERM when step `stop` is logged."""
    write = MetricsWriter.write

    def preempted(self, step, values):
        write(self, step, values)
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsWriter, "write", preempted)


@pytest.fixture
def drawing_run(toy_run, monkeypatch):
    """A run whose previews are black."""

    def objective(*arguments):
        black = np.zeros((4, 4, 3), np.uint8)
        return toy_objective(*arguments)._replace(preview=lambda params: black)

    monkeypatch.setitem(loop.OBJECTIVES, type(toy_run.objective), objective)
    return toy_run


@pytest.mark.parametrize(("stop", "drawn"), [(5, [5, 6]), (6, [6])])
def test_a_run_that_is_told_to_stop_misses_no_preview(stop, drawn, drawing_run, monkeypatch):
    config = replace(drawing_run, preview=PreviewConfig(every=stop))
    with monkeypatch.context() as patch:
        _preempt_at(stop - 1, patch)
        assert int(loop.train(config).step) == stop
    folder = config.workdir / "previews"
    assert folder.exists() == (stop == config.num_steps)
    loop.train(config)
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:08d}.png" for n in drawn]


def test_checkpoints_that_outlive_their_work_directory_know_their_run(toy_run, tmp_path):
    config = replace(toy_run, checkpoints=str(tmp_path / "store"), num_steps=1)
    loop.train(config)
    shutil.rmtree(config.workdir)
    with pytest.raises(UserError, match=r"store belongs to another config \(seed: 0 there, 1 here"):
        loop.train(replace(config, seed=1))
    shutil.rmtree(config.workdir)
    assert int(loop.train(replace(config, num_steps=2)).step) == 2


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "tensorboard", "previews"])
def test_what_cannot_be_written_is_said_in_one_line(name, drawing_run):
    config = replace(drawing_run, num_steps=1, preview=PreviewConfig(every=1))
    in_the_way = config.workdir / name
    if "." in name:
        in_the_way.mkdir(parents=True)
    else:
        config.workdir.mkdir()
        in_the_way.write_text("")
    with pytest.raises(UserError, match=rf"{name}.* cannot be written: .*run the command again"):
        loop.train(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mesh": MeshConfig(fsdp=3)}, "does not make up 8 devices"),
        ({"mesh": MeshConfig(fsdp=2), "parallel": "pmap"}, "pmap has no mesh"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_before_anything(changes, said, toy_run):
    config = replace(toy_run, **changes)
    with pytest.raises(UserError, match=said):
        loop.train(config)
    assert not config.workdir.exists()


def test_rows_that_a_mesh_cannot_share_are_refused(toy_run):
    data = replace(toy_run.data, batch_size=6)
    config = replace(toy_run, data=data, mesh=MeshConfig(data=1, fsdp=4, tensor=2))
    with pytest.raises(UserError, match=r"=6 does not divide over mesh.data=1 x mesh.fsdp=4"):
        loop.train(config)
    one_row = replace(config, data=replace(data, batch_size=8))
    assert make_runner(one_row).share == (0, 1)


def test_dispatches_that_hide_a_step_to_look_at_are_refused(toy_run):
    with pytest.raises(UserError, match="steps_per_dispatch=2 must divide checkpoint_every=3"):
        replace(toy_run, steps_per_dispatch=2, log_every=2)
