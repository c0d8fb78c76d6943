"""An objective by itself: its first loss, and some steps on one batch, on one device."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.data.sources import make_source
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.loop import OBJECTIVES
from jaxdiff.training.objective import Objective, Share
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.step import step_keys


def build(run: TrainConfig, workdir: Path) -> Objective:
    """The objective of a run."""
    return OBJECTIVES[type(run.objective)](run, make_source(run.data), workdir)


class Short(NamedTuple):
    """An objective after some steps on one batch, always with the same noise."""

    objective: Objective
    losses: list[float]
    first: Any
    last: Any
    batch: dict


def train_shortly(run: TrainConfig, workdir: Path, steps: int = 12) -> Short:
    """Descend on one batch, on one device."""
    objective = build(run, workdir)
    first = objective.init(jax.random.key(0), objective.given)
    batch = jax.tree.map(jnp.asarray, next(objective.batches(0, Share())))
    keys = step_keys(jax.random.key(1), jnp.zeros((), jnp.int32), batch["example"])
    optimizer = make_optimizer(run.optimizer, 10**6)
    params = jax.tree.map(jnp.asarray, first)
    state = optimizer.init(params)

    @jax.jit
    def descend(params, state, frozen):
        loss, grads = jax.value_and_grad(
            lambda params: jnp.mean(objective.loss(params, frozen, batch, keys)[0])
        )(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = descend(params, state, objective.frozen)
        losses.append(float(loss))
    return Short(objective, losses, first, jax.device_get(params), batch)


def one_loss(run: TrainConfig, workdir: Path) -> tuple[Objective, np.ndarray]:
    """The losses of an objective's first batch, at its first parameters."""
    objective = build(run, workdir)
    batch = next(objective.batches(0, Share()))
    keys = step_keys(jax.random.key(1), jnp.zeros((), jnp.int32), jnp.asarray(batch["example"]))
    params = objective.init(jax.random.key(0), objective.given)
    return objective, np.asarray(jax.jit(objective.loss)(params, objective.frozen, batch, keys)[0])
