"""What a run needs, known before it starts: its real step, compiled for devices that are not there.

The three least times of a step are those of a roofline (Williams et al. 2009), each as if the other
two cost nothing:

    t_compute = FLOPs / peak,   t_memory = bytes / bandwidth,   t_links = bytes sent / bandwidth (1)

The step takes at least the longest: MFU <= model FLOPs / (peak max t), images/s <= B / max t, if
what is counted is what a run does: estimates, and programs compiled with less effort, which fuse
less and send wider numbers, say about where the bound is.

Axis legend: B examples of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxdiff.planning.blueprint import with_unet_options
from jaxdiff.planning.chips import Topology
from jaxdiff.planning.collectives import Collective
from jaxdiff.training.config import TrainConfig

_STAND_IN = "blocked"  # keeps as little as cuDNN's kernel, which only compiles where the card is


@dataclass(frozen=True)
class Plan:
    """What one step of a run needs on a topology; bytes and operations are per device."""

    run: TrainConfig
    """The run, as it was planned."""
    topology: Topology
    """The devices."""
    mesh: dict[str, int]
    """Axes and their sizes."""
    parameters: int
    """Numbers that are trained, in all."""
    model_flops: float
    """Per step and device, without what is computed twice to save memory."""
    flops: float
    """With it."""
    state: float
    """Bytes of parameters, average and moments."""
    inputs: float
    """Bytes of frozen parameters and the batch."""
    saved: float
    """Bytes that the forward pass keeps for the backward pass, an estimate."""
    gradients: float
    """Bytes of the gradients."""
    temporaries: float
    """Bytes that the compiler sets aside besides, saved ones and gradients included."""
    code: float
    """Bytes of the program."""
    traffic: float
    """Bytes between memory and chip."""
    collectives: Sequence[Collective]
    """What goes between devices."""
    source: str
    """What the numbers of bytes were read from: the compiled step, or an estimate."""
    firm: bool = False
    """Whether it was compiled as a run is, so that eq. (1) bounds what a run can do."""
    refused: str = ""
    """What the compiler said of a step that does not fit."""
    seconds: tuple[float, float] = (0.0, 0.0)
    """How long the plan took, and how long of that cores were busy with it."""

    @property
    def total(self) -> float:
        """Bytes at the peak of a step."""
        return self.state + self.inputs + self.temporaries + self.code

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return not self.refused and self.total <= self.topology.memory

    @property
    def times(self) -> dict[str, float]:
        """Seconds of a step by what could bind it (eq. 1)."""
        chip = self.topology.chip
        return {
            "compute": self.flops / chip.flops,
            "memory": self.traffic / chip.memory_rate,
            "interconnect": sum(
                each.sent / self.topology.rate(each.group) for each in self.collectives
            ),
        }

    @property
    def step_seconds(self) -> float:
        """The least time that a step takes."""
        return max(self.times.values())

    @property
    def images_per_second(self) -> float:
        """The most examples that all devices together train on in a second."""
        return self.run.data.batch_size / self.step_seconds

    @property
    def mfu(self) -> float:
        """The largest share of the peak that the model's own operations can have."""
        return self.model_flops / self.topology.chip.flops / self.step_seconds

    @property
    def rows(self) -> int:
        """Examples of a micro-batch on each device."""
        parts = self.mesh["data"] * self.mesh["fsdp"] * self.run.optimizer.accumulate
        return self.run.data.batch_size // parts

    @property
    def most_rows(self) -> int:
        """The most examples of a micro-batch that a device has room for.

        What grows with them is on a straight line from the gradients, which do not, to this plan.
        """
        growing = max(self.temporaries - self.gradients, 1) / self.rows
        room = self.topology.memory - self.state - self.inputs - self.code - self.gradients
        return max(int(room / growing), 0)


def for_platform(run: TrainConfig, topology: Topology) -> TrainConfig:
    """The run as it can be traced here for a topology."""
    gpu = topology.chip.platform == "gpu"
    return with_unet_options(run, attention=_STAND_IN) if gpu else run
