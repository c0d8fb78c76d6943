"""Settings to noise levels: which steps each pass takes, and when each ControlNet is on.

On the host, in numpy. Axis legend: N+1 levels of N steps.
"""

import numpy as np

from jaxdiff.convert import NoiseConfig
from jaxdiff.diffusion.grids import Grid, last_steps, make_grid
from jaxdiff.diffusion.process import Process
from jaxdiff.errors import UserError
from jaxdiff.pipelines.inputs import Pass
from jaxdiff.pipelines.network import Dial
from jaxdiff.pipelines.settings import Settings

SHOWN_STEPS = 8  # x0 predictions that are shown of a run


def first_pass(
    noise: NoiseConfig,
    settings: Settings,
    *,
    strength: float | None,
    masked: bool,
    controlnets: int,
    span: tuple[float, float] = (0.0, 1.0),
) -> Pass:
    """The pass from noise, or the last part of it, from a picture.

    With a picture, the last int(N strength) of N steps, as in diffusers; of a span, those among
    them.

    Args:
      noise: the model's.
      settings: steps, schedule, ControlNets.
      strength: of redrawing a picture given; None is from noise.
      masked: whether only a part is drawn.
      controlnets: how many there are.
      span: from which to which share of the way to go, where two models share it.

    Raises:
      UserError: the strength takes no step and is not 0, or ControlNets and weights differ in
        number.
    """
    grid = sampling_grid(noise, settings)
    start, stop = (_split(noise.process(), grid, share) for share in span)
    if strength is not None:
        start = max(start, grid.n - taken(settings.num_steps, strength, "strength"))
    partial = strength is not None or span != (0.0, 1.0)
    count = max(stop - start, 0)
    dials = _dials(noise.process(), grid, start, count, settings, controlnets)
    run = last_steps(grid, grid.n - start) if partial else grid
    fresh = np.bool_(masked and strength == 1)
    return Pass(run, np.int32(count) if partial else None, fresh, dials)


def second_pass(noise: NoiseConfig, settings: Settings, controlnets: int) -> Pass:
    """The pass over the enlarged picture."""
    grid = sampling_grid(noise, settings)
    count = taken(settings.num_steps, settings.hires_strength, "hires strength")
    dials = _dials(noise.process(), grid, grid.n - count, count, settings, controlnets)
    return Pass(last_steps(grid, count), np.int32(count), np.bool_(False), dials)


def taken(num_steps: int, strength: float, name: str) -> int:
    """How many of the steps a strength takes: int(N strength), as in diffusers.

    Raises:
      UserError: it is not 0, and takes none.
    """
    count = min(int(num_steps * strength), num_steps)
    if count == 0 and strength > 0:
        raise UserError(
            f"{name} {strength:g} takes none of {num_steps} steps; give 0, or at least "
            f"1/{num_steps}"
        )
    return count


def shown_steps(count: int) -> np.ndarray:
    """Which steps to show of so many: at most `SHOWN_STEPS`, the first and the last among them."""
    steps = np.linspace(0, max(count - 1, 0), min(max(count, 1), SHOWN_STEPS))
    return steps.round().astype(np.int32)


def sampling_grid(noise: NoiseConfig, settings: Settings) -> Grid:
    """The levels that the settings visit.

    Raises:
      UserError: the process has no such steps.
    """
    return make_grid(
        noise.process(), settings.schedule, settings.num_steps, steps_offset=noise.steps_offset
    )


def _split(process: Process, grid: Grid, share: float) -> int:
    """The first level at which less than 1 - share of the way is left: t below it, or clean."""
    if share == 0:
        return 0
    t = np.asarray(grid.t, np.float64)
    edge = 1.0 - share + 0.5 / process.num_levels  # t = (timestep + 1) / N
    return int(np.sum(t[:-1] > edge)) if share < 1 else grid.n


def _dials(
    process: Process, grid: Grid, start: int, count: int, settings: Settings, controlnets: int
) -> tuple[Dial, ...]:
    """Each ControlNet's weight, and its steps as a range of what the network is told of t."""
    weights = settings.control_weights or (1.0,) * controlnets
    ranges = settings.control_ranges or ((0.0, 1.0),) * controlnets
    for what, given in (("weights", weights), ("ranges of steps", ranges)):
        if len(given) != controlnets:
            raise UserError(f"{len(given)} {what} for {controlnets} ControlNets; give one for each")
    told = np.asarray(process.timestep(np.asarray(grid.t, np.float64)))
    dials = []
    for weight, (first, last) in zip(weights, ranges, strict=True):
        on = [i for i in range(count) if not i / count < first and not (i + 1) / count > last]
        low, high = _bounds(told, start + on[0], start + on[-1]) if on else (np.inf, np.inf)
        dials.append(Dial(np.float32(weight), np.float32(low), np.float32(high)))
    return tuple(dials)


def _bounds(told: np.ndarray, first: int, last: int) -> tuple[float, float]:
    """Between the levels: what a method asks for within a step is within it."""
    final = last + 2 == len(told)  # the network may be told the same of the clean end
    low = -np.inf if final else told[last + 1] + 0.1 * (told[last] - told[last + 1])
    high = np.inf if first == 0 else told[first] + 0.1 * (told[first - 1] - told[first])
    return low, high
