"""`python sample.py`: pictures with their recipes, and one clear line for every mistake."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff import provenance
from jaxdiff.diffusion.grids import GRIDS
from jaxdiff.diffusion.samplers import SAMPLERS
from jaxdiff.pipelines import cli

ROOT = Path(__file__).parents[1]
FEW = ["--steps", "3"]


@pytest.fixture
def run(tiny_model_dir, tmp_path, monkeypatch, capsys):
    """Run the command line in this process, in an empty directory: (code, lines out, lines err)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, model=tiny_model_dir):
        extra = [] if model is None else ["--model", str(model)]
        code = cli.main([*map(str, arguments), *extra])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return call


def test_pictures_and_recipes(run):
    code, out, err = run("red heart", "cat", "--num-images", 2, "--seed", 5, *FEW)
    assert code == 0
    assert out == [f"out/{name}.png" for name in ("red-heart-5", "red-heart-6", "cat-5", "cat-6")]
    assert err[0].startswith("4 pictures of 16x16 by tiny (")
    pixels, recipe = provenance.read_png(out[1])
    assert pixels.shape == (16, 16, 3)
    assert (recipe.prompt, recipe.seed, recipe.num_steps) == ("red heart", 6, 3)
    assert provenance.source_type(out[1]) == provenance.TRAINED
    assert "Steps: 3, Sampler: DPM++ 2M" in Image.open(out[1]).text["parameters"]


def test_the_same_command_writes_the_same_files(run):
    _, first, _ = run("cat", *FEW)
    before = Path(first[0]).read_bytes()
    _, second, _ = run("cat", *FEW)
    assert second == first
    assert Path(first[0]).read_bytes() == before
    _, third, _ = run("cat", "--steps", 4)
    assert third == ["out/cat-0-2.png"]


def test_prompts_file_and_seeds(run, tmp_path):
    (tmp_path / "p.txt").write_text("cat\nred heart\n")
    code, out, _ = run("heart", "--prompts-file", "p.txt", "--seeds", "0,3-4", "--out", "a/b", *FEW)
    assert code == 0
    assert len(out) == 9
    assert out[-1] == "a/b/red-heart-4.png"


def test_show_steps(run):
    code, out, _ = run("cat", "--show-steps", *FEW)
    assert code == 0
    assert out == ["out/cat-0.png", "out/cat-0-steps.png"]
    assert Image.open(out[1]).size == (3 * 16, 16)
    code, _, err = run("--recreate", out[1])
    assert code == 2
    assert "is a strip of steps" in err[0]


def test_recreate(run, tiny_model, tmp_path):
    _, [path], _ = run("cat", "--seed", 9, "--sampler", "euler_a", "--guidance-scale", 2.5, *FEW)
    code, out, err = run("--recreate", path)
    assert code == 0
    assert out == ["out/cat-9-recreated.png"]
    assert err[-1] == f"equal to {path}"
    np.testing.assert_array_equal(provenance.read_png(out[0])[0], provenance.read_png(path)[0])


def test_recreate_wants_the_same_model(run, tiny_model, tmp_path):
    from jaxdiff.convert import save_model

    _, [path], _ = run("cat", *FEW)
    save_model(tmp_path / "other", tiny_model, np.float32)
    code, _, err = run("--recreate", path, model=tmp_path / "other")
    assert code == 2
    assert "was drawn by model tiny" in err[0]


def test_a_long_prompt_says_what_was_cut(run):
    code, out, err = run("cat " * 2500, *FEW)
    assert code == 0
    assert "of a prompt of 10000 characters the last " in err[0]
    assert len(err[0]) < 250
    assert len(out) == 1


MISTAKES = {
    "sampler": (["cat", "--sampler", "eular"], "did you mean 'euler'"),
    "schedule": (["cat", "--schedule", "linear"], "unknown schedule 'linear'"),
    "flag": (["cat", "--samplr", "lcm"], "--samplr, lcm; perhaps you meant --sampler"),
    "steps": (["cat", "--steps", "0"], "at least 1"),
    "no prompt": ([], "nothing to draw"),
    "empty prompts file": (["--prompts-file", "empty.txt"], "holds no prompt"),
    "no prompts file": (["--prompts-file", "nowhere.txt"], "No such file"),
    "seed": (["cat", "--seed", "seven"], "--seed"),
    "seeds": (["cat", "--seeds", "1-x"], "'1-x' is no number"),
    "empty seeds": (["cat", "--seeds", ""], "'' is no number"),
    "negative seed": (["cat", "--seed=-1"], "out of range"),
    "both seeds": (["cat", "--seeds", "1", "--seed", "2"], "give either"),
    "number of pictures": (["cat", "--num-images", "0"], "at least 1"),
    "dtype": (["cat", "--dtype", "float8"], "unknown dtype"),
    "rescale": (["cat", "--guidance-rescale", "3"], "0 to 1"),
    "out": (["cat", "--out", "empty.txt/out"], "cannot be written"),
    "no such picture": (["--recreate", "nowhere.png"], "does not exist"),
    "no recipe": (["--recreate", "bare.png"], "carries no recipe"),
    "no picture": (["--recreate", "empty.txt"], "not a readable picture"),
    "recreate and prompt": (["cat", "--recreate", "bare.png"], "leave out prompts"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_clear_line(run, tmp_path, name):
    (tmp_path / "empty.txt").write_text("\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    arguments, message = MISTAKES[name]
    code, out, err = run(*arguments)
    assert code == 2
    assert not out
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert message in err[0]


@pytest.mark.parametrize("spoil", ["missing", "truncated", "shapes", "no directory"])
def test_models_that_do_not_load(run, tiny_model_dir, tmp_path, spoil):
    from jaxdiff.convert.tensors import read_tensors, write_tensors

    model = shutil.copytree(tiny_model_dir, tmp_path / "m")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    if spoil == "missing":
        file.unlink()
    elif spoil == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif spoil == "shapes":
        tensors = read_tensors([file])
        write_tensors(file, tensors | {"conv_out.bias": np.zeros(3)}, np.float16)
    else:
        shutil.rmtree(model)
    code, out, err = run("cat", model=model)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"error: {model}")


def test_help_names_every_choice():
    samplers, schedules = (cli.Arguments.__dataclass_fields__[n] for n in ("sampler", "schedule"))
    text = (ROOT / "jaxdiff" / "pipelines" / "arguments.py").read_text()

    def help_of(field):
        """The docstring under a field, which tyro shows."""
        return text.split(f"    {field}: str | None = None\n", 1)[1].split('"""')[1]

    assert set(re.findall(r"\w+", help_of("sampler"))) >= set(SAMPLERS)
    assert set(re.findall(r"\w+", help_of("schedule"))) >= set(GRIDS)
    assert samplers.default is schedules.default is None


def test_the_script(tiny_model_dir, tmp_path):
    """As a user runs it: a fresh process, and a mistake that jax never sees."""
    command = [sys.executable, str(ROOT / "sample.py")]
    drawn = subprocess.run(
        [*command, "cat", "--model", str(tiny_model_dir), "--steps", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout == "out/cat-0.png\n"
    wrong = subprocess.run(
        [sys.executable, "-X", "importtime", *command[1:], "cat", "--seeds", "x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("error: seeds 'x'")
    assert "jax._src" not in wrong.stderr
