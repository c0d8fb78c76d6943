"""How far the host runs ahead of the devices."""

from types import SimpleNamespace

import pytest

from jaxdiff.training import dispatch
from jaxdiff.training.dispatch import Steps, dispatches
from jaxdiff.training.metrics import Throughput


class _Metrics:
    """What a step found, once somebody has waited for it."""

    def __init__(self, number, done):
        self._number, self._done = number, done

    def block_until_ready(self):
        self._done.append(self._number)
        return self


class _Step:
    """A compiled step that returns at once."""

    def __init__(self, done):
        self._done, self._number = done, 0

    def lower(self, *arguments):
        return self

    def cost_analysis(self):
        return {"flops": 1.0}

    def compile(self):
        return self

    def __call__(self, state, frozen, batch, key):
        self._number += 1
        return state, _Metrics(self._number, self._done)


def test_two_dispatches_at_most_are_under_way(toy_run, monkeypatch):
    done = []
    runner = SimpleNamespace(jit=lambda run, state: _Step(done), axis_name=None)
    monkeypatch.setattr(dispatch, "make_train_step", lambda *arguments, **named: None)
    objective = SimpleNamespace(loss=None)
    steps = Steps(toy_run, runner, objective, None, Throughput(8, 6))
    for number in range(1, 7):
        steps(None, None, {}, None, 1)
        assert done == list(range(1, number - 1))


@pytest.mark.parametrize(("start", "ends"), [(0, [4, 8, 10]), (8, [10]), (10, [])])
def test_dispatches_end_at_multiples_and_at_the_last_step(start, ends):
    config = SimpleNamespace(steps_per_dispatch=4, num_steps=10)
    assert [end for _, end in dispatches(start, config)] == ends


def test_a_long_run_is_not_counted_out_beforehand():
    config = SimpleNamespace(steps_per_dispatch=1, num_steps=10**15)
    assert next(dispatches(0, config)) == (0, 1)
