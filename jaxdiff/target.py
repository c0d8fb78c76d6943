"""What a network is being traced for: the platform, and the devices that share its arrays.

Some layers have a form that CPUs run fast and other compilers would only be held up by
(`models.sums`, `models.winograd`, the attention "auto"). They choose while they are traced, by
`platform()`: the backend at hand, unless a plan is being made for another one.

The compiler cuts every operation over a mesh by itself but a kernel written by hand, which wants to
be told: whoever compiles for several devices says `cut_over` which, and the kernel asks `cut()`.
"""

from contextlib import AbstractContextManager
from typing import NamedTuple

import jax
from jax.sharding import Mesh


class Cut(NamedTuple):
    """How arrays lie on several devices."""

    mesh: Mesh
    """The devices."""
    rows: tuple[str, ...] = ()
    """The axes of the mesh that cut a batch."""
    heads: str | None = None
    """The axis that cuts the heads of attention."""


# A user context is part of the key of jax's caches: nothing traced for one platform serves another.
_target = jax.make_user_context(None)
_cut = jax.make_user_context(None)


def platform() -> str:
    """The name of the platform, as jax calls it: "cpu", "gpu" or "tpu"."""
    return _target.value or jax.default_backend()


def tracing_for(name: str) -> AbstractContextManager:
    """Within this context, functions are traced for the platform called `name`.

    >>> with tracing_for("tpu"):
    ...     platform()
    'tpu'
    """
    return _target(name)


def cut() -> Cut | None:
    """The devices that share the arrays of what is being traced; None where each has its own."""
    return _cut.value


def cut_over(
    mesh: Mesh, rows: tuple[str, ...] = (), heads: str | None = None
) -> AbstractContextManager:
    """Within this context, functions are traced for devices that share their arrays.

    Args:
      mesh: the devices.
      rows: the axes that cut a batch.
      heads: the axis that cuts the heads of attention.
    """
    return _cut(Cut(mesh, rows, heads))
