"""Devices to compile for: chips that are not there, or the cores of this machine."""

import contextlib
from collections.abc import Iterator

import jax

from jaxdiff import platform
from jaxdiff.errors import UserError
from jaxdiff.planning.chips import Topology

_LEVELS = ("jax_optimization_level", "jax_memory_fitting_level")


def planned_devices(topology: Topology) -> list[jax.Device]:
    """The devices of a topology, for compiling; only those of a CPU can also run.

    For GPUs they are those of a CPU: programs are cut into parts by the same code for all
    platforms, but only a machine with the card can compile them for it.

    Raises:
      UserError: the TPU compiler is not installed, or this process has too few CPU devices.
    """
    if topology.chip.platform == "tpu":
        return _tpu(topology.name)
    with contextlib.suppress(RuntimeError):  # too late: what there is must do
        platform.configure(host_devices=topology.count)
    devices = jax.devices("cpu")
    if len(devices) < topology.count:
        raise UserError(
            f"a plan for {topology.name} wants {topology.count} CPU devices, this process has "
            f"{len(devices)}; set XLA_FLAGS={platform.DEVICE_FLAG}={topology.count}"
        )
    return devices[: topology.count]


def _tpu(name: str) -> list[jax.Device]:
    from jax.experimental import topologies

    options = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    try:
        return list(
            topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
        )
    except (RuntimeError, ImportError) as error:
        raise UserError(
            f"a plan for {name} wants the TPU compiler, which needs no TPU: "
            f"pip install 'jaxdiff[plan]' ({str(error).splitlines()[0]})"
        ) from error


@contextlib.contextmanager
def compiling(effort: str | None) -> Iterator[None]:
    """Compile with so much effort, "O0" (fastest to compile) to "O3"; None is what a run takes.

    As much goes into making the program fit: with "O0" one that does not fit is refused at once.
    """
    before = {name: getattr(jax.config, name) for name in _LEVELS}
    try:
        for name in _LEVELS if effort is not None else ():
            jax.config.update(name, effort)
        yield
    finally:
        for name, level in before.items():
            jax.config.update(name, level)
