"""`train.py` as a user meets it: mistakes get one line and exit code 2, before any compile."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emojj"], "unknown preset 'emojj' (did you mean 'emoji64'?)"),
        (["tiny", "--no-such-field", "1"], "--no-such-field"),
        (["tiny", "--seed", "abc"], "--seed"),
        (["tiny", "--optimizer.learning-rate", "-1"], "optimizer.learning_rate must be at least 0"),
        (["tiny", "--objective.noise.schedule", "sine"], "--objective.noise.schedule"),
        (["tiny"], "--workdir is missing"),
        (["tiny", "--workdir", "/dev/null/x"], "cannot use --workdir /dev/null/x"),
        (["tiny", "--workdir", "{tmp}/w", "--data.source", "shape"], "unknown data source"),
        (["tiny", "--workdir", "{tmp}/w", "--export", "/dev/null/x"], "/dev/null/x"),
        (["tiny", "--workdir", "{tmp}/w", "--objective.autoencoder", "{tmp}"], "no autoencoder"),
        (["finetune", "--workdir", "{tmp}/w"], "'folder:' names nothing"),
        (
            ["lora", "--data.batch-size", "8", "--workdir", "{tmp}/w", "--export", "{tmp}/x"],
            "NAME.safetensors",
        ),
        (["lora", "--objective.method.rank", "0"], "objective.method.rank must be at least 1"),
        (["controlnet", "--data.no-conditioning"], "a ControlNet needs data.conditioning"),
        (["finetune", "--objective.prior.prompt", "a dog"], "objective.prior.prompt needs"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(script, arguments, message, tmp_path, capsys):
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert script.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("error: ") and message in line


def test_help_explains_every_field(script, capsys):
    with pytest.raises(SystemExit) as leave:
        script.main(["tiny", "--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--workdir", "--optimizer.clip-norm", "--objective.unet.remat", "--data.flip"):
        assert flag in text
