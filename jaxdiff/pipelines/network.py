"""Prompt and pictures to Denoise, inside the jitted function: text, sizes, ControlNets, guidance.

Axis legend: B pictures, R rows of a network call (B, or 2B: with the prompts, then without), T
tokens, D text width, h w Z latents, H W pixels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdiff.convert import Model
from jaxdiff.diffusion.prediction import Net
from jaxdiff.models import ControlNet, ControlNetConfig, UNet, add_residuals, scale_residuals
from jaxdiff.models.lora import intercept
from jaxdiff.models.unet import ControlResiduals
from jaxdiff.pipelines.encode import TextCondition, size_conditioning

AESTHETIC_SCORES = (6.0, 2.5)
"""What SDXL's refiner is told of the prompt's picture and of the other's, as in diffusers."""

Params = dict[str, Any]


class Networks(NamedTuple):
    """The shapes of all networks; compiled in."""

    model: Model
    """UNet, autoencoder, text encoders and noise, without parameters."""
    controlnets: tuple[ControlNetConfig, ...]
    """Their parameters are `controlnet_0`, `controlnet_1`, ..."""
    dtype: DTypeLike
    """What they compute in."""

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel along one side."""
        return self.model.vae_config.downscale

    @property
    def inpaints(self) -> bool:
        """Whether the UNet is given a mask and the masked picture."""
        return self.model.family.endswith("-inpaint")

    @property
    def upscales(self) -> bool:
        """Whether the UNet is given a small picture to enlarge."""
        return self.model.family.endswith("-upscale")

    @property
    def guided_inside(self) -> bool:
        """Whether the UNet is told the guidance scale (LCM), instead of being called twice."""
        return self.model.unet_config.time_cond_proj_dim is not None


class Dial(NamedTuple):
    """One ControlNet's part in one pass."""

    weight: Float[Array, ""]
    """Factor on its residuals."""
    low: Float[Array, ""]
    """It is on at network timesteps above this one,"""
    high: Float[Array, ""]
    """up to this one."""


class Given(NamedTuple):
    """What a network call is conditioned on, for R rows."""

    text: TextCondition
    """Context [R T D], and SDXL's pooled text."""
    extra: Float[Array, "R h w C"] | None
    """Channels behind the noisy latents."""
    labels: Any
    """int [R]: the upscaler's noise level; None elsewhere."""
    scale: Float[Array, ""]
    """Guidance scale, for networks that are told it."""
    images: tuple[Float[Array, "R H W 3"], ...]
    """One for each ControlNet, in [0, 1]."""
    dials: tuple[Dial, ...]
    """One for each ControlNet."""


def make_net(networks: Networks, params: Params, given: Given, size: tuple[int, int]) -> Net:
    """The UNet, steered by the ControlNets, as a function of (x_t [R h w Z], timestep [R]).

    Args:
      networks: all shapes.
      params: all parameters; `lora`, if there, holds the UNet's LoRAs and their weights.
      given: what the call is conditioned on.
      size: height and width in pixels, which SDXL is told.
    """
    config = networks.model.unet_config
    unet = UNet(config, networks.dtype)
    context = given.text.context
    added, rows = _added(networks, given.text, size), context.shape[0]
    scale = jnp.broadcast_to(given.scale, (rows,)) if networks.guided_inside else None

    def net(x_t: Float[Array, "R h w Z"], timestep: Float[Array, " R"]) -> Array:
        residuals = _steer(networks, params, given, added, x_t, timestep)
        x = x_t if given.extra is None else jnp.concatenate([x_t, given.extra], axis=-1)
        with intercept(params.get("lora", ())):
            return unet.apply(
                {"params": params["unet"]},
                x,
                timestep,
                context,
                added,
                residuals=residuals,
                class_labels=given.labels,
                guidance_cond=scale,
            )

    return net


def _added(
    networks: Networks, text: TextCondition, size: tuple[int, int]
) -> dict[str, Array] | None:
    """SDXL's pooled text and sizes: the picture is as drawn, uncropped."""
    if networks.model.unet_config.addition_embed_type is None:
        return None
    rows = text.context.shape[0]
    if networks.model.family.startswith("sdxl-refiner"):
        prompt, other = AESTHETIC_SCORES
        scores = jnp.where(_prompted(networks, rows), prompt, other)
        ids = size_conditioning(size, (0, 0), aesthetic_score=scores)
    else:
        ids = size_conditioning(size, (0, 0), size)
    return {"text_embeds": text.pooled, "time_ids": jnp.broadcast_to(ids, (rows, ids.shape[-1]))}


def _steer(
    networks: Networks,
    params: Params,
    given: Given,
    added: dict[str, Array] | None,
    x_t: Array,
    timestep: Array,
) -> ControlResiduals | None:
    """What the ControlNets add; one that is off at this timestep is not computed.

    One that pools over the picture steers the prompts' rows alone.
    """
    parts = []
    for i, (config, image, dial) in enumerate(
        zip(networks.controlnets, given.images, given.dials, strict=True)
    ):
        sizes = added if config.addition_embed_type is not None else None

        def call(config=config, image=image, dial=dial, sizes=sizes, i=i) -> ControlResiduals:  # noqa: ANN001
            residuals = ControlNet(config, networks.dtype).apply(
                {"params": params[f"controlnet_{i}"]},
                x_t,
                timestep,
                given.text.context,
                image,
                sizes,
            )
            rows = timestep.shape[0]
            steered = _prompted(networks, rows) if config.global_pool_conditions else True
            return scale_residuals(
                residuals, jnp.broadcast_to(jnp.where(steered, dial.weight, 0.0), (rows,))
            )

        now = timestep[0]
        on = (now > dial.low) & (now <= dial.high) & (dial.weight != 0)
        parts.append(jax.lax.cond(on, call, _zeros_like(call)))
    return add_residuals(parts) if parts else None


def _prompted(networks: Networks, rows: int) -> Bool[Array, " R"]:
    """Which rows are those of the prompts: all of a network that is called for them alone."""
    return jnp.arange(rows) < (rows if networks.guided_inside else rows // 2)


def _zeros_like(call: Callable[[], Any]) -> Callable[[], Any]:
    """A function of nothing that returns zeros of the shapes that `call` returns."""
    shapes = jax.eval_shape(call)
    return lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
