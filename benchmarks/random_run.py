"""What a train step takes, of the shapes of a run and random."""

from typing import Any

import jax
import numpy as np

from jaxdiff.planning.blueprint import blueprint
from jaxdiff.training.begin import key_on_devices
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.parallel import Runner
from jaxdiff.training.sharding import place
from jaxdiff.training.step import Params, init_state

_INTEGERS = 256  # values of a pixel; token ids and sizes may be as small


def random_inputs(run: TrainConfig, runner: Runner) -> tuple[Any, Params, dict, jax.Array]:
    """State, frozen parameters, batch and key, where the step wants them.

    Args:
      run: the run.
      runner: what spreads its step over a mesh; this process has all devices.
    """
    blue, optimizer = blueprint(run), make_optimizer(run.optimizer, run.num_steps)

    def fresh(key: jax.Array) -> Any:
        return init_state(blue.init(key), optimizer)

    key = key_on_devices(run.seed, runner)
    places = runner.shardings(jax.eval_shape(fresh, key))
    state = jax.jit(fresh, out_shardings=places)(key)
    frozen = place(_random(blue.frozen), runner.shardings(blue.frozen))
    batch = _random(blue.batch) | {"example": np.arange(run.data.batch_size, dtype=np.int32)}
    return state, frozen, runner.put_batch(batch), key


def _random(shapes: Any) -> Any:
    """Arrays of the host of these shapes."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if np.issubdtype(leaf.dtype, np.integer):
            return rng.integers(_INTEGERS, size=leaf.shape).astype(leaf.dtype)
        return (0.1 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)
