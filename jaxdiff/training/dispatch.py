"""What the devices are told to do at a time: a step, or several, and the batches for them."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from jaxdiff.training.config import TrainConfig
from jaxdiff.training.flops import count_flops
from jaxdiff.training.metrics import Throughput
from jaxdiff.training.objective import Objective
from jaxdiff.training.optimizer import learning_rate
from jaxdiff.training.parallel import HostBatch, Runner
from jaxdiff.training.step import (
    LossFn,
    Metrics,
    Params,
    TrainState,
    make_train_step,
    several_steps,
)

log = logging.getLogger(__name__)

DeviceBatch = dict[str, Any]
_AHEAD = 2  # dispatches that the host may be ahead of the devices, so that it can stop soon


def dispatches(start: int, config: TrainConfig) -> Iterator[tuple[int, int]]:
    """(step before, last step) of every dispatch; all but the last end at a multiple.

    >>> from types import SimpleNamespace
    >>> list(dispatches(3, SimpleNamespace(steps_per_dispatch=4, num_steps=10)))
    [(3, 4), (4, 8), (8, 10)]
    """
    if start >= config.num_steps:
        return iter(())
    every = config.steps_per_dispatch
    ends = range(start - start % every + every, config.num_steps, every)
    return pairwise(chain([start], ends, [config.num_steps]))


def feed(
    spans: Iterable[tuple[int, int]],
    batches: Iterator[HostBatch],
    runner: Runner,
    config: TrainConfig,
) -> Iterator[DeviceBatch]:
    """The batch of every dispatch, on the devices; where it takes several steps, one of each."""
    for before, step in spans:
        parts = [next(batches) for _ in range(step - before)]
        if config.steps_per_dispatch == 1:
            yield runner.put_batch(parts[0])
        else:
            yield runner.put_batch(jax.tree.map(lambda *each: np.stack(each), *parts))


def step_of(
    config: TrainConfig, loss: LossFn, optimizer: optax.GradientTransformation, runner: Runner
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The train step of a run's config: (state, frozen, batch, key) -> (state, metrics)."""
    return make_train_step(
        loss,
        optimizer,
        learning_rate(config.optimizer, config.num_steps),
        config.ema,
        accumulate=config.optimizer.accumulate,
        axis_name=runner.axis_name,
    )


class Steps:
    """The train step or several of them, compiled once for each size of pictures that comes."""

    def __init__(
        self,
        config: TrainConfig,
        runner: Runner,
        objective: Objective,
        optimizer: optax.GradientTransformation,
        throughput: Throughput,
    ):
        self._config, self._runner, self._throughput = config, runner, throughput
        self._compiled: dict[tuple, tuple[Any, float]] = {}
        self._flying: deque[Metrics] = deque(maxlen=_AHEAD)
        step = step_of(config, objective.loss, optimizer, runner)
        self._run = step if config.steps_per_dispatch == 1 else several_steps(step)

    def __call__(
        self,
        state: TrainState,
        frozen: Params,
        batch: DeviceBatch,
        key: Key[Array, "..."],
        steps: int,
    ) -> tuple[TrainState, Metrics]:
        """Begin a dispatch's steps; counts their floating-point operations, not time to compile.

        Waits until no more than `_AHEAD` dispatches, this one included, are unfinished.
        """
        shapes = tuple((name, array.shape) for name, array in sorted(batch.items()))
        if shapes not in self._compiled:
            begin = time.perf_counter()
            run, given = self._runner.jit(self._run, state), (state, frozen, batch, key)
            flops = count_flops(jax.make_jaxpr(run)(*given))
            log.info("compiling a step of %.1f GFLOP", flops / steps / 1e9)
            # What pmap lowers to is no longer called with the arrays of one process of several.
            pmap = self._config.parallel == "pmap"
            self._compiled[shapes] = run if pmap else run.lower(*given).compile(), flops
            self._throughput.leave_out(time.perf_counter() - begin)
        compiled, flops = self._compiled[shapes]
        self._throughput.count(flops)
        if len(self._flying) == _AHEAD:
            jax.block_until_ready(self._flying[0])
        state, metrics = compiled(state, frozen, batch, key)
        self._flying.append(metrics)
        return state, metrics
