"""The platform that a network is being traced for.

Some layers have a form that CPUs run fast and other compilers would only be held up by
(`models.sums`, `models.winograd`, the attention "auto"). They choose while they are traced, by
`platform()`: the backend at hand, unless a plan is being made for another one.
"""

from contextlib import AbstractContextManager

import jax

# A user context is part of the key of jax's caches: nothing traced for one platform serves another.
_target = jax.make_user_context(None)


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
