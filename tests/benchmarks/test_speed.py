"""The benchmarks of the train step and of sampling: numbers that fit each other."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import measuring, processes, sampling, train_step
from benchmarks.random_model import weights
from jaxdiff.models import TextEncoderConfig

TRAIN = ("tiny", "--batches", "4", "--steps", "3")


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


def _rows(printed):
    """Rows of a printed table: cells by the name of their column."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _check_rates(row, seconds):
    """Rates that a row says are those of its seconds."""
    assert float(row["images/s"]) == pytest.approx(int(row["batch"]) / seconds, rel=0.01)
    assert float(row["TFLOP/s per device"]) > 0 and row["MFU"] == ""
    assert 0 < float(row["cached s"]) < float(row["compile s"])
    assert 0.05 < float(row["peak GB"]) < 16


@pytest.mark.slow
def test_train_step():
    args = train_step.Arguments("tiny", batches=(4,), steps=3)
    (what,) = train_step.combinations(args)
    with processes.empty_cache() as cache:
        given = {"what": what, "steps": args.steps, "flops": 1e9}
        found = processes.call(train_step.TABLE.target, given, **cache)
    assert 0 < found["min"] <= found["median"] and found["trace"] > 0
    assert found["tflops"] == pytest.approx(4e-3 / found["median"])
    cells = train_step.cells(what, found)
    row = dict(zip(train_step.TABLE.names, cells, strict=True)) | {"batch": "4"}
    _check_rates(row, found["median"])


@pytest.mark.slow
def test_train_step_table(capsys):
    assert train_step.main([*TRAIN]) == 0
    (row,) = _rows(capsys.readouterr().out)
    assert (row["preset"], row["batch"], row["remat"]) == ("tiny", "4", "none")
    _check_rates(row, float(row["s per step"]))


def test_sampling(tiny_model_dir, capsys):
    options = ["--batches", "2", "--steps", "2", "--rounds", "2"]
    assert sampling.main(["--model", str(tiny_model_dir), *options]) == 0
    (row,) = _rows(capsys.readouterr().out)
    assert (row["name"], row["attention"]) == (tiny_model_dir.name, "auto")
    seconds = float(row["s per batch"])
    assert float(row["s per picture"]) == pytest.approx(seconds / 2, rel=1e-3)
    _check_rates(row, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train.py", "sample.py"])
def test_breakdown(command, tiny_model_dir, capsys):
    if command == "train.py":
        code = train_step.main([*TRAIN, "--breakdown"])
    else:
        code = sampling.main(["--model", str(tiny_model_dir), "--steps", "2", "--breakdown"])
    assert code == 0
    (*stages, together) = _rows(capsys.readouterr().out)
    assert {"import jax", "compile"} <= {next(iter(row.values())) for row in stages}
    for column in ("cold s", "cached s"):
        parts = [float(row[column]) for row in stages]
        assert sum(parts) == pytest.approx(float(together[column]), abs=0.1)
        assert all(part >= 0 for part in parts)


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (train_step.main, ["lora"], "preset"),
        (train_step.main, ["tiny", "--source", "shapes"], "--breakdown"),
        (train_step.main, ["tiny", "--steps", "0"], "--steps"),
        (sampling.main, [], "--model or --family"),
        (sampling.main, ["--family", "sd9"], "family"),
        (sampling.main, ["--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(main, arguments, said, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err and not printed.out


def test_rates():
    seconds = [4.0, 2.0, 3.0]
    found = measuring.rates(seconds, images=6, flops=1e12)
    assert (found["median"], found["min"]) == (statistics.median(seconds), 2.0)
    assert found["images"] == 2.0
    assert found["tflops"] == pytest.approx(2.0 / jax.device_count())


def test_stages_of_a_function():
    staged = measuring.Staged(jax.jit(lambda x, *, power: x**power, static_argnames="power"))
    for x in (jnp.arange(3.0), jnp.arange(3.0) + 1, jnp.arange(2.0)):
        np.testing.assert_array_equal(staged(x, power=2), x**2)
    assert len(staged._stages) == 2 and staged.first[1] == {"power": 2}
    assert staged.trace > 0 and staged.compile > 0


def test_random_weights():
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    config = TextEncoderConfig(vocab_size=40, num_attention_heads=2, **sizes)
    params = weights(config, "bfloat16")
    norm = params["final_layer_norm"]["scale"]
    assert norm.dtype == jnp.bfloat16 and abs(norm.astype(np.float32) - 1).max() < 0.2
