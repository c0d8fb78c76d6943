"""Prompt to picture as one jitted function of tokens, seeds, pictures, guidance and noise levels.

Only shapes, the sampler and the number of steps are compiled in: another prompt, seed, guidance,
noise schedule, strength, mask, or weight of a ControlNet or LoRA compiles nothing. A picture
depends on its own prompt, seed and pictures alone, not on what is drawn beside it.

Axis legend: B pictures, H W pixels, h w Z latents, S steps shown.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from jaxdiff.convert import Model, load_model, model_hash
from jaxdiff.convert.lora import Lora
from jaxdiff.data.wordpieces import load_tokenizer
from jaxdiff.diffusion.prediction import PREDICTIONS
from jaxdiff.errors import choose
from jaxdiff.models import ControlNetConfig, count_parameters
from jaxdiff.pipelines import extras
from jaxdiff.pipelines.engine import Engine, Job
from jaxdiff.pipelines.hooks import Drawn, Hooks, SafetyChecker, Watermark, apply_hooks
from jaxdiff.pipelines.network import Networks
from jaxdiff.pipelines.pictures import NO_PICTURES, Given, Pictures
from jaxdiff.pipelines.recipes import make_recipe
from jaxdiff.pipelines.rows import check_jobs
from jaxdiff.pipelines.settings import default_settings, wish_of, with_changes
from jaxdiff.pipelines.sizes import Room, arrange, check_used
from jaxdiff.provenance import Recipe

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class TextToImage:
    """A loaded model that draws.

    >>> pipe = TextToImage.load("models/emoji64")                       # doctest: +SKIP
    >>> pixels = pipe("a red heart, noto style", seeds=[0, 1])          # doctest: +SKIP
    >>> pixels.shape                                                    # doctest: +SKIP
    (2, 64, 64, 3)

    Args:
      model: networks, tokenizers and noise.
      dtype: what the networks compute in, float32 or bfloat16.
      name: of the model, for recipes.
      digest: of its weights, for recipes.
      prediction: said to be what the network predicts, against its files; for recipes.
      safety_checker: sees every picture before it is handed out, and may replace it.
      watermark: marks every picture that is handed out.
    """

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = "float32",
        name: str = "",
        digest: str = "",
        prediction: str = "",
        safety_checker: SafetyChecker | None = None,
        watermark: Watermark | None = None,
    ) -> None:
        self.dtype, self.digest = choose("dtype", dtype, DTYPES), digest
        self.name, self.prediction = model.meta.get("name") or name, prediction
        self._own_defaults = self.defaults = default_settings(model)
        """Settings that this model, with its LoRAs, draws best with."""
        self.extras, self._hooks = extras.Extras(), Hooks(safety_checker, watermark)
        self._mesh = Mesh(np.array(jax.local_devices()), ("data",))
        params = {"unet": model.unet_params, "vae": model.vae_params}
        params |= {tower.name: tower.params for tower in model.text}
        self._base: dict[str, Any] = {}
        self.params: dict[str, Any] = {}
        """Parameters of every network by its folder's name, LoRAs merged, on every device."""
        towers = tuple(tower._replace(params={}) for tower in model.text)
        self.model = dataclasses.replace(model, text=towers, unet_params={}, vae_params={})
        """Shapes, tokenizers and noise; the parameters are in `params`, once."""
        self.engine: Engine | None = None
        """The compiled function."""
        self._take(params)

    @classmethod
    def load(
        cls,
        where: str | Path,
        dtype: str = "float32",
        *,
        prediction: str | None = None,
        tokenizer_dir: str | Path | None = None,
        variant: str | None = None,
        **hooks: Any,
    ) -> "TextToImage":
        """Load a model directory, a single file, or a model of the hub (see `jaxdiff.convert`).

        Args:
          where: a path, or OWNER/NAME on the hub.
          dtype: what the networks compute in and their parameters are kept in.
          prediction: what the network predicts, where its files say otherwise or nothing.
          tokenizer_dir: tokenizer files to read instead of the model's own.
          variant: of a directory's weight files, such as "fp16".
          **hooks: `safety_checker` and `watermark`.

        Raises:
          UserError: a file is missing, truncated or does not fit, or the dtype is unknown.
        """
        choose("dtype", dtype, DTYPES)
        if prediction is not None:
            choose("prediction", prediction, PREDICTIONS)
        options = {"prediction": prediction, "tokenizer_dir": tokenizer_dir, "variant": variant}
        model = load_model(where, load_tokenizer, dtype=DTYPES[dtype], **options)
        names = {"name": extras.name_of(where), "digest": model_hash(where, variant)}
        return cls(model, dtype=dtype, prediction=prediction or "", **names, **hooks)

    # ----------------------------------------------------------------------- what takes part

    def replace(self, **params: Any) -> None:
        """Draw with other parameters from now on, of the same shapes: `replace(unet=average)`."""
        self._base |= jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))
        self.params = extras.merged(self._base, self.extras)

    def add_controlnet(
        self, given: str | Path | tuple[ControlNetConfig, Any], *, variant: str | None = None
    ) -> None:
        """Steer by one more ControlNet; every call from now on needs one more control image.

        Args:
          given: a directory, or what `convert.load_controlnet` makes of it.
          variant: of the directory's weight files, such as "fp16".

        Raises:
          UserError: it cannot be read, or is for another kind of model.
        """
        net, params = extras.read_controlnet(given, self.model, DTYPES[self.dtype], variant)
        nets = (*self.extras.controlnets, net)
        self._take({f"controlnet_{len(nets) - 1}": params}, controlnets=nets)

    def set_loras(
        self, loras: Sequence[tuple[Lora | str | Path, float]], *, merge: bool = True
    ) -> None:
        """Draw with these LoRAs at these weights from now on; none takes all off again.

        One that was distilled to few steps says so, and `defaults` follow it.

        Args:
          loras: (a file, or what `convert.lora.load_lora` makes of one; its weight) each; they add
            up.
          merge: into the parameters; else the UNet's are applied on the fly, which takes time for
            every picture, and no memory for merged ones. Text encoders' are merged in any case.

        Raises:
          UserError: a file is no LoRA, or one for another kind of model.
        """
        used = tuple(extras.read_lora(lora, weight, self.model) for lora, weight in loras)
        defaults = extras.defaults_with(self._own_defaults, used)
        self._take({}, loras=used, merge=merge)
        self.defaults = defaults

    def add_embedding(self, path: str | Path) -> str:
        """Learn the word of a textual inversion; returns it, as prompts write it.

        Raises:
          UserError: the file is no textual inversion, or one for another kind of model.
        """
        token, record, towers = extras.read_embedding(path, self.model, self._base)
        bare = tuple(tower._replace(params={}) for tower in towers)
        self.model = dataclasses.replace(self.model, text=bare)
        params = {tower.name: tower.params for tower in towers}
        self._take(params, embeddings=(*self.extras.embeddings, record))
        return token

    def set_refiner(self, refiner: "TextToImage | None", start: float = 0.8) -> None:
        """Let another model go on from `start` of the way, as SDXL's refiner does; None: no more.

        Raises:
          UserError: its latents are of another kind, or `start` is not between 0 and 1.
        """
        if refiner is not None:
            extras.check_refiner(self.model, refiner.model, start, refiner.name)
        self._take({}, refiner=refiner, refiner_start=start)

    def _take(self, params: dict[str, Any], **changes: Any) -> None:
        """Change what takes part; the function compiles anew only if the networks are others."""
        self.extras = dataclasses.replace(self.extras, **changes)
        self.replace(**params)
        configs = tuple(net.config for net in self.extras.controlnets)
        networks = Networks(self.model, configs, DTYPES[self.dtype])
        if self.engine is None or params:
            self.engine = Engine(networks, self._mesh)

    # ------------------------------------------------------------------------------- drawing

    @property
    def num_parameters(self) -> int:
        """Of all networks, those that were added and the refiner's included."""
        refiner = self.extras.refiner
        return count_parameters(self.params) + (0 if refiner is None else refiner.num_parameters)

    @property
    def batch_size(self) -> int:
        """How many pictures are drawn at a time; longer calls are cut into batches."""
        return self.engine.batch_size

    @property
    def image_size(self) -> int:
        """Height and width in pixels that the model was trained on."""
        return self.model.unet_config.sample_size * self.model.vae_config.downscale

    def __call__(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        *,
        init_images: Given = None,
        masks: Given = None,
        control_images: Sequence[Given] = (),
        latents: Float[np.ndarray, "B h w Z"] | None = None,
        **changes: Any,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Draw one picture per seed.

        Args:
          prompts: one for all seeds, or one per seed.
          seeds: integers in [0, 2^32); equal prompt, seed and settings give the equal picture.
          init_images: to start from: uint8 [H W 3] for all seeds, or [B H W 3].
          masks: white where to draw, black where the picture stays: uint8 [H W] or [B H W].
          control_images: for each ControlNet, uint8 [H W 3] or [B H W 3].
          latents: unit noise to start from instead of the seeds' own.
          **changes: fields of `Settings` that differ from `self.defaults`.

        Raises:
          UserError: a setting, a seed or a picture is not as it should be.
        """
        pictures = Pictures.of(init_images, masks, control_images)
        return self.draw(prompts, seeds, pictures, latents=latents, **changes).pixels

    def with_steps(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        pictures: Pictures = NO_PICTURES,
        **changes: Any,
    ) -> tuple[UInt8[np.ndarray, "B H W 3"], UInt8[np.ndarray, "B S H W 3"]]:
        """Pictures as from `draw`, and the x0 predictions at S <= 8 of the steps, in order."""
        drawn = self.draw(prompts, seeds, pictures, show=True, **changes)
        return drawn.pixels, drawn.steps

    def draw(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        pictures: Pictures = NO_PICTURES,
        **options: Any,
    ) -> Drawn:
        """As a call, with the options of `job`, and with what the hooks say."""
        job = self.job(prompts, seeds, pictures, **options)
        drawn = extras.draw_in_turn(self.engine, self.params, job, self.extras)
        return apply_hooks(drawn, job.prompts, self._hooks)

    def job(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        pictures: Pictures = NO_PICTURES,
        *,
        latents: Float[np.ndarray, "B h w Z"] | None = None,
        show: bool = False,
        **changes: Any,
    ) -> Job:
        """What `draw` is asked for, checked before anything is compiled.

        Args:
          prompts: as of a call, like `seeds`, `latents` and `changes`.
          seeds: one per picture.
          pictures: all that go in; they know their files.
          latents: unit noise to start from.
          show: whether steps on the way are kept.
          **changes: fields of `Settings`.

        Raises:
          UserError: as for a call.
        """
        settings, prompts = with_changes(self.defaults, changes), check_jobs(prompts, seeds)
        check_used(changes, pictures, self.room)
        layout = arrange(pictures, wish_of(settings), self.room)
        job = Job(prompts, seeds, layout, settings, latents=latents, show=show)
        extras.check_job(self.engine, job, self.extras)
        return job

    def recipe(
        self, prompt: str, seed: int, pictures: Pictures = NO_PICTURES, **changes: Any
    ) -> Recipe:
        """What a picture of this call shall carry."""
        check_used(changes, pictures, self.room)
        return make_recipe(self, prompt, seed, with_changes(self.defaults, changes), pictures)

    @property
    def room(self) -> Room:
        """What sizes this model can draw."""
        networks, size = self.engine.networks, self.image_size
        inside = networks.guided_inside
        return Room((size, size), networks.downscale, networks.upscales, inside)
