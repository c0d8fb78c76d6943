"""Options that are out of range, contradict each other or would be ignored."""

import json
import math
from dataclasses import replace

import pytest

from jaxdiff.errors import UserError
from jaxdiff.presets import PRESETS, emoji64
from jaxdiff.training.config import (
    DistilConfig,
    EMAConfig,
    FinetuneObjective,
    LoraMethod,
    LossConfig,
    OptimizerConfig,
    PreviewConfig,
    PriorConfig,
    TextualInversionMethod,
)
from jaxdiff.training.config_json import differences, to_json
from jaxdiff.training.workdir import check_workdir


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OptimizerConfig(learning_rate=-1.0), "optimizer.learning_rate must be at least 0"),
        (lambda: OptimizerConfig(warmup_steps=-5), "optimizer.warmup_steps must be"),
        (lambda: OptimizerConfig(b2=1.0), "optimizer.b2 must be in"),
        (lambda: OptimizerConfig(accumulate=0), "optimizer.accumulate must be"),
        (lambda: EMAConfig(decay=3.0), "ema.decay must be in"),
        (lambda: PreviewConfig(every=-1), "preview.every must be"),
        (lambda: PreviewConfig(sampler="eular"), "unknown sampler of previews 'eular'"),
        (lambda: LossConfig(level_mean=1.0), "level_mean does nothing for 'discrete'"),
        (lambda: LossConfig(min_snr_gamma=5.0), "min_snr_gamma does nothing"),
        (lambda: LossConfig(noise_offset=-0.1), "objective.loss.noise_offset must be at least 0"),
        (
            lambda: DistilConfig(24, 1.0, keeps_guidance=True),
            "does nothing at objective.distil.guidance_scale=1",
        ),
        (
            lambda: DistilConfig(keeps_guidance=True),
            "keeps_guidance does nothing",
        ),
        (lambda: LoraMethod(rank=0), "objective.method.rank must be at least 1"),
        (lambda: LoraMethod(alpha=0.0), "objective.method.alpha must be above 0"),
        (lambda: TextualInversionMethod(token="a b"), "must be one word, not 'a b'"),
        (lambda: TextualInversionMethod(vectors=0), "objective.method.vectors must be"),
        (lambda: DistilConfig(1), "objective.distil.levels must be 0 or at least 2, not 1"),
        (lambda: DistilConfig(50, math.nan), "distil.guidance_scale must be a finite number"),
        (lambda: DistilConfig(50, math.inf), "distil.guidance_scale must be a finite number"),
        (lambda: DistilConfig(0, math.nan), "distil.guidance_scale must be a finite number"),
        (lambda: DistilConfig(guidance_scale=7.5), "distil.guidance_scale does nothing without"),
        (lambda: DistilConfig(segments=4), "distil.segments does nothing without a teacher"),
        (lambda: DistilConfig(24, segments=5), "distil.segments must be at least 1, a divisor"),
        (lambda: DistilConfig(24, segments=0), "distil.segments must be at least 1, a divisor"),
        (lambda: PriorConfig(weight=-1.0), "objective.prior.weight must be at least 0"),
        (lambda: PriorConfig(prompt="a dog"), "objective.prior.prompt needs"),
        (lambda: FinetuneObjective(clip_skip=-1), "objective.clip_skip must be at least 0"),
        (
            lambda: replace(PRESETS["emoji64-vae"][1], data=replace(emoji64.data, cache="x")),
            "data.cache is for training on latents",
        ),
        (lambda: replace(emoji64, keep=0), "keep must be at least 1, not 0"),
        (
            lambda: replace(emoji64, optimizer=OptimizerConfig(accumulate=3)),
            "optimizer.accumulate=3 must divide data.batch_size=32",
        ),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_does_not_differ_from_itself(name):
    config = PRESETS[name][1]
    assert differences(to_json(config), config, set()) == []


def test_a_field_that_an_older_version_did_not_write_counts_as_its_default():
    written = to_json(emoji64)
    del written["objective"]["loss"]["min_snr_gamma"], written["ema"]["warmup"]
    assert differences(written, emoji64, set()) == []
    other = replace(emoji64, ema=replace(emoji64.ema, warmup=False))
    assert differences(written, other, set()) == ["ema.warmup: True there, False here"]


def test_a_config_of_before_the_loss_had_its_own_part_is_understood(tmp_path):
    config = replace(emoji64, workdir=tmp_path)
    written = to_json(config)
    loss = written["objective"].pop("loss")
    written["objective"] |= {
        name: loss[name] for name in loss if name not in ("type", "noise_offset")
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert check_workdir(config) == tmp_path
    uniform = replace(emoji64.objective, loss=LossConfig(levels="uniform"))
    with pytest.raises(UserError, match="levels: 'logit_normal' there, 'uniform' here"):
        check_workdir(replace(config, objective=uniform))


def test_another_kind_of_objective_is_a_difference():
    assert differences(to_json(PRESETS["emoji64-vae"][1]), emoji64, set())[0].startswith(
        "objective"
    )
