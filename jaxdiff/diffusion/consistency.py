r"""Consistency distillation: a student that goes from any noise level far ahead in one step.

A teacher's probability-flow ODE leads every x_t to one x0. The consistency function f gives that x0
at once, and so agrees with itself along each way:

    f(x_a, a) = f(x_b, b) at any two points of a way,    f(x, 0) = x                             (1)

(Song et al. 2023, section 3). A student learns it between neighbouring levels a, b of a grid, where
the teacher, guidance and all, takes the step (Luo et al. 2023, LCM, eq. 11 and 14):

    L = d(f(x_a, a), f(x_b, b)),    x_a = alpha_a x0 + sigma_a eps,    x_b one DDIM step on      (2)
    d(x, y) = sqrt(|x - y|^2 + c^2) - c,    c = 0.00054 sqrt(D)                                  (3)

(3) is the pseudo-Huber metric of Song & Dhariwal 2024, section 3.3. No gradient goes through the
target f(x_b, b), which is the student itself and no average of it: they argue for that in
consistency training (section 3.2).

What a student predicts of x0 is f: at sigma = 0 the target is x_b, whatever the network says there.
`samplers.lcm` draws with it.

A student that is to draw in K steps need not go all the way at once. Where the grid is cut into K
segments, it learns to go to the end e of each (Heek et al. 2024, multistep consistency models,
algorithm 1), and `samplers.ddim` in K steps draws with it:

    L = d(f(x_a, a), g),    DDIM(x_a, g, a, e) = DDIM(x_b, f(x_b, b), b, e)                      (4)

The target g is the x0 by which one step from x_a leads where the student goes from x_b. With one
segment e is the data's end, g = f(x_b, b), and (4) is (2).

Axis legend: B examples, D numbers of one.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.diffusion.arrays import expand
from jaxdiff.diffusion.grids import Grid
from jaxdiff.diffusion.prediction import Denoise
from jaxdiff.diffusion.stepping import Point, first_order, x0_between
from jaxdiff.rng import named_keys, normal_each

_HUBER = 0.00054


def consistency_loss(
    student: Denoise,
    teacher: Denoise,
    grid: Grid,
    x0: Float[Array, "B ..."],
    keys: Key[Array, " B"],
    segments: int = 1,
) -> Float[Array, " B"]:
    """The loss of each example, eq. (4), at a level of the grid that is drawn for it.

    Args:
      student: (x_t, t) -> x0, its parameters and the prompt closed over.
      teacher: likewise, guided; not differentiated.
      grid: levels from noisy to clean; any two neighbours are a and b.
      x0: data in [-1, 1] or latents of unit variance.
      keys: one key per example, spent here for its level and its noise.
      segments: K, which divides the grid's steps; 1 for a student that goes to the data at once.

    Raises:
      ValueError: the grid cannot be cut into so many equal segments.
    """
    if grid.n % segments:
        raise ValueError(f"{grid.n} steps of a grid are not {segments} equal segments")
    each = jax.vmap(lambda key: named_keys(key, "level", "eps"))(keys)
    level = jax.vmap(lambda key: jax.random.randint(key, (), 0, grid.n))(each["level"])
    length = grid.n // segments
    end = (level // length + 1) * length
    a, b, e = (levels_at(grid, i, x0) for i in (level, level + 1, end))
    x0 = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    x_a = a.alpha * x0 + a.sigma * normal_each(each["eps"], x0.shape[1:])
    x_b = first_order(x_a, teacher(x_a, a.t), a, b)
    x_e = jnp.where(expand(level + 1 < end, x0), first_order(x_b, student(x_b, b.t), b, e), x_b)
    target = jax.lax.stop_gradient(x0_between(x_a, x_e, a, e))
    return pseudo_huber(student(x_a, a.t), target)


def levels_at(grid: Grid, i: Array, like: Float[Array, "B ..."]) -> Point:
    """Level i [B] of a grid, with alpha and sigma that broadcast against `like`."""
    return Point(grid.t[i], expand(grid.alpha[i], like), expand(grid.sigma[i], like))


def pseudo_huber(x: Float[Array, "B ..."], y: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """Eq. (3): |x - y| but for a rounded foot, so that no example's gradient is longer than 1."""
    squares = jnp.sum((x - y) ** 2, axis=tuple(range(1, x.ndim)))
    c = _HUBER * math.sqrt(math.prod(x.shape[1:]))
    return jnp.sqrt(squares + c**2) - c
