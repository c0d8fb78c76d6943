"""Whole runs: they resume exactly, spread equally, stop at NaN and refuse what does not fit."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from toy import toy_objective

from jaxdiff.convert.autoencoder import load_autoencoder
from jaxdiff.errors import UserError
from jaxdiff.models import count_parameters
from jaxdiff.training import loop
from jaxdiff.training.autoencoder import autoencoder_objective
from jaxdiff.training.config import AutoencoderObjective, TrainConfig
from jaxdiff.training.config_json import to_json
from jaxdiff.training.loop import NotFiniteError, train
from jaxdiff.training.step import TrainState

ROOT = Path(__file__).parents[2]


def _losses(config):
    lines = (config.workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def _same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


class Ended(NamedTuple):
    """A run of six steps that left checkpoints 3 and 6."""

    config: TrainConfig
    state: TrainState


@pytest.fixture(scope="module", autouse=True)
def _toy():
    """The loop is tested on an objective that compiles in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loop.OBJECTIVES, AutoencoderObjective, toy_objective)
        yield


@pytest.fixture(scope="module")
def ended(autoencoder_config, tmp_path_factory) -> Ended:
    """Trained once for all tests; they work on copies."""
    config = replace(autoencoder_config, workdir=tmp_path_factory.mktemp("ended") / "run")
    return Ended(config, jax.device_get(train(config)))


@pytest.fixture
def ended_run(ended, autoencoder_run):
    """A copy of the run."""
    shutil.copytree(ended.config.workdir, autoencoder_run.workdir)
    return autoencoder_run


@pytest.fixture
def stopped_run(ended_run):
    """The same, as if it had been killed before checkpoint 6 was written."""
    shutil.rmtree(ended_run.workdir / "checkpoints" / "6")
    return ended_run


def test_the_heap_is_kept_by_all_parameters(ended_run, ended, monkeypatch):
    """Those that nobody trains, too; the run has ended, so that nothing is computed."""
    counted = []
    monkeypatch.setattr(loop, "keep_heap", counted.append)
    train(ended_run)
    side = 3 * ended_run.data.resolution**2
    assert counted == [count_parameters(ended.state.params) + side**2]


def test_a_run_that_was_killed_and_went_on_equals_one_that_was_not(stopped_run, ended):
    _same(ended.state, train(stopped_run))
    assert _losses(stopped_run) == _losses(ended.config)


@pytest.mark.slow
def test_a_run_that_stopped_and_went_on_equals_one_that_did_not(diffusion_run, tmp_path):
    whole = replace(diffusion_run, workdir=tmp_path / "whole")
    state = train(whole)
    train(replace(diffusion_run, num_steps=3))
    resumed = train(diffusion_run)
    assert int(resumed.step) == 6
    _same(state, resumed)
    assert _losses(diffusion_run) == _losses(whole)


@pytest.mark.slow
def test_mesh_and_pmap_give_the_same_losses_on_eight_devices(diffusion_run, tmp_path):
    assert jax.device_count() == 8
    unet = replace(diffusion_run.objective.unet, dropout=0.1)
    config = replace(diffusion_run, objective=replace(diffusion_run.objective, unet=unet))
    runs = {
        how: replace(config, parallel=how, num_steps=20, workdir=tmp_path / how)
        for how in ("mesh", "pmap")
    }
    for config in runs.values():
        train(config)
    mesh, pmap = (list(_losses(config).values()) for config in runs.values())
    assert len(mesh) == 20
    np.testing.assert_allclose(mesh, pmap, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_pmap_run_goes_on_as_a_mesh_run(autoencoder_run):
    train(replace(autoencoder_run, parallel="pmap", num_steps=3))
    assert int(train(autoencoder_run).step) == 6


_KILLED = """
import sys, dataclasses, pickle
from jaxdiff import platform
platform.configure()
from jaxdiff.training.loop import train
config = pickle.load(open(sys.argv[1], "rb"))
state = train(config)
import jax, numpy as np
np.savez(sys.argv[2], *map(np.asarray, jax.tree.leaves(state)))
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing_but_time(diffusion_run, tmp_path):
    import pickle

    config = replace(diffusion_run, num_steps=40, checkpoint_every=5)

    def start(name, workdir):
        (tmp_path / f"{name}.pickle").write_bytes(
            pickle.dumps(replace(config, workdir=tmp_path / workdir))
        )
        command = [sys.executable, "-c", _KILLED, tmp_path / f"{name}.pickle"]
        return subprocess.Popen([*command, tmp_path / f"{name}.npz"], cwd=ROOT)

    assert start("whole", "whole").wait() == 0
    process = start("killed", "killed")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 17:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start("killed", "killed").wait() == 0
    whole, killed = (np.load(tmp_path / f"{name}.npz") for name in ("whole", "killed"))
    for name in whole.files:
        np.testing.assert_array_equal(whole[name], killed[name])


def test_nan_stops_the_run_and_its_advice_can_be_followed(stopped_run):
    hot = replace(stopped_run.optimizer, learning_rate=1e30)
    with pytest.raises(NotFiniteError, match=r"not finite at step .*checkpoints/3"):
        train(replace(stopped_run, optimizer=hot))
    lower = replace(stopped_run.optimizer, learning_rate=1e-4)
    assert int(train(replace(stopped_run, optimizer=lower)).step) == 6


def test_another_config_is_refused_by_the_name_of_its_fields(ended_run):
    with pytest.raises(UserError, match="seed: 0 there, 1 here"):
        train(replace(ended_run, seed=1))


def test_a_batch_that_does_not_divide_is_refused(autoencoder_run):
    config = replace(autoencoder_run, data=replace(autoencoder_run.data, batch_size=12))
    with pytest.raises(UserError, match="multiple of 8"):
        train(config)
    assert not config.workdir.exists()


def test_a_damaged_checkpoint_is_passed_over_and_written_again(ended_run, ended, caplog):
    newest = ended_run.workdir / "checkpoints" / "6"
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    again = train(ended_run)
    assert "checkpoint 6 is damaged" in caplog.text
    assert newest.with_name("6.damaged").is_dir()
    _same(ended.state, again)
    caplog.clear()
    _same(ended.state, train(ended_run))  # which reads checkpoint 6
    assert not caplog.text.count("is damaged")


def test_where_no_checkpoint_can_be_read_nothing_is_lost(stopped_run):
    for file in (stopped_run.workdir / "checkpoints" / "3").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match="none of the checkpoints"):
        train(stopped_run)
    assert (stopped_run.workdir / "checkpoints" / "3").is_dir()


def test_a_mistake_does_not_claim_the_work_directory(autoencoder_run):
    wrong = replace(autoencoder_run, data=replace(autoencoder_run.data, source="shape"))
    with pytest.raises(UserError, match="unknown data source"):
        train(wrong)
    assert int(train(replace(autoencoder_run, num_steps=1)).step) == 1


def test_a_decaying_rate_keeps_its_last_step(autoencoder_run):
    cosine = replace(autoencoder_run.optimizer, schedule="cosine")
    train(replace(autoencoder_run, optimizer=cosine, num_steps=2))
    with pytest.raises(UserError, match="num_steps: 2 there, 6 here"):
        train(replace(autoencoder_run, optimizer=cosine))


def test_metrics_of_steps_that_come_again_are_dropped(stopped_run):
    metrics = stopped_run.workdir / "metrics.jsonl"
    done = metrics.read_text().splitlines()[:3]
    metrics.write_text("\n".join([*done, json.dumps({"step": 4, "loss": 99.0}), '{"step": 5, "lo']))
    train(stopped_run)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["loss"] < 99 for row in rows)


@pytest.mark.slow
def test_the_export_is_the_average_and_loads(autoencoder_run, tmp_path, monkeypatch):
    monkeypatch.setitem(loop.OBJECTIVES, AutoencoderObjective, autoencoder_objective)
    state = train(replace(autoencoder_run, num_steps=2, export=tmp_path / "out"))
    config, params = load_autoencoder(tmp_path / "out")
    assert config.scaling_factor != 1.0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3),
        params,
        jax.device_get(state.ema_params),
    )


@pytest.mark.slow
def test_training_goes_on_from_an_exported_model(diffusion_run, tmp_path):
    first = train(replace(diffusion_run, num_steps=3, export=tmp_path / "out"))
    objective = replace(diffusion_run.objective, init=tmp_path / "out")
    still = replace(diffusion_run.optimizer, learning_rate=0.0)
    second = train(
        replace(
            diffusion_run,
            objective=objective,
            optimizer=still,
            num_steps=1,
            workdir=tmp_path / "second",
        )
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3),
        jax.device_get(first.ema_params),
        jax.device_get(second.params),
    )


def test_config_json_holds_every_field(ended):
    written = json.loads((ended.config.workdir / "config.json").read_text())
    assert written == json.loads(json.dumps(to_json(ended.config)))
