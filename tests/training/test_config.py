"""Options that are out of range, contradict each other or would be ignored."""

from dataclasses import replace

import pytest

from jaxdiff.errors import UserError
from jaxdiff.presets import PRESETS, emoji64
from jaxdiff.training.config import (
    DiffusionObjective,
    EMAConfig,
    OptimizerConfig,
    PreviewConfig,
)
from jaxdiff.training.workdir import differences, to_json


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OptimizerConfig(learning_rate=-1.0), "optimizer.learning_rate must be at least 0"),
        (lambda: OptimizerConfig(warmup_steps=-5), "optimizer.warmup_steps must be"),
        (lambda: OptimizerConfig(b2=1.0), "optimizer.b2 must be in"),
        (lambda: OptimizerConfig(accumulate=0), "optimizer.accumulate must be"),
        (lambda: EMAConfig(decay=3.0), "ema.decay must be in"),
        (lambda: PreviewConfig(every=-1), "preview.every must be"),
        (lambda: DiffusionObjective(level_mean=1.0), "level_mean does nothing for 'discrete'"),
        (lambda: DiffusionObjective(min_snr_gamma=5.0), "min_snr_gamma does nothing"),
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
    del written["objective"]["level_std"], written["ema"]["warmup"]
    assert differences(written, emoji64, set()) == []
    other = replace(emoji64, ema=replace(emoji64.ema, warmup=False))
    assert differences(written, other, set()) == ["ema.warmup: True there, False here"]


def test_another_kind_of_objective_is_a_difference():
    assert differences(to_json(PRESETS["emoji64-vae"][1]), emoji64, set())[0].startswith(
        "objective"
    )
