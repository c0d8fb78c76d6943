"""Several processes on one machine: how they agree, fail and compute as one."""

import json
import pickle
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.training import hosts
from jaxdiff.training.hosts import Hosts, connect, split_flags
from jaxdiff.training.options import MeshConfig

ROOT = Path(__file__).parents[2]
POD = ROOT / "tests" / "support" / "pod.py"


def test_flags_of_hosts_are_taken_from_the_command_line():
    flags = "--coordinator a:1 --num-processes 2 --process-id 1".split()
    assert split_flags(["tiny", *flags, "--seed", "3"]) == (
        Hosts("a:1", 2, 1),
        ["tiny", "--seed", "3"],
    )
    assert split_flags(["tiny", "--num-processes", "1"]) == (Hosts(num_processes=1), ["tiny"])
    assert split_flags(["tiny"]) == (Hosts(), ["tiny"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--coordinator a:1 --num-processes 2", "--process-id is missing"),
        ("--num-processes 2", "--coordinator and --process-id is missing"),
        ("--num-processes two", "invalid int value: 'two'"),
    ],
)
def test_flags_that_say_half_of_it_are_refused(flags, said):
    with pytest.raises(UserError, match=said):
        split_flags(flags.split())


@pytest.mark.parametrize(
    "error",
    [
        KeyError("SLURM_JOB_ID"),
        TypeError("process_id must be a nonnegative int"),
        OSError("no service account:\n/var/run/secrets"),
        RuntimeError("deadline exceeded"),
        ValueError("process_id and num_processes must be nonnegative"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_cluster_that_cannot_be_asked_is_one_line_of_advice(error, monkeypatch):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(hosts.jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match=rf"\({type(error).__name__}: .*--num-processes 1 to run"):
        connect(Hosts())


def test_where_no_cluster_answers_a_process_runs_alone(monkeypatch):
    def no_cluster(*arguments, **named):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts.jax.distributed, "initialize", no_cluster)
    connect(Hosts())


def _port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _environment(devices):
    return {
        "PATH": "/usr/bin:/bin",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "HOME": str(Path.home()),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def _start(command, processes, devices):
    """The processes of a run, each of `devices` CPU devices."""
    flags, port = [], _port()
    started = []
    for number in range(processes):
        if processes > 1:
            flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes)]
            flags += ["--process-id", str(number)]
        started.append(
            subprocess.Popen(
                [sys.executable, *command(number), *flags],
                env=_environment(devices),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def _ends(processes, timeout=300):
    """(exit code, output) of each."""
    said = [process.communicate(timeout=timeout)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


_TALK = """
import sys, time
from jaxdiff import platform
platform.configure()
from jaxdiff.cli import exit_code
from jaxdiff.training import hosts
what = sys.argv.pop(1)
flags, _ = hosts.split_flags(sys.argv[1:])
hosts.connect(flags, stops_together=what != "terminate")
import jax
me = jax.process_index()
def run():
    while what == "terminate":
        print("alive", flush=True)
        time.sleep(0.2)
    if what == "disagree":
        hosts.require_agreement({"seed": 0, "optimizer.learning_rate": 0.1 * min(me, 1)})
    while what == "die":
        assert hosts.all_say(True)
        print("alive", flush=True)
        time.sleep(0.2)
        if me == 1:
            raise MemoryError("this one is lost")
sys.exit(hosts.exit_together(lambda: exit_code(run)))
"""


def test_processes_that_disagree_are_named():
    for code, said in _ends(_start(lambda _: ["-c", _TALK, "disagree"], 2, 1)):
        assert code == 2
        assert "process 1 has optimizer.learning_rate=0.1, process 0 0.0" in said


def test_a_process_that_fails_stops_the_others_within_a_minute():
    processes = _start(lambda _: ["-c", _TALK, "die"], 2, 1)
    lost = processes[1].communicate(timeout=300)[0]
    assert processes[1].returncode == 1 and "this one is lost" in lost
    begin = time.monotonic()
    ((code, said),) = _ends(processes[:1])
    assert time.monotonic() - begin < 60
    assert code != 0 and "alive" in said
    assert "process 0 stops" in said or "another task died" in said


def test_sigterm_ends_what_does_not_train():
    processes = _start(lambda _: ["-c", _TALK, "terminate"], 2, 1)
    assert processes[1].stdout.readline() == "alive\n"
    processes[1].terminate()
    assert processes[1].wait(timeout=60) == -signal.SIGTERM
    processes[0].kill()
    _ends(processes)


def _run(config, tmp_path, processes, devices):
    """Start a run; its work directory has its name."""
    name = f"p{processes}"
    given = tmp_path / f"{name}.pickle"
    given.write_bytes(pickle.dumps(replace(config, workdir=tmp_path / name)))
    return _start(lambda _: [POD, given, tmp_path / name], processes, devices)


def _losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


@pytest.mark.parametrize(
    ("processes", "how"),
    [
        (2, {}),
        pytest.param(2, {"parallel": "pmap"}, marks=pytest.mark.slow),
        pytest.param(4, {}, marks=pytest.mark.slow),
    ],
    ids=["2", "2-pmap", "4"],
)
def test_processes_compute_what_one_with_all_devices_does(processes, how, toy_run, tmp_path):
    config = replace(toy_run, num_steps=20, checkpoint_every=10, **how)
    alone = _ends(_run(config, tmp_path, 1, 2 * processes))
    together = _ends(_run(config, tmp_path, processes, 2))
    assert [code for code, _ in alone + together] == [0] * (1 + processes), together
    name = f"p{processes}"
    one, many = (_losses(tmp_path / run) for run in ("p1", name))
    assert len(one) == 20
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-6)

    reports = [np.load(tmp_path / f"{name}-{number}.npz") for number in range(processes)]
    read = np.stack([report["read"] for report in reports])  # [process, step, row]
    assert read.shape == (processes, 20, 8 // processes)
    assert len(np.unique(read)) == read.size == 160  # no example, so no noise, twice
    (first, *others) = [set(report["written"].tolist()) for report in reports]
    assert {"metrics.jsonl"} <= first
    for wrote in others:
        assert all(name.startswith("checkpoints") for name in wrote)


@pytest.mark.slow
def test_damage_that_one_process_meets_is_passed_over_by_all(toy_run, tmp_path):
    config = replace(toy_run, num_steps=4, checkpoint_every=2, mesh=MeshConfig(data=1, fsdp=-1))
    ends = _ends(_run(config, tmp_path, 2, 1))
    assert [code for code, _ in ends] == [0, 0], ends
    newest = tmp_path / "p2" / "checkpoints" / "4" / "state"
    files = [file for file in (newest / "ocdbt.process_1" / "d").iterdir() if file.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:10])
    ends = _ends(_run(config, tmp_path, 2, 1))
    assert [code for code, _ in ends] == [0, 0], ends
    assert "checkpoint 4 is damaged, trying an older one: another process" in ends[0][1]
    assert all("resuming at step 2" in said for _, said in ends)


@pytest.mark.slow
def test_train_py_names_options_that_processes_disagree_about(tmp_path):
    def command(number):
        options = ["--workdir", tmp_path / "run", "--optimizer.learning-rate", f"0.{number + 1}"]
        return [ROOT / "train.py", "tiny", *map(str, options)]

    for code, said in _ends(_start(command, 2, 1)):
        assert code == 2
        assert "process 1 has optimizer.learning_rate=0.2, process 0 0.1" in said
        assert "compiling" not in said and "step 1" not in said
    assert not (tmp_path / "run").exists()


def _wait_for_steps(processes, tmp_path, count):
    metrics = tmp_path / "p2" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < count:
        assert processes[0].poll() is None
        time.sleep(0.1)


@pytest.mark.slow
def test_a_process_that_is_killed_stops_the_others_within_a_minute(toy_run, tmp_path):
    config = replace(toy_run, num_steps=100_000, checkpoint_every=50_000, log_every=10)
    processes = _run(config, tmp_path, 2, 1)
    _wait_for_steps(processes, tmp_path, 3)
    begin = time.monotonic()
    processes[1].kill()
    (code, said), (killed, _) = _ends(processes)
    assert time.monotonic() - begin < 60
    assert killed == -signal.SIGKILL and code != 0
    assert "process 0 stops" in said or "another task died" in said, said


@pytest.mark.slow
def test_sigterm_of_one_process_saves_and_ends_all(toy_run, tmp_path):
    config = replace(toy_run, num_steps=100_000, checkpoint_every=50_000, log_every=10)
    processes = _run(config, tmp_path, 2, 1)
    _wait_for_steps(processes, tmp_path, 3)
    processes[1].send_signal(signal.SIGTERM)
    ends = _ends(processes)
    assert [code for code, _ in ends] == [0, 0], ends
    assert "told to stop" in ends[0][1]
    (step,) = [path.name for path in (tmp_path / "p2" / "checkpoints").iterdir()]
    assert 20 < int(step) < 50_000
