"""The compiler set-up: the known miscompile is right through it, and it respects the user."""

import os
import subprocess
import sys

import numpy as np
import pytest

from jaxdiff import platform

# jax.jit miscomputes this on the CPU of the jaxlibs concerned (a product with a broadcast operand
# that feeds a sum). Printed: computed value, true value in float64.
_CASE = """
import jax, jax.numpy as jnp, numpy as np
E = jax.random.normal(jax.random.key(0), (64, 64))
c = jnp.float32(0.5)
f = jax.jit(lambda E, c: jnp.sum((E @ jnp.broadcast_to(c, E.shape)) * E))
e = np.asarray(E, np.float64)
print("numbers", float(f(E, c)), float(np.sum((e @ np.full(e.shape, 0.5)) * e)))
"""
_SET_UP = "from jaxdiff.platform import configure\nconfigure()\n"


def _run(code, **environment):
    """Run Python code in a fresh CPU process that inherits none of our settings."""
    ours = ("XLA_FLAGS", "JAX_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    env |= {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def _numbers(code):
    result = _run(code)
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("numbers"))
    return [float(word) for word in line.split()[1:]]


def test_the_miscompiled_case_is_right_through_configure():
    got, true = _numbers(_SET_UP + _CASE)
    np.testing.assert_allclose(got, true, rtol=1e-5)


@pytest.mark.skipif(
    platform.jaxlib_version() not in ("0.10.2", "0.12.0.1"),
    reason="the miscompile was observed on jaxlib 0.10.2 and 0.12.0.1",
)
def test_without_configure_the_case_is_wrong():
    got, true = _numbers(_CASE)
    assert not np.isclose(got, true, rtol=1e-2)


def test_old_jaxlibs_get_no_unknown_flag():
    assert platform.wanted_flags("0.10.0") == {}
    assert len(platform.wanted_flags("0.10.1")) == 1
    assert len(platform.wanted_flags("0.12.0.1", host_devices=8)) == 2


@pytest.mark.parametrize("mine", ["--xla_cpu_experimental_ynn_fusion_type=", "--other=1"])
def test_flags_of_the_user_are_kept(mine):
    merged = platform.merge_flags(mine, platform.wanted_flags("0.10.2"))
    assert merged.startswith(mine)
    assert merged.count("ynn_fusion_type") == 1


def test_host_devices_and_cache(tmp_path):
    code = (
        "from jaxdiff.platform import configure\nconfigure(host_devices=8)\n"
        "import jax\nprint(jax.device_count(), jax.config.jax_compilation_cache_dir)"
    )
    result = _run(code, XDG_CACHE_HOME=str(tmp_path))
    assert result.stdout.split() == ["8", f"{tmp_path}/jaxdiff/xla-{platform.jaxlib_version()}"]


def test_cache_directory_of_the_user_is_kept(tmp_path):
    code = _SET_UP + "import jax\nprint(jax.config.jax_compilation_cache_dir)"
    assert _run(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path)).stdout.strip() == str(tmp_path)


def test_after_import_but_before_start_the_cache_is_set(tmp_path):
    code = "import jax\n" + _SET_UP + "print(jax.config.jax_compilation_cache_dir)"
    assert str(tmp_path) in _run(code, XDG_CACHE_HOME=str(tmp_path)).stdout


def test_too_late_is_an_error():
    late = "from jaxdiff.platform import configure\nconfigure(host_devices=2)\n"
    result = _run("import jax\njax.devices()\n" + late, XLA_FLAGS="")
    assert "came too late" in result.stderr


def test_twice_is_the_same_as_once():
    result = _run(_SET_UP + "import jax\njax.devices()\nconfigure()")
    assert result.returncode == 0, result.stderr
