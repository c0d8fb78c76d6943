"""What a step of `tiny` really sets aside on eight CPU devices, beside what its compiler says.

Prints for each step "allocated" and two numbers of bytes: by how much the process grew at its peak,
and eight times the temporary memory of the compiled step. What a first step takes it takes once.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from jaxdiff import platform  # noqa: E402

platform.configure(host_devices=8, accelerator=False)

import jax  # noqa: E402

from jaxdiff.presets import PRESETS  # noqa: E402
from jaxdiff.training import dispatch, loop  # noqa: E402
from jaxdiff.training.options import MeshConfig  # noqa: E402

STEP = dispatch.Steps.__call__


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) * 1024 for each in lines if each.startswith(field))


def watched(self, state, frozen, batch, *rest):
    """A step, and what it took."""
    jax.block_until_ready((state, batch))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    out = jax.block_until_ready(STEP(self, state, frozen, batch, *rest))
    ((compiled, _),) = self._compiled.values()
    said = 8 * compiled.memory_analysis().temp_size_in_bytes
    print("allocated", memory("VmHWM") - before, said, flush=True)
    return out


if __name__ == "__main__":
    tiny = PRESETS["tiny"][1]
    dispatch.Steps.__call__ = watched
    loop.train(
        replace(
            tiny,
            mesh=MeshConfig(2, 4),
            data=replace(tiny.data, batch_size=64),
            num_steps=2,
            preview=replace(tiny.preview, every=0),
            workdir=Path(sys.argv[1]),
        )
    )
