"""Distillation: only the student moves, and what is exported draws in four steps."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from short_training import build, one_loss, train_shortly

from jaxdiff.convert import load_model, save_model
from jaxdiff.convert.lora import Lora, load_lora
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.pipelines.settings import default_settings
from jaxdiff.pipelines.text_to_image import TextToImage
from jaxdiff.training.config import (
    DistilConfig,
    FullMethod,
    LoraMethod,
    LossConfig,
    PreviewConfig,
    TextualInversionMethod,
)
from jaxdiff.training.objective import tile

STUDENTS = {"whole": FullMethod(), "lora": LoraMethod(rank=2, targets="all")}


def with_objective(run, **changes):
    return replace(run, objective=replace(run.objective, **changes))


@pytest.fixture(scope="module")
def run(finetune_run):
    """A student of `tiny_model`, as a LoRA."""
    distil = DistilConfig(levels=4, guidance_scale=2.0)
    objective = replace(finetune_run.objective, method=STUDENTS["lora"], distil=distil)
    optimizer = replace(finetune_run.optimizer, learning_rate=3e-3, warmup_steps=0)
    return replace(finetune_run, objective=objective, optimizer=optimizer)


@pytest.mark.parametrize("name", ["lora", pytest.param("whole", marks=pytest.mark.slow)])
def test_the_student_learns_and_the_teacher_stays(run, name, tiny_model, tmp_path):
    run = with_objective(run, method=STUDENTS[name])
    short = train_shortly(run, tmp_path)
    print("loss", [round(loss, 3) for loss in short.losses])
    assert short.losses[-1] < 0.95 * short.losses[0]
    assert short.first.keys() == {"unet"}
    teacher = short.objective.frozen["unet"]
    jax.tree.map(np.testing.assert_array_equal, teacher, tiny_model.unet_params)
    path = tmp_path / ("fast" if name == "whole" else "fast.safetensors")
    short.objective.export(path, short.last, {"step": 12})
    if name == "lora":
        assert load_lora(path, tiny_model).unet
        pipe = TextToImage(tiny_model)
        own = pipe.defaults
        pipe.set_loras([(path, 1.0)])
        settings = pipe.defaults
        assert settings.schedule == "trailing"
        pipe.set_loras([])
        assert pipe.defaults == own
    else:
        settings = default_settings(load_model(path, Tokenizer.load))
    assert (settings.sampler, settings.num_steps, settings.guidance_scale) == ("lcm", 4, 1.0)


def test_a_student_of_segments_draws_a_step_for_each(run, tiny_model, tmp_path):
    run = with_objective(run, distil=replace(run.objective.distil, segments=2))
    short = train_shortly(run, tmp_path)
    assert short.losses[-1] < 0.95 * short.losses[0]
    short.objective.export(tmp_path / "fast.safetensors", short.last, {"step": 12})
    pipe = TextToImage(tiny_model)
    pipe.set_loras([(tmp_path / "fast.safetensors", 1.0)])
    assert (pipe.defaults.sampler, pipe.defaults.num_steps) == ("ddim", 2)
    assert (pipe.defaults.schedule, pipe.defaults.guidance_scale) == ("trailing", 1.0)


def test_a_student_that_keeps_guidance_begins_where_its_teacher_is(run, tiny_model, tmp_path):
    """Of as many segments as levels nothing is left to learn; and it draws as the teacher does."""
    asked = replace(run.objective.distil, segments=4, keeps_guidance=True)
    objective, losses = one_loss(with_objective(run, distil=asked), tmp_path)
    np.testing.assert_allclose(losses, 0, atol=1e-4)
    _, unguided = one_loss(
        with_objective(run, distil=replace(asked, keeps_guidance=False)), tmp_path
    )
    assert min(unguided) > 1e-2
    objective.export(
        tmp_path / "fast.safetensors", jax.jit(objective.init)(jax.random.key(0), {}), {}
    )
    pipe, plain = TextToImage(tiny_model), TextToImage(tiny_model)
    pipe.set_loras([(tmp_path / "fast.safetensors", 1.0)])
    assert (pipe.defaults.num_steps, pipe.defaults.guidance_scale) == (4, 2.0)
    how = dict(sampler="ddim", num_steps=4, guidance_scale=2.0, schedule="trailing")
    np.testing.assert_array_equal(pipe(["a red toy"], [0]), plain(["a red toy"], [0], **how))


def test_a_lora_of_a_damaged_header_is_refused(tiny_model):
    damaged = Lora({}, {}, {"jaxdiff": "{no JSON"})
    with pytest.raises(UserError, match="under 'jaxdiff' cannot be read"):
        TextToImage(tiny_model).set_loras([(damaged, 1.0)])
    strange = Lora({}, {}, {"jaxdiff": '{"draws": {"speed": 9}}'})
    with pytest.raises(UserError, match="unknown setting in the LoRA 'speed'"):
        TextToImage(tiny_model).set_loras([(strange, 1.0)])
    TextToImage(tiny_model).set_loras([(strange, 0.0)])  # is not used


@pytest.fixture
def leading(tiny_model, tmp_path):
    """`tiny_model` with the schedule that Stable Diffusion 1.5 comes with, and its directory."""
    model = replace(tiny_model, noise=replace(tiny_model.noise, spacing="leading"))
    save_model(tmp_path / "leading", model)
    return model, tmp_path / "leading"


def test_what_is_exported_draws_at_the_levels_it_was_trained_at(run, leading, tmp_path):
    model, folder = leading
    assert default_settings(model).schedule == "leading"
    objective = build(with_objective(run, model=folder, method=FullMethod()), tmp_path)
    objective.export(tmp_path / "fast", objective.init(jax.random.key(0), objective.given), {})
    fast = load_model(tmp_path / "fast", Tokenizer.load)
    assert default_settings(fast).schedule == "trailing"
    assert fast.noise == model.noise


@pytest.mark.parametrize(("levels", "schedule"), [(4, "trailing"), (0, "leading")])
def test_previews_of_a_student_are_at_the_levels_it_is_trained_at(
    run, levels, schedule, leading, tmp_path
):
    model, folder = leading
    how = dict(sampler="lcm", num_steps=4, guidance_scale=1.0)
    run = replace(run, preview=PreviewConfig(every=1, prompts=("a red toy",), rows=1, **how))
    distil = DistilConfig(levels=levels)
    objective = build(with_objective(run, model=folder, distil=distil), tmp_path)
    shown = objective.preview(objective.init(jax.random.key(0), objective.given))
    expected = TextToImage(model)(["a red toy"], [0], schedule=schedule, **how)
    np.testing.assert_array_equal(shown, tile(expected, 1))


@pytest.mark.slow
def test_cached_captions_are_taught_alike(run, tmp_path):
    """The loss is the same where text encoders ran once, before training."""
    cached = replace(run, data=replace(run.data, cache=str(tmp_path / "cache")))
    _, direct = one_loss(run, tmp_path)
    _, stored = one_loss(cached, tmp_path)
    np.testing.assert_allclose(direct, stored, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(prediction="v"), "objective.prediction is the teacher's"),
        (dict(method=TextualInversionMethod()), "trains the whole UNet or a LoRA"),
        (dict(method=FullMethod(text_encoder=True)), "without text encoders"),
        (dict(loss=LossConfig(weighting="min_snr")), "objective.loss.weighting is of the loss of"),
        (dict(loss=LossConfig(levels="uniform")), "objective.loss.levels is of the loss of"),
        (dict(loss=LossConfig(noise_offset=0.1)), "objective.loss.noise_offset is of the loss"),
    ],
)
def test_what_does_not_go_with_distillation_is_refused(run, change, said):
    with pytest.raises(UserError, match=said):
        replace(run.objective, **change)


def test_a_model_that_is_told_sizes_is_refused(run, large_model_dir, tmp_path):
    large = with_objective(run, model=large_model_dir)
    with pytest.raises(UserError, match="of the family sdxl; only models without size"):
        build(large, tmp_path)
