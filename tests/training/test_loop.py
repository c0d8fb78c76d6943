"""Whole runs: they resume exactly, spread equally, stop at NaN and refuse what does not fit."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiff.convert.autoencoder import load_autoencoder
from jaxdiff.errors import UserError
from jaxdiff.training.loop import NotFiniteError, train
from jaxdiff.training.workdir import to_json

ROOT = Path(__file__).parents[2]


def _losses(config):
    lines = (config.workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def _same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("run", ["autoencoder_run", "diffusion_run"])
def test_a_run_that_stopped_and_went_on_equals_one_that_did_not(run, request, tmp_path):
    config = request.getfixturevalue(run)
    whole = train(replace(config, workdir=tmp_path / "whole"))
    train(replace(config, num_steps=3))
    resumed = train(config)
    assert int(resumed.step) == 6
    _same(whole, resumed)
    assert _losses(config) == _losses(replace(config, workdir=tmp_path / "whole"))


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


def test_nan_stops_the_run_and_its_advice_can_be_followed(autoencoder_run):
    train(replace(autoencoder_run, num_steps=3))
    hot = replace(autoencoder_run.optimizer, learning_rate=1e30)
    with pytest.raises(NotFiniteError, match=r"not finite at step .*checkpoints/3"):
        train(replace(autoencoder_run, optimizer=hot))
    lower = replace(autoencoder_run.optimizer, learning_rate=1e-4)
    assert int(train(replace(autoencoder_run, optimizer=lower)).step) == 6


def test_another_config_is_refused_by_the_name_of_its_fields(autoencoder_run):
    train(replace(autoencoder_run, num_steps=1))
    other = replace(autoencoder_run, seed=1)
    with pytest.raises(UserError, match="seed: 0 there, 1 here"):
        train(other)


def test_a_batch_that_does_not_divide_is_refused(autoencoder_run):
    config = replace(autoencoder_run, data=replace(autoencoder_run.data, batch_size=12))
    with pytest.raises(UserError, match="multiple of 8"):
        train(config)
    assert not config.workdir.exists()


def test_a_damaged_checkpoint_is_passed_over_and_written_again(autoencoder_run, tmp_path, caplog):
    whole = train(replace(autoencoder_run, workdir=tmp_path / "whole"))
    train(autoencoder_run)
    newest = autoencoder_run.workdir / "checkpoints" / "6"
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    again = train(autoencoder_run)
    assert "checkpoint 6 is damaged" in caplog.text
    assert newest.with_name("6.damaged").is_dir()
    _same(whole, again)
    caplog.clear()
    _same(whole, train(autoencoder_run))  # which reads checkpoint 6
    assert not caplog.text.count("is damaged")


def test_where_no_checkpoint_can_be_read_nothing_is_lost(autoencoder_run):
    train(replace(autoencoder_run, num_steps=3))
    for file in (autoencoder_run.workdir / "checkpoints" / "3").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match="none of the checkpoints"):
        train(autoencoder_run)
    assert (autoencoder_run.workdir / "checkpoints" / "3").is_dir()


def test_a_mistake_does_not_claim_the_work_directory(diffusion_run):
    wrong = replace(diffusion_run, data=replace(diffusion_run.data, source="shape"))
    with pytest.raises(UserError, match="unknown data source"):
        train(wrong)
    assert int(train(replace(diffusion_run, num_steps=1)).step) == 1


def test_a_decaying_rate_keeps_its_last_step(autoencoder_run):
    cosine = replace(autoencoder_run.optimizer, schedule="cosine")
    train(replace(autoencoder_run, optimizer=cosine, num_steps=2))
    with pytest.raises(UserError, match="num_steps: 2 there, 6 here"):
        train(replace(autoencoder_run, optimizer=cosine))


def test_metrics_of_steps_that_come_again_are_dropped(autoencoder_run):
    train(replace(autoencoder_run, num_steps=3))
    metrics = autoencoder_run.workdir / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write(json.dumps({"step": 4, "loss": 99.0}) + "\n" + '{"step": 5, "lo')
    train(autoencoder_run)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["loss"] < 99 for row in rows)


def test_the_export_is_the_average_and_loads(autoencoder_run, tmp_path):
    state = train(replace(autoencoder_run, export=tmp_path / "out"))
    config, params = load_autoencoder(tmp_path / "out")
    assert config.scaling_factor != 1.0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3),
        params,
        jax.device_get(state.ema_params),
    )


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


def test_config_json_holds_every_field(autoencoder_run):
    train(replace(autoencoder_run, num_steps=1))
    written = json.loads((autoencoder_run.workdir / "config.json").read_text())
    assert written == json.loads(json.dumps(to_json(replace(autoencoder_run, num_steps=1))))
