"""Prompt to picture: same seed same picture however it is drawn, and nothing compiles twice."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdiff.diffusion.grids import GRIDS
from jaxdiff.diffusion.samplers import SAMPLERS
from jaxdiff.errors import UserError
from jaxdiff.models import attention
from jaxdiff.pipelines import Settings, TextToImage

PROMPTS = ["red heart", "cat face, noto style", "cat", "heart"]
FEW = dict(num_steps=3, guidance_scale=4.0)


@pytest.fixture(scope="module")
def pipe(tiny_model_dir):
    return TextToImage.load(tiny_model_dir)


@contextlib.contextmanager
def compilations():
    """A list that grows by one for every program that XLA compiles or loads."""
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _levels_apart(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


def test_pictures_are_uint8_and_differ_by_prompt_and_seed(pipe):
    pixels = pipe(PROMPTS[:2] + PROMPTS[:1], [7, 7, 8], **FEW)
    assert pixels.shape == (3, 16, 16, 3)
    assert pixels.dtype == np.uint8
    assert _levels_apart(pixels[0], pixels[1]) > 2
    assert _levels_apart(pixels[0], pixels[2]) > 2


def test_nothing_to_draw_is_said(pipe):
    with pytest.raises(UserError, match="nothing to draw"):
        pipe("cat", [])


@pytest.mark.parametrize("sampler", [pytest.param("dpmpp_2m", marks=pytest.mark.slow), "euler_a"])
def test_batch_and_position_do_not_change_a_picture(pipe, sampler):
    settings = FEW | {"sampler": sampler}
    prompts = PROMPTS * 3
    seeds = list(range(12))
    together = pipe(prompts, seeds, **settings)
    for i in (0, 3, 11):
        alone = pipe(prompts[i], [seeds[i]], **settings)
        assert _levels_apart(alone[0], together[i]) <= 1
    turned = pipe(prompts[::-1], seeds[::-1], **settings)
    assert _levels_apart(turned[::-1], together) <= 1


def test_pictures_of_eight_devices_are_those_of_one(pipe, tiny_model_dir, tmp_path):
    assert jax.device_count() == 8
    code = (
        "import sys, numpy as np\nfrom jaxdiff import platform\nplatform.configure()\n"
        "import jax\nassert jax.device_count() == 1\n"
        "from jaxdiff.pipelines import TextToImage\n"
        "pipe = TextToImage.load(sys.argv[1])\n"
        f"prompts, seeds = {PROMPTS * 2}, list(range(8))\n"
        f"np.save(sys.argv[2], pipe(prompts, seeds, sampler='euler_a', **{FEW}))\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    file = tmp_path / "one.npy"
    subprocess.run([sys.executable, "-c", code, tiny_model_dir, file], env=env, check=True)
    eight = pipe(PROMPTS * 2, list(range(8)), sampler="euler_a", **FEW)
    assert _levels_apart(np.load(file), eight) <= 1


@pytest.mark.slow
def test_a_kernel_that_must_be_cut_by_hand_draws_the_same(tiny_model, monkeypatch):
    monkeypatch.setattr(attention, "LONG", 128)
    prompts, seeds, drawn = PROMPTS * 2, list(range(8)), []
    for kernel in ("splash", "einsum"):
        unet = dataclasses.replace(tiny_model.unet_config, attention=kernel)
        pipe = TextToImage(dataclasses.replace(tiny_model, unet_config=unet))
        drawn.append(pipe(prompts, seeds, width=32, height=32, **FEW))
    assert _levels_apart(*drawn) <= 1


def test_prompt_seed_guidance_and_schedule_compile_nothing(pipe):
    pipe(PROMPTS[:2], [1, 2], **FEW)
    with compilations() as compiled:
        pipe(PROMPTS[2:], [3, 2**32 - 1], **FEW)
        pipe("a" * 10_000, [5, 6, 7], max_chunks=1, **FEW)
        pipe(PROMPTS[:2], [1, 2], num_steps=3, guidance_scale=1.0)
        pipe(PROMPTS[:2], [1, 2], num_steps=3, guidance_scale=7.5, guidance_rescale=0.7)
        pipe(PROMPTS[:2], [1, 2], guidance_interval=(0.2, 0.8), **FEW)
        pipe(PROMPTS[:2], [1, 2], negative_prompt="cat", **FEW)
        pipe(PROMPTS[:2], [1, 2], schedule="karras", **FEW)
        assert not compiled
        pipe(PROMPTS[:2], [1, 2], num_steps=4)
        assert compiled


def test_guidance_of_one_ignores_the_negative_prompt(pipe):
    off = dict(num_steps=3, guidance_scale=1.0)
    plain = pipe(PROMPTS, [1, 2, 3, 4], **off)
    np.testing.assert_array_equal(plain, pipe(PROMPTS, [1, 2, 3, 4], negative_prompt="cat", **off))
    assert _levels_apart(plain, pipe(PROMPTS, [1, 2, 3, 4], **FEW)) > 2
    own = pipe(PROMPTS[0], [1], negative_prompt=PROMPTS[0], **FEW)
    assert _levels_apart(own, plain[:1]) <= 1  # pushed away from itself: nowhere


def test_guidance_is_on_within_the_interval(pipe):
    """Three trailing steps visit t = 1, 2/3 and 1/3."""

    def drawn(scale, **interval):
        return pipe(PROMPTS, [1, 2, 3, 4], num_steps=3, guidance_scale=scale, **interval)

    always, never = drawn(4.0), drawn(1.0)
    np.testing.assert_array_equal(drawn(4.0, guidance_interval=(0.0, 1.0)), always)
    np.testing.assert_array_equal(drawn(4.0, guidance_interval=(0.3, 1.0)), always)
    np.testing.assert_array_equal(drawn(4.0, guidance_interval=(0.4, 0.6)), never)
    between = drawn(4.0, guidance_interval=(0.6, 0.7))
    assert _levels_apart(between, always) > 2 and _levels_apart(between, never) > 2


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde"])
def test_samplers_of_every_family_draw(pipe, sampler):
    assert sampler in SAMPLERS
    assert pipe("cat", [0], sampler=sampler, num_steps=3).std() > 0


@pytest.mark.parametrize("schedule", GRIDS)
def test_every_schedule_draws(pipe, schedule):
    assert pipe("cat", [0], schedule=schedule, **FEW).std() > 0


def test_steps_end_at_the_picture(pipe):
    plain = pipe(PROMPTS, [1, 2, 3, 4], num_steps=10, sampler="ddim")
    pixels, steps = pipe.with_steps(PROMPTS, [1, 2, 3, 4], num_steps=10, sampler="ddim")
    assert steps.shape == (4, 8, 16, 16, 3)
    assert _levels_apart(pixels, plain) <= 1
    assert _levels_apart(steps[:, -1], pixels) <= 1
    assert pipe.with_steps("cat", [1], num_steps=3)[1].shape == (1, 3, 16, 16, 3)


def test_given_latents_are_the_starting_noise(pipe):
    latents = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    first = pipe("cat", [1, 2], latents=latents, **FEW)
    np.testing.assert_array_equal(first, pipe("cat", [3, 4], latents=latents, **FEW))


def test_bfloat16_draws_about_the_same(pipe, tiny_model_dir):
    half = TextToImage.load(tiny_model_dir, dtype="bfloat16")
    a, b = (p("cat", [1], **FEW).astype(float) for p in (pipe, half))
    assert np.abs(a - b).mean() < 4
    assert half.recipe("cat", 1).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(sampler="eular"), "did you mean 'euler'"),
        (dict(schedule="linear"), "choose one of"),
        (dict(num_steps=0), "at least 1"),
        (dict(num_steps=5000), "1000 levels"),
        (dict(guidance_scale=float("nan")), "finite"),
        (dict(guidance_rescale=2.0), "0 to 1"),
        (dict(guidance_interval=(0.8, 0.2)), "0 to 1 in order"),
        (dict(guidance_interval=(0.5, 0.5)), "0 to 1 in order"),
        (dict(guidance_interval=(-0.1, 0.5)), "0 to 1 in order"),
        (dict(guidance_interval=(0.5, 1.1)), "0 to 1 in order"),
        (dict(guidance_interval=(float("nan"), 1.0)), "0 to 1 in order"),
    ],
)
def test_settings_out_of_range_are_refused(pipe, changes, message):
    with pytest.raises(UserError, match=message):
        pipe("cat", [0], **changes)


def test_seeds_and_prompts_must_fit(pipe):
    with pytest.raises(UserError, match="out of range"):
        pipe("cat", [2**32])
    with pytest.raises(UserError, match="2 prompts but 1 seeds"):
        pipe(["cat", "heart"], [1])
    with pytest.raises(UserError, match="unknown dtype"):
        TextToImage.load("anywhere", dtype="float8")


def test_a_model_recommends_its_settings(tiny_model):
    import dataclasses

    meta = tiny_model.meta | {"sampling": {"guidance_scale": 2.0, "sampler": "heun"}}
    pipe = TextToImage(dataclasses.replace(tiny_model, meta=meta))
    ours = dict(guidance_scale=2.0, sampler="heun", schedule="trailing", max_chunks=1)
    assert pipe.defaults == Settings(**ours)
    recipe = pipe.recipe("cat", 3, num_steps=5)
    assert (recipe.sampler, recipe.num_steps, recipe.seed) == ("heun", 5, 3)
    assert (recipe.model, recipe.licence) == ("tiny", "CC0-1.0")
    assert recipe.versions["jax"] == jax.__version__
    wrong = dataclasses.replace(tiny_model, meta={"sampling": {"cfg": 2.0}})
    with pytest.raises(UserError, match="unknown setting"):
        TextToImage(wrong)


def test_importing_the_pipeline_is_light():
    """No data set, checkpoint or optimiser library; and no jax before the pipeline is used."""
    code = (
        "import sys, json, jaxdiff.pipelines, jaxdiff.pipelines.cli\n"
        "early = [n for n in ('jax', 'flax') if n in sys.modules]\n"
        "jaxdiff.pipelines.TextToImage\n"
        "print(json.dumps([early, sorted({n.partition('.')[0] for n in sys.modules})]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    early, loaded = json.loads(result.stdout)
    assert not early
    heavy = {
        "tensorflow_datasets",
        "tensorflow",
        "grain",
        "orbax",
        "optax",
        "torch",
        "array_record",
    }
    assert not heavy & set(loaded)
