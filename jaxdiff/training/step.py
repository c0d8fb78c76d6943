"""The train step: one pure function of (state, frozen, batch, key), whatever spreads it.

Axis legend: B examples of a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxdiff.training.options import EMAConfig

Params = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class StepKeys(NamedTuple):
    """Randomness of one step."""

    step: Key[Array, ""]
    """One key for what the batch shares."""
    examples: Key[Array, " B"]
    """One key per example: it follows the example to whatever device computes it."""


LossFn = Callable[[Params, Params, Batch, StepKeys], tuple[Float[Array, " B"], Metrics]]
"""(params, frozen, batch, keys) -> (loss [B], further metrics [B] each)."""


class TrainState(NamedTuple):
    """All that training changes; what is random follows from the seed and `step`."""

    step: Array
    params: Params
    ema_params: Params
    opt_state: optax.OptState


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the average starts as a copy of the parameters.

    A copy, since an alias of a donated buffer aborts.
    """
    average = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, average, optimizer.init(params))


def ema_decay(config: EMAConfig, step: Array) -> Float[Array, ""]:
    """min(decay, (1 + n) / (10 + n)): short at first, `decay` in the long run."""
    decay = jnp.asarray(config.decay, jnp.float32)
    if not config.warmup:
        return decay
    n = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + n) / (10 + n))


def step_keys(key: Key[Array, ""], step: Array, example: Array) -> StepKeys:
    """Keys of step n: fold_in(key, n), and for each example that folded with its own number."""
    step_key = jax.random.fold_in(key, step)
    each = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(example.astype(jnp.uint32))
    return StepKeys(step_key, each)


def make_gradients(loss_fn: LossFn, accumulate: int) -> Callable:
    """Build gradients(params, frozen, batch, keys) -> ((loss, metrics), gradient of the mean loss).

    Args:
      loss_fn: per-example loss.
      accumulate: micro-batches that the batch is cut into; divides the (local) batch.
    """

    def mean_loss(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple:
        losses, metrics = loss_fn(params, frozen, batch, keys)
        return jnp.mean(losses), jax.tree.map(jnp.mean, metrics)

    grad_fn = jax.value_and_grad(mean_loss, has_aux=True)

    def gradients(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple:
        # Row r of each device's part goes to micro-batch r % accumulate: nothing changes device.
        split = lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)  # noqa: E731
        parts = jax.tree.map(split, (batch, keys.examples))
        shapes = jax.eval_shape(grad_fn, params, frozen, *_first(parts, keys.step))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def add(total: Params, part: tuple) -> tuple[Params, None]:
            micro, examples = part
            new = grad_fn(params, frozen, micro, StepKeys(keys.step, examples))
            return jax.tree.map(lambda a, b: a + b / accumulate, total, new), None

        return jax.lax.scan(add, zeros, parts)[0]

    return grad_fn if accumulate == 1 else gradients


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    ema: EMAConfig,
    *,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable:
    """Build train_step(state, frozen, batch, key) -> (state, metrics).

    Args:
      loss_fn: per-example loss; the objective is its mean over the global batch.
      optimizer: the optax transformation.
      schedule: its learning rate, for the metrics.
      ema: the moving average.
      accumulate: micro-batches that the batch is cut into; divides the (local) batch.
      axis_name: the device axis under pmap, over which gradients are averaged.
    """
    gradients = make_gradients(loss_fn, accumulate)

    def train_step(
        state: TrainState, frozen: Params, batch: Batch, key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        keys = step_keys(key, state.step, batch["example"])
        (loss, metrics), grads = gradients(state.params, frozen, batch, keys)
        if axis_name is not None:
            loss, metrics, grads = jax.lax.pmean((loss, metrics, grads), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(ema, state.step)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema_params, params)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
            **metrics,
        }
        return TrainState(state.step + 1, params, average, opt_state), metrics

    return train_step


def several_steps(train_step: Callable) -> Callable:
    """Build run(state, frozen, batches [N B ...], key) -> (state, metrics of the last step)."""

    def run(
        state: TrainState, frozen: Params, batches: Batch, key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            return train_step(state, frozen, batch, key)

        state, metrics = jax.lax.scan(body, state, batches)
        return state, jax.tree.map(lambda each: each[-1], metrics)

    return run


def _first(parts: tuple, step_key: Key[Array, ""]) -> tuple[Batch, StepKeys]:
    """The first micro-batch and its keys, for their shapes."""
    batch, examples = jax.tree.map(lambda x: x[0], parts)
    return batch, StepKeys(step_key, examples)
