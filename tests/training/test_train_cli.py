"""`train.py` as a user meets it: mistakes get one line and exit code 2, before any compile."""

import importlib.util
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxdiff.convert import save_controlnet
from jaxdiff.models import controlnet_config, parameter_shapes
from jaxdiff.training import loop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def alone(script, monkeypatch):
    """No cluster is asked: a process that has used its devices may not ask one."""
    monkeypatch.setattr(script, "connect", lambda hosts, **options: None)


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
        (["tiny", "--plan", "v5e:3x5"], "of v5e there are: v5e:2x2, v5e:2x4"),
        (["tiny", "--plan", "v5f:4x4"], "unknown topology 'v5f:4x4'"),
        (["tiny", "--plan"], "expected one argument"),
        (["tiny", "--plan-batches"], "need --plan TOPOLOGY"),
        (["lora", "--plan", "cpu:1"], "a plan wants a preset that trains from scratch"),
        (["tiny", "--plan", "cpu:8", "--data.batch-size", "12"], "data.batch_size=12 does not"),
        (["tiny", "--precompute"], "--precompute needs --data.cache"),
        (["sd15", "--workdir", "{tmp}/w", "--mesh.fsdp", "1"], "'folder:' names nothing"),
        (["sd15", "--objective.prediction", "v"], "set objective.method.noise.prediction"),
        (
            ["tiny", "--workdir", "{tmp}/w", "--checkpoints", "gs://bucket/run"],
            "pip install gcsfs",
        ),
        (["tiny", "--stopped-exit-code", "x"], "invalid int value: 'x'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(script, arguments, message, tmp_path, capsys):
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert script.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("step", "flags", "code"), [(3, [], 0), (3, ["--stopped-exit-code", "75"], 75), (9, [], 0)]
)
def test_a_run_that_was_told_to_stop_can_say_so(step, flags, code, script, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda config: SimpleNamespace(step=step))
    arguments = ["tiny", "--num-steps", "9", *flags]
    if code:
        with pytest.raises(SystemExit) as leave:
            script.main(arguments)
        assert leave.value.code == code
    else:
        assert script.main(arguments) == 0


@pytest.fixture(scope="module")
def refused(tiny_model_dir, large_model, tmp_path_factory):
    """Models to start from that cannot be used."""
    folder = tmp_path_factory.mktemp("refused")
    for name in ("parts", "cut"):
        shutil.copytree(tiny_model_dir, folder / name)
    (folder / "parts" / "model_index.json").unlink()
    weights = folder / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (folder / "model.ckpt").write_bytes(pickle.dumps({}))
    config = controlnet_config(
        large_model.unet_config, conditioning_embedding_out_channels=(4, 8), in_channels=4
    )
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), parameter_shapes(config))
    save_controlnet(folder / "canny", config, zeros)
    return folder


@pytest.mark.parametrize(
    ("preset", "option", "name", "message"),
    [
        ("finetune", "model", "parts", "parts/model_index.json is missing"),
        ("lora", "model", "cut", "diffusion_pytorch_model.safetensors is truncated"),
        ("lora", "model", "model.ckpt", "model.ckpt is a pickle"),
        ("textual-inversion", "model", "canny", "canny/model_index.json is missing"),
        ("controlnet", "method.init", "canny", "canny needs a model of the family sdxl or"),
    ],
)
def test_a_model_that_cannot_be_used_leaves_nothing_behind(
    script, refused, pictures_dir, tiny_model_dir, tmp_path, capsys, preset, option, name, message
):
    model = ["--objective.model", str(tiny_model_dir)] if option != "model" else []
    code = script.main(
        [preset, "--workdir", f"{tmp_path}/w", "--export", f"{tmp_path}/x.safetensors"]
        + ["--data.source", f"folder:{pictures_dir}", "--data.resolution", "16"]
        + ["--data.batch-size", "8"]
        + [*model, f"--objective.{option}", str(refused / name)]
    )
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.splitlines()[-1].startswith("error: ") and message in printed.err
    assert not list(tmp_path.iterdir())


def test_help_explains_every_field(script, capsys):
    with pytest.raises(SystemExit) as leave:
        script.main(["tiny", "--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--workdir", "--optimizer.clip-norm", "--objective.unet.remat", "--data.flip"):
        assert flag in text
