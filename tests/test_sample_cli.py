"""`python sample.py`: pictures with their recipes, and one clear line for every mistake."""

import pickle
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


def test_pictures_and_recipes(sample_py):
    code, out, err = sample_py("red heart", "cat", "--num-images", 2, "--seed", 5, *FEW)
    assert code == 0
    assert out == [f"out/{name}.png" for name in ("red-heart-5", "red-heart-6", "cat-5", "cat-6")]
    assert err[0].startswith("4 pictures of 16x16 by tiny (")
    pixels, recipe = provenance.read_png(out[1])
    assert pixels.shape == (16, 16, 3)
    assert (recipe.prompt, recipe.seed, recipe.num_steps) == ("red heart", 6, 3)
    assert provenance.source_type(out[1]) == provenance.TRAINED
    assert "Steps: 3, Sampler: DPM++ 2M" in Image.open(out[1]).text["parameters"]


def test_the_same_command_writes_the_same_files(sample_py):
    _, first, _ = sample_py("cat", *FEW)
    before = Path(first[0]).read_bytes()
    _, second, _ = sample_py("cat", *FEW)
    assert second == first
    assert Path(first[0]).read_bytes() == before
    _, third, _ = sample_py("cat", "--steps", 4)
    assert third == ["out/cat-0-2.png"]


def test_prompts_file_and_seeds(sample_py, tmp_path):
    (tmp_path / "p.txt").write_text("cat\nred heart\n")
    code, out, _ = sample_py(
        "heart", "--prompts-file", "p.txt", "--seeds", "0,3-4", "--out", "a/b", *FEW
    )
    assert code == 0
    assert len(out) == 9
    assert out[-1] == "a/b/red-heart-4.png"


def test_show_steps(sample_py):
    code, out, _ = sample_py("cat", "--show-steps", *FEW)
    assert code == 0
    assert out == ["out/cat-0.png", "out/cat-0-steps.png"]
    assert Image.open(out[1]).size == (3 * 16, 16)
    code, _, err = sample_py("--recreate", out[1])
    assert code == 2
    assert "is a strip of steps" in err[0]


def test_recreate(sample_py, tiny_model, tmp_path):
    guidance = ["--guidance-scale", 2.5, "--guidance-interval", "0.2,0.8"]
    _, [path], _ = sample_py("cat", "--seed", 9, "--sampler", "euler_a", *guidance, *FEW)
    assert provenance.read_png(path)[1].guidance_interval == (0.2, 0.8)
    code, out, err = sample_py("--recreate", path)
    assert code == 0
    assert out == ["out/cat-9-recreated.png"]
    assert err[-1] == f"equal to {path}"
    np.testing.assert_array_equal(provenance.read_png(out[0])[0], provenance.read_png(path)[0])


def test_recreate_wants_the_same_model(sample_py, tiny_model, tmp_path):
    from jaxdiff.convert import save_model

    _, [path], _ = sample_py("cat", *FEW)
    save_model(tmp_path / "other", tiny_model, np.float32)
    code, _, err = sample_py("--recreate", path, model=tmp_path / "other")
    assert code == 2
    assert "was drawn by model tiny" in err[0]


def test_a_long_prompt_says_what_was_cut(sample_py):
    code, out, err = sample_py("cat " * 2500, *FEW)
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
    "interval": (["cat", "--guidance-interval", "0.2"], "LOW,HIGH"),
    "interval of words": (["cat", "--guidance-interval", "low,high"], "LOW,HIGH"),
    "interval turned round": (["cat", "--guidance-interval", "0.8,0.2"], "0 to 1 in order"),
    "out": (["cat", "--out", "empty.txt/out"], "cannot be written"),
    "no such picture": (["--recreate", "nowhere.png"], "does not exist"),
    "no recipe": (["--recreate", "bare.png"], "carries no recipe"),
    "no picture": (["--recreate", "empty.txt"], "not a readable picture"),
    "recreate and prompt": (["cat", "--recreate", "bare.png"], "leave out prompts"),
    "mask alone": (["cat", "--mask", "bare.png"], "--mask does nothing without --init-image"),
    "strength alone": (["cat", "--strength", "0.5"], "does nothing without --init-image"),
    "mask of another size": (
        ["cat", "--init-image", "photo.png", "--mask", "bare.png"],
        "mask bare.png is 4x4, but its picture photo.png is 16x16",
    ),
    "negative": (["cat", "--init-image", "photo.png", "--strength", "-0.1"], "give 0 to 1"),
    "strength": (["cat", "--init-image", "photo.png", "--strength", "1.2"], "give 0 to 1"),
    "no init image": (["cat", "--init-image", "no.png"], "init image no.png does not exist"),
    "init image": (["cat", "--init-image", "empty.txt"], "empty.txt (init image)"),
    "size": (["cat", "--width", "17"], "no multiple of the 2 pixels"),
    "outpaint": (["cat", "--init-image", "photo.png", "--outpaint", "64"], "LEFT,TOP,RIGHT,BOTTOM"),
    "control image": (["cat", "--controlnet", "net:empty.txt"], "empty.txt (control image)"),
    "no controlnet": (["cat", "--controlnet", "no/net:photo.png"], "no/net"),
    "controlnet": (["cat", "--controlnet", "net"], "DIR:IMAGE[:WEIGHT[:START-END]]"),
    "control range": (["cat", "--controlnet", "net:photo.png:1:0.7-0.2"], "run from 0.7 to 0.2"),
    "no LoRA": (["cat", "--lora", "no.safetensors:0.5"], "no.safetensors does not exist"),
    "pickled LoRA": (["cat", "--lora", "pickle.pt"], "pickle.pt"),
    "pickled embedding": (["cat", "--embedding", "pickle.pt"], "pickle.pt"),
    "no LoRA at all": (["cat", "--lora", "bare.png"], "bare.png"),
    "no embedding": (["cat", "--embedding", "no.safetensors"], "does not exist"),
    "prediction": (["cat", "--prediction", "epsilon"], "choose one of"),
    "hook": (["cat", "--watermark", "os:no_such_function"], "cannot be imported"),
    "tile": (["cat", "--tile", "3"], "give a multiple of 2"),
    "clip skip": (["cat", "--clip-skip", "9"], "clip skip is 9; text_encoder has layers for 0 to"),
    "weak": (["cat", "--init-image", "photo.png", "--strength", "0.01"], "takes none of 25 steps"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_clear_line(sample_py, tmp_path, name):
    (tmp_path / "empty.txt").write_text("\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({}))
    arguments, message = MISTAKES[name]
    code, out, err = sample_py(*arguments)
    assert code == 2
    assert not out
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert message in err[0]
    assert not (tmp_path / "out").exists()


def test_pictures_that_went_in_and_drawn_again(sample_py, tmp_path):
    """Redrawn within a mask, recreated from the same files, refused from others."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (16, 16, 3), np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:] = 255
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(photo[::-1]).save(tmp_path / "other.png")
    files = ["--init-image", "photo.png", "--mask", "mask.png"]
    code, [path], err = sample_py("cat (face", *files, "--strength", 0.7, *FEW)
    assert code == 0
    assert "unbalanced brackets: '('" in err[0]
    assert "from photo.png at strength 0.7" in err[1]
    pixels, recipe = provenance.read_png(path)
    np.testing.assert_array_equal(pixels[mask == 0], photo[mask == 0])
    assert provenance.source_type(path) == provenance.COMPOSITE
    assert (recipe.strength, recipe.mask["name"]) == (0.7, "mask.png")
    text = Image.open(path).text["parameters"]
    assert "Denoising strength: 0.7, Init image: photo.png, Mask: mask.png" in text
    code, out, err = sample_py("--recreate", path, *files)
    assert (code, err[-1]) == (0, f"equal to {path}")
    for given, message in (
        ([], "was drawn with init image photo.png"),
        (["--init-image", "other.png", "--mask", "mask.png"], "but other.png is another file"),
        (["--init-image", "photo.png"], "was drawn with mask mask.png"),
        ([*files, "--lora", "photo.png"], "was drawn without LoRA photo.png"),
    ):
        code, out, err = sample_py("--recreate", path, *given)
        assert (code, out) == (2, [])
        assert message in err[0]


def test_models_that_take_part_and_drawn_again(sample_py, tiny_model, tmp_path):
    """A ControlNet, a LoRA and a hook from the command line."""
    import jax

    from jaxdiff.convert import save_controlnet
    from jaxdiff.convert.lora import Lora, save_lora
    from jaxdiff.models import controlnet_config, parameter_shapes
    from jaxdiff.models.lora import init_lora

    config = controlnet_config(
        tiny_model.unet_config, conditioning_embedding_out_channels=(4, 8), in_channels=4
    )
    shapes = parameter_shapes(config)
    save_controlnet(
        tmp_path / "net", config, jax.tree.map(lambda x: np.ones(x.shape) * 0.01, shapes)
    )
    layers = init_lora(jax.random.key(0), tiny_model.unet_params, "to_q$", 2, 2.0)
    layers = {path: layer._replace(up=layer.up + 0.3) for path, layer in layers.items()}
    save_lora(tmp_path / "ink.safetensors", Lora(layers, {}, {}), tiny_model)
    Image.new("RGB", (16, 16), "red").save(tmp_path / "edges.png")
    files = ["--controlnet", "net:edges.png:0.5:0-0.8", "--lora", "ink.safetensors:0.7"]
    code, [path], _ = sample_py("cat", *files, *FEW)
    assert code == 0
    recipe = provenance.read_png(path)[1]
    [net], [used] = recipe.controlnets, recipe.loras
    assert (net["name"], net["image"], net["weight"], net["end"]) == ("net", "edges.png", 0.5, 0.8)
    assert (used["name"], used["weight"]) == ("ink.safetensors", 0.7)
    text = Image.open(path).text["parameters"]
    assert f'Lora hashes: "ink.safetensors: {used["hash"]}"' in text
    assert 'ControlNet 0: "Model: net [' in text
    again = ["--controlnet", "net:edges.png", "--lora", "ink.safetensors"]
    code, _, err = sample_py("--recreate", path, *again)
    assert (code, err[-1]) == (0, f"equal to {path}")
    code, _, err = sample_py("--recreate", path, *again[:3], "ink.safetensors:0.2")
    assert code == 2 and "at 0.7, not 0.2" in err[0]


@pytest.mark.parametrize("spoil", ["missing", "truncated", "shapes", "no directory"])
def test_models_that_do_not_load(sample_py, tiny_model_dir, tmp_path, spoil):
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
    code, out, err = sample_py("cat", model=model)
    assert (code, out, len(err)) == (2, [], 1)
    assert not (tmp_path / "out").exists()
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
        [*command, "cat", "--model", str(tiny_model_dir), "--steps", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout == "out/cat-0.png\n"
    assert drawn.stderr.startswith("1 picture of 16x16") and ", 1 step, " in drawn.stderr
    wrong = subprocess.run(
        [sys.executable, "-X", "importtime", *command[1:], "cat", "--seeds", "x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("error: seeds 'x'")
    assert "jax._src" not in wrong.stderr
