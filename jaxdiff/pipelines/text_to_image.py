"""Prompt to picture as one jitted function of token ids, seeds, guidance and noise levels.

Only shapes, the sampler and the number of steps are compiled in: another prompt, seed, guidance or
noise schedule compiles nothing. A picture depends on its own prompt and seed alone, not on the
pictures beside it.

Axis legend: B pictures, H W pixels, h w Z latents, S steps shown.
"""

import dataclasses
import functools
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from jaxdiff.convert import Model, load_model, model_hash
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.diffusion.grids import make_grid
from jaxdiff.errors import UserError, choose
from jaxdiff.pipelines.draw import Controls, Rows, draw
from jaxdiff.pipelines.jobs import MAX_SEED
from jaxdiff.pipelines.settings import Settings, with_changes
from jaxdiff.provenance import Recipe

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PER_DEVICE = 8  # pictures at a time


class TextToImage:
    """A loaded model that draws.

    >>> pipe = TextToImage.load("models/emoji64")                       # doctest: +SKIP
    >>> pixels = pipe("a red heart, noto style", seeds=[0, 1])          # doctest: +SKIP
    >>> pixels.shape                                                    # doctest: +SKIP
    (2, 64, 64, 3)

    Args:
      model: networks, tokenizer and noise.
      dtype: what the networks compute in, float32 or bfloat16.
      name: of the model, for recipes.
      digest: of its weights, for recipes.
    """

    def __init__(
        self, model: Model, *, dtype: str = "float32", name: str = "", digest: str = ""
    ) -> None:
        self.dtype, self.digest = choose("dtype", dtype, DTYPES), digest
        self.name = model.meta.get("name") or name
        self.defaults = _default_settings(model)
        """Settings that this model draws best with."""
        self._mesh = Mesh(np.array(jax.local_devices()), ("data",))
        params = {"unet": model.unet_params, "vae": model.vae_params}
        params |= {tower.name: tower.params for tower in model.text}
        self.params: dict[str, Any] = {}
        """Parameters of every network by its folder's name, on every device."""
        self.replace(**params)
        towers = tuple(tower._replace(params={}) for tower in model.text)
        self.model = dataclasses.replace(model, text=towers, unet_params={}, vae_params={})
        """Shapes, tokenizer and noise; the parameters are in `params`, once."""
        self._draw = jax.jit(
            functools.partial(draw, self.model, DTYPES[dtype]), static_argnames=("sampler", "show")
        )

    def replace(self, **params: Any) -> None:
        """Draw with other parameters from now on, of the same shapes: `replace(unet=average)`."""
        self.params |= jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))

    @classmethod
    def load(cls, directory: str | Path, dtype: str = "float32") -> "TextToImage":
        """Load a model directory (see `jaxdiff.convert`).

        Raises:
          UserError: a file is missing, truncated or does not fit, or the dtype is unknown.
        """
        choose("dtype", dtype, DTYPES)
        model = load_model(directory, Tokenizer.load)
        name = Path(directory).resolve().name
        return cls(model, dtype=dtype, name=name, digest=model_hash(directory))

    @property
    def batch_size(self) -> int:
        """How many pictures are drawn at a time; longer calls are cut into batches."""
        return PER_DEVICE * self._mesh.size

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.model.unet_config.sample_size * self.model.vae_config.downscale

    def __call__(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        *,
        latents: Float[np.ndarray, "B h w Z"] | None = None,
        **changes: Any,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Draw one picture per seed.

        Args:
          prompts: one for all seeds, or one per seed.
          seeds: integers in [0, 2^32); equal prompt, seed and settings give the equal picture.
          latents: unit noise to start from instead of the seeds' own.
          **changes: fields of `Settings` that differ from `self.defaults`.

        Raises:
          UserError: a setting or a seed is out of range.
        """
        return self._run(prompts, seeds, latents, changes, show=False)[0]

    def with_steps(
        self, prompts: str | Sequence[str], seeds: Sequence[int], **changes: Any
    ) -> tuple[UInt8[np.ndarray, "B H W 3"], UInt8[np.ndarray, "B S H W 3"]]:
        """Pictures as from a call, and the x0 predictions at S <= 8 of the steps, first to last."""
        return self._run(prompts, seeds, None, changes, show=True)

    def recipe(self, prompt: str, seed: int, **changes: Any) -> Recipe:
        """What a picture of this call shall carry."""
        settings = with_changes(self.defaults, changes)
        size = self.image_size
        return Recipe(
            prompt=prompt,
            negative_prompt=settings.negative_prompt,
            seed=seed,
            sampler=settings.sampler,
            schedule=settings.schedule,
            num_steps=settings.num_steps,
            guidance_scale=settings.guidance_scale,
            guidance_rescale=settings.guidance_rescale,
            model=self.name,
            model_hash=self.digest,
            width=size,
            height=size,
            dtype=self.dtype,
            licence=str(self.model.meta.get("licence", "")),
            versions=_versions(),
        )

    def _run(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        latents: np.ndarray | None,
        changes: dict[str, Any],
        show: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Tokenise, cut into batches, draw."""
        settings = with_changes(self.defaults, changes)
        prompts = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
        if len(prompts) != len(seeds):
            raise UserError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one per picture")
        if not prompts:
            raise UserError("nothing to draw: no prompts and no seeds; give a seed per picture")
        for seed in seeds:
            if not 0 <= seed <= MAX_SEED:
                raise UserError(f"seed {seed} is out of range; give 0 to {MAX_SEED}")
        tokenizer = self.model.text[0].tokenizer
        ids = tokenizer(prompts)
        negative = np.repeat(tokenizer([settings.negative_prompt]), len(ids), axis=0)
        rows = Rows(ids, negative, np.asarray(seeds, np.uint32), latents)
        noise = self.model.noise
        controls = Controls(
            np.float32(settings.guidance_scale),
            np.float32(settings.guidance_rescale),
            make_grid(
                noise.process(),
                settings.schedule,
                settings.num_steps,
                steps_offset=noise.steps_offset,
            ),
        )
        size = self.batch_size
        batches = [
            self._batch(_rows(rows, start, start + size), controls, settings.sampler, show)
            for start in range(0, len(seeds), size)
        ]
        pixels, steps = zip(*batches, strict=True)
        return np.concatenate(pixels), np.concatenate(steps) if show else None

    def _batch(
        self, rows: Rows, controls: Controls, sampler: str, show: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw one batch, padded to a power of two of pictures per device: few shapes compile."""
        count, devices = len(rows.seeds), self._mesh.size
        per_device = 1 << (-(-count // devices) - 1).bit_length()
        take = np.minimum(np.arange(per_device * devices), count - 1)  # repeats the last row
        padded = jax.tree.map(lambda array: np.asarray(array)[take], rows)
        padded = jax.device_put(padded, NamedSharding(self._mesh, PartitionSpec("data")))
        pixels, steps = self._draw(self.params, padded, controls, sampler=sampler, show=show)
        shown = np.asarray(steps).swapaxes(0, 1)[:count] if show else None
        return np.asarray(pixels)[:count], shown


def _default_settings(model: Model) -> Settings:
    """The library's defaults, the model's noise schedule, and what the model's card recommends."""
    recommended = model.meta.get("sampling", {})
    for name in recommended:
        choose("setting in jaxdiff.json", name, [f.name for f in dataclasses.fields(Settings)])
    return with_changes(Settings(schedule=model.noise.spacing), recommended)


def _rows(rows: Rows, start: int, stop: int) -> Rows:
    return jax.tree.map(lambda array: array[start:stop], rows)


def _versions() -> dict[str, str]:
    """What drew a picture: libraries and device."""
    from jaxdiff import __version__

    libraries = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    return {"jaxdiff": __version__, **libraries, "device": jax.devices()[0].device_kind}
