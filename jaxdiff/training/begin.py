"""What a run begins with: read or made, every array where it shall lie."""

import logging
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from jaxdiff.training.checkpoint import Checkpoints
from jaxdiff.training.objective import Objective
from jaxdiff.training.parallel import Runner
from jaxdiff.training.sharding import abstract, place
from jaxdiff.training.step import Params, TrainState, init_state

log = logging.getLogger(__name__)

INIT_STEP = np.uint32(2**32 - 1)  # folded into the seed for parameters; no step has this number


class Begun(NamedTuple):
    """What the first step takes, as the runner's step takes it, and where the run stands."""

    state: TrainState
    frozen: Params
    key: Key[Array, "..."]
    step: int
    """Steps that were taken so far."""
    examples: int
    """Examples consumed so far."""


def begin(
    seed: int,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    runner: Runner,
    checkpoints: Checkpoints,
) -> Begun:
    """Go on from the newest checkpoint, or begin anew."""
    key = key_on_devices(seed, runner)
    state, step, examples = _first_state(objective, optimizer, runner, checkpoints, key)
    frozen = on_devices(objective.frozen, runner)
    state, frozen, key = (runner.put(tree) for tree in (state, frozen, key))
    return Begun(state, frozen, key, step, examples)


def _first_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    runner: Runner,
    checkpoints: Checkpoints,
    key: Key[Array, ""],
) -> tuple[TrainState, int, int]:
    """The newest checkpoint's state or a fresh one, its step, and the examples consumed so far.

    Either way no array is whole on one device that shall not be.
    """

    def fresh(key: Key[Array, ""], given: Params) -> TrainState:
        params = objective.init(jax.random.fold_in(key, INIT_STEP), given)
        return init_state(params, optimizer)

    shapes = jax.eval_shape(fresh, key, objective.given)
    places = runner.shardings(shapes)
    restored = checkpoints.restore(abstract(shapes, places))
    if restored is None:
        given = on_devices(objective.given, runner)
        return jax.jit(fresh, out_shardings=places)(key, given), 0, 0
    log.info("resuming at step %d from %s", restored.step, checkpoints.directory)
    return restored.state, restored.step, restored.examples


def on_devices(params: Params, runner: Runner) -> Params:
    """Parameters of the host, on the devices of all processes, each of which has them."""
    return place(params, runner.shardings(params))


def key_on_devices(seed: int, runner: Runner) -> Key[Array, ""]:
    """The key of a run, on the devices of all processes."""
    places = runner.shardings(jax.eval_shape(jax.random.key, seed))
    return jax.jit(lambda: jax.random.key(seed), out_shardings=places)()
