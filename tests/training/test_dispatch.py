"""How far the host runs ahead of the devices."""

import json
from dataclasses import replace

import jax
import pytest

from jaxdiff.training import loop
from jaxdiff.training.dispatch import dispatches


def test_two_dispatches_at_most_are_under_way(toy_run, monkeypatch):
    waited, wait = [], jax.block_until_ready

    def noted(tree):
        waited.append(float(tree["loss"]))
        return wait(tree)

    monkeypatch.setattr(jax, "block_until_ready", noted)
    loop.train(toy_run)
    lines = (toy_run.workdir / "metrics.jsonl").read_text().splitlines()
    assert waited == [json.loads(line)["loss"] for line in lines][:4]  # of six


@pytest.mark.parametrize(("start", "ends"), [(0, [4, 8, 10]), (8, [10]), (10, [])])
def test_dispatches_end_at_multiples_and_at_the_last_step(start, ends, toy_run):
    config = replace(toy_run, num_steps=10, steps_per_dispatch=4, log_every=4, checkpoint_every=4)
    assert [end for _, end in dispatches(start, config)] == ends


def test_a_long_run_is_not_counted_out_beforehand(toy_run):
    assert next(dispatches(0, replace(toy_run, num_steps=10**15))) == (0, 1)
