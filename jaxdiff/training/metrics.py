"""Where the numbers of a run go: a console line or bar, a JSON-lines file and TensorBoard."""

import json
import math
import re
import sys
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from jaxdiff.training.workdir import writing

# Peak dense bfloat16 TFLOP/s of one device, from the vendors' data sheets.
PEAK_TFLOPS = {
    "TPU v2": 22.5,  # a v2 or v3 device is one core of two
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
    "NVIDIA A100": 312.0,
    "NVIDIA H100": 989.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H200": 989.0,
    "NVIDIA L4": 121.0,
}


def peak_tflops() -> float | None:
    """Peak TFLOP/s of the first device, or None where it is not known (CPUs)."""
    kind = jax.devices()[0].device_kind
    matches = [name for name in PEAK_TFLOPS if re.match(rf"{name}(?![0-9A-Za-z])", kind)]
    return PEAK_TFLOPS[max(matches, key=len)] if matches else None


class Throughput:
    """Images and floating-point operations per second since the last time it was asked.

    Args:
      batch_size: images of a step.
      num_steps: the last step, for the time that is left.
    """

    def __init__(self, batch_size: int, num_steps: int):
        self._batch_size, self._num_steps = batch_size, num_steps
        self._peak = peak_tflops()
        self._step, self._time, self._flops = 0, 0.0, 0.0

    def start(self, step: int) -> None:
        """Count from `step` and now."""
        self._step, self._time, self._flops = step, time.perf_counter(), 0.0

    def count(self, flops: float) -> None:
        """A step of so many floating-point operations, over all devices, was begun."""
        self._flops += flops

    def leave_out(self, seconds: float) -> None:
        """So much of the time was spent on something else."""
        self._time += seconds

    def measure(self, step: int) -> dict[str, float]:
        """Rates since the last call; call it when step `step` has really finished."""
        steps = max(step - self._step, 1)
        seconds = (time.perf_counter() - self._time) / steps
        tflops = self._flops / steps / seconds / 1e12 / jax.device_count()
        self.start(step)
        rates = {
            "seconds_per_step": seconds,
            "images_per_second": self._batch_size / seconds,
            "tflops_per_device": tflops,
            "eta_seconds": (self._num_steps - step) * seconds,
        }
        if self._peak:
            rates["mfu"] = tflops / self._peak
        return rates


class MetricsWriter:
    """Write metrics of the first process; the others write nothing.

    Lines of steps after `start`, which a killed run wrote after its last checkpoint, are dropped:
    these steps come again.

    Args:
      workdir: gets `metrics.jsonl` and `tensorboard/`.
      num_steps: length of the progress bar.
      start: step that the run goes on from.

    Raises:
      UserError: the disk is full.
    """

    def __init__(self, workdir: Path, num_steps: int, start: int):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        from tensorboardX import SummaryWriter

        self._path, self._board_path = workdir / "metrics.jsonl", workdir / "tensorboard"
        with writing(self._path):
            _drop_after(self._path, start)
            self._file = self._path.open("a")
        with writing(self._board_path):
            # A thread writes what is queued. If it dies, a full queue would block for ever; see
            # `write`.
            self._board = SummaryWriter(
                str(self._board_path), purge_step=start + 1, max_queue=10_000
            )
        self._num_steps = num_steps
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=num_steps, initial=start, unit="step", dynamic_ncols=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line everywhere.

        Raises:
          UserError: the disk is full.
        """
        if not self._active:
            return
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        with writing(self._board_path):
            self._board.flush()  # raises what stopped the thread
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._bar is None:
            print(f"step {step}/{self._num_steps}  {format_metrics(values)}", flush=True)
        else:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(format_metrics(values))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Hand a uint8 picture [H, W, 3] to TensorBoard."""
        if self._active:
            self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        if self._active:
            self._file.close()
            with writing(self._board_path):
                self._board.close()
            if self._bar is not None:
                self._bar.close()


def _drop_after(path: Path, step: int) -> None:
    """Keep the whole lines of `path` up to `step`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # cut off by a kill
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def format_metrics(values: dict[str, float]) -> str:
    """The console's line.

    >>> format_metrics({"loss": 0.25, "images_per_second": 64.04, "eta_seconds": 3700})
    'loss 0.25000  64.0 img/s  eta 1:01:40'
    """
    forms = {
        "loss": "loss {:.5f}",
        "grad_norm": "grad {:.3f}",
        "learning_rate": "lr {:.2e}",
        "images_per_second": "{:.1f} img/s",
        "tflops_per_device": "{:.3f} TFLOP/s/device",
        "mfu": "MFU {:.1%}",
    }
    parts = [form.format(values[name]) for name, form in forms.items() if name in values]
    if "eta_seconds" in values:
        minutes, seconds = divmod(int(values["eta_seconds"]), 60)
        parts.append(f"eta {minutes // 60}:{minutes % 60:02d}:{seconds:02d}")
    return "  ".join(parts)
