"""The optimizer of a run, built from optax's parts."""

from typing import Any

import jax
import optax

from jaxdiff.errors import choose
from jaxdiff.training.options import OptimizerConfig


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up to the peak, then the named schedule until `num_steps`."""
    peak, final = config.learning_rate, config.learning_rate * config.final_fraction
    rest = max(num_steps - config.warmup_steps, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, config.final_fraction),
        "linear": lambda: optax.linear_schedule(peak, final, rest),
    }
    schedule = after[choose("learning-rate schedule", config.schedule, after)]()
    if config.warmup_steps == 0:
        return schedule
    # From 1 / warmup at step 0: a first step of size 0 would be a step lost.
    warmup = optax.linear_schedule(peak / config.warmup_steps, peak, config.warmup_steps - 1)
    return optax.join_schedules([warmup, schedule], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (Loshchilov & Hutter 2019).

    Clipping or not, the state is of the same shape, so a run may change its mind.
    """
    adam = optax.adamw(
        learning_rate(config, num_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )
    clips = config.clip_norm > 0
    clip = optax.clip_by_global_norm(config.clip_norm) if clips else optax.identity()
    if config.text_encoder_rate == 1:
        return optax.chain(clip, adam)
    return optax.chain(clip, adam, optax.masked(optax.scale(config.text_encoder_rate), _of_text))


def _decayed(params: optax.Params) -> optax.Params:
    """True for matrices and kernels; False for norms, biases and embedding tables."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _name(path[-1]) in ("kernel", "down", "up"), params
    )


def _of_text(params: optax.Params) -> optax.Params:
    """True for the parameters of text encoders."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: str(_name(path[0])).startswith("text_encoder"), params
    )


def _name(entry: Any) -> str | None:
    """The name of a leaf in a dict or, as a LoRA's are, in a named tuple."""
    return getattr(entry, "key", getattr(entry, "name", None))
