"""One compiled function and the devices that it runs on: rows in, pixels out, batch by batch.

Axis legend: B pictures, H W pixels, h w Z latents, S steps shown.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff import target
from jaxdiff.convert import Model
from jaxdiff.errors import UserError
from jaxdiff.pipelines import plan
from jaxdiff.pipelines.draw import draw
from jaxdiff.pipelines.encode import check_clip_skip
from jaxdiff.pipelines.inputs import How, Pass, Rows, Shared, SmallNoise
from jaxdiff.pipelines.network import Networks, Params
from jaxdiff.pipelines.rows import cut_rows, make_rows, pad_rows, read_prompt
from jaxdiff.pipelines.settings import Settings
from jaxdiff.pipelines.sizes import Layout

PER_DEVICE = 8  # pictures at a time


class Job(NamedTuple):
    """What to draw."""

    prompts: Sequence[str]
    """One for each picture."""
    seeds: Sequence[int]
    """One for each picture."""
    layout: Layout
    """Sizes and pictures."""
    settings: Settings
    """How."""
    latents: np.ndarray | None = None
    """Unit noise [B h w Z] instead of the seeds' own."""
    sample: np.ndarray | None = None
    """What another model drew so far, [B h w Z]."""
    span: tuple[float, float] = (0.0, 1.0)
    """The part of the way that is gone."""
    show: bool = False
    """Whether to return steps."""


class Engine:
    """The function for one set of networks.

    Args:
      networks: their shapes.
      mesh: devices, with the axis `data`.
    """

    def __init__(self, networks: Networks, mesh: Mesh) -> None:
        self.networks, self.mesh = networks, mesh
        self._draw = jax.jit(functools.partial(draw, networks), static_argnames="how")

    @property
    def batch_size(self) -> int:
        """How many pictures are drawn at a time; longer jobs are cut into batches."""
        return PER_DEVICE * self.mesh.size

    def check(self, job: Job) -> None:
        """Refuse what this model cannot do, before anything is compiled.

        Raises:
          UserError: too many layers are left out, a strength takes no step, or a number of weights
            or a noise level does not fit.
        """
        check_clip_skip(self.networks.model, job.settings.clip_skip)
        self._shared(job)

    def run(self, params: Params, job: Job) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels, or latents where the span ends early, and steps [B S H W 3] if shown.

        Args:
          params: of all networks, on the mesh.
          job: what to draw.
        """
        settings, model = job.settings, self.networks.model
        read = functools.cache(
            lambda prompt: read_prompt(model, prompt, settings.negative_prompt, settings.max_chunks)
        )
        words = [read(prompt) for prompt in job.prompts]
        shared, how = self._shared(job), self._how(job)
        groups = make_rows(words, job.seeds, job.layout, latents=job.latents, sample=job.sample)
        places, pixels, steps = [], [], []
        for at, rows in groups:
            for start in range(0, len(at), self.batch_size):
                part = cut_rows(rows, start, start + self.batch_size)
                drawn, shown = self._batch(params, part, shared, how)
                places.append(at[start : start + self.batch_size])
                pixels.append(drawn)
                steps.append(shown)
        order = np.argsort(np.concatenate(places))
        together = np.concatenate(pixels)[order]
        return together, np.concatenate(steps)[order] if job.show else None

    def _batch(
        self, params: Params, rows: Rows, shared: Shared, how: How
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw one batch, padded so that few shapes compile."""
        count, sharding = len(rows.seeds), NamedSharding(self.mesh, PartitionSpec("data"))
        padded = jax.device_put(pad_rows(rows, self.mesh.size), sharding)
        with target.cut_over(self.mesh, rows=("data",)):
            pixels, steps = self._draw(params, padded, shared, how=how)
        shown = None if steps is None else np.asarray(steps).swapaxes(0, 1)[:count]
        return np.asarray(pixels)[:count], shown

    def _how(self, job: Job) -> How:
        settings, sizes = job.settings, job.layout.sizes
        return How(
            sampler=settings.sampler,
            size=sizes.first,
            hires_size=sizes.second,
            clip_skip=settings.clip_skip,
            tile=settings.tile,
            as_latents=job.span[1] < 1,
        )

    def _shared(self, job: Job) -> Shared:
        settings, noise = job.settings, self.networks.model.noise
        masked, nets = job.layout.mask is not None, len(self.networks.controlnets)
        given = job.layout.init is not None
        first = plan.first_pass(
            noise,
            settings,
            strength=settings.strength_of(masked) if given else None,
            masked=masked,
            controlnets=nets,
            span=job.span,
        )
        hires = job.layout.sizes.second is not None
        return Shared(
            guidance_scale=np.float32(settings.guidance_scale),
            guidance_rescale=np.float32(settings.guidance_rescale),
            guidance_interval=tuple(map(np.float32, settings.guidance_interval)),
            silent=np.bool_(settings.negative_prompt == ""),
            first=first,
            second=plan.second_pass(noise, settings, nets) if hires else None,
            small_noise=_small_noise(self.networks.model, settings, job.layout),
            shown=plan.shown_steps(_steps(first)) if job.show else None,
        )


def _steps(run: Pass) -> int:
    """How many steps a pass takes."""
    return run.grid.n if run.count is None else int(run.count)


def _small_noise(model: Model, settings: Settings, layout: Layout) -> SmallNoise | None:
    """The noise on an upscaler's small picture, at the level of its own process.

    Raises:
      UserError: the level is beyond what the model was trained on.
    """
    if layout.small is None:
        return None
    if settings.noise_level > model.max_noise_level:
        raise UserError(
            f"noise level is {settings.noise_level}; give at most {model.max_noise_level}, the "
            "most that this model was trained on"
        )
    process = model.low_res_noise.process()
    t = (settings.noise_level + 1) / process.num_levels
    alpha, sigma = (np.float32(level(np.float64(t))) for level in (process.alpha, process.sigma))
    return SmallNoise(np.int32(settings.noise_level), alpha, sigma)
