"""Set-up for every test: the compiler flags of the scripts, eight CPU devices, checked shapes."""

import importlib.util
import os

import pytest
from jaxtyping import install_import_hook

from jaxdiff import platform

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tests want eight devices, which only a CPU fakes
platform.configure(host_devices=8)

# Annotations such as Float[Array, "B H W C"] are checked at every call, here and nowhere else.
install_import_hook("jaxdiff", "beartype.beartype")

_PARITY = ("torch", "diffusers", "transformers")


def pytest_collection_modifyitems(items):
    """Skip the parity tests where the libraries to compare with are not installed."""
    missing = [name for name in _PARITY if importlib.util.find_spec(name) is None]
    if not missing:
        return
    skip = pytest.mark.skip(reason=f"parity needs {', '.join(missing)}")
    for item in items:
        if "parity" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def key():
    """A typed random key; tests that need several split it by name."""
    import jax

    return jax.random.key(0)
