r"""Guidance and thresholding: wrappers that turn a Denoise into a Denoise.

x0 is an affine function of the prediction at a given x_t, so that guiding x0 is guiding eps, v or
flow by the same scale. Scale, rescale and interval may be traced: changing them compiles nothing.

Axis legend: B images, H W C; channels last.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.diffusion.arrays import expand
from jaxdiff.diffusion.prediction import Denoise
from jaxdiff.errors import UserError

Scale = int | float | Float[Array, ""] | Float[Array, " B"]
"""One number for the batch, or one per image."""


def classifier_free(
    cond: Denoise,
    uncond: Denoise,
    scale: Scale,
    *,
    rescale: Scale = 0.0,
    interval: tuple[Scale, Scale] = (0.0, 1.0),
) -> Denoise:
    """Classifier-free guidance by two calls; see `combine`.

    Args:
      cond: the denoiser with the prompt.
      uncond: the denoiser with the empty prompt, or with a negative one.
      scale: 1 is the prompt alone, 0 the other alone; beyond 1 moves away from the other.
      rescale: share of the rescaled result, 0 to 1; see `rescaled`.
      interval: (lowest t, highest t) at which to guide; elsewhere the scale is 1 (Kynkaanniemi et
        al. 2024). Their bounds are on sigma / alpha; `t_of_log_snr(process, -2 log bound)` is t.
    """

    def denoise(x_t: Float[Array, "B ..."], t: Float[Array, " B"]) -> Float[Array, "B ..."]:
        return combine(cond(x_t, t), uncond(x_t, t), t, scale, rescale, interval)

    return denoise


def classifier_free_batched(
    both: Denoise,
    scale: Scale,
    *,
    rescale: Scale = 0.0,
    interval: tuple[Scale, Scale] = (0.0, 1.0),
) -> Denoise:
    """Classifier-free guidance by one call on twice the batch.

    Args:
      both: a denoiser of [2B ...], whose first half has the prompts and second half the others.
      scale: as for `classifier_free`, and so are the rest.
      rescale: share of the rescaled result.
      interval: times at which to guide.
    """

    def denoise(x_t: Float[Array, "B ..."], t: Float[Array, " B"]) -> Float[Array, "B ..."]:
        cond, uncond = jnp.split(both(jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])), 2)
        return combine(cond, uncond, t, scale, rescale, interval)

    return denoise


def combine(
    cond: Float[Array, "B ..."],
    uncond: Float[Array, "B ..."],
    t: Float[Array, " B"],
    scale: Scale,
    rescale: Scale = 0.0,
    interval: tuple[Scale, Scale] = (0.0, 1.0),
) -> Float[Array, "B ..."]:
    """Guided x0: cond + (scale - 1)(cond - uncond) where t is in the interval, else cond.

    Ho & Salimans 2022, eq. 6 with scale = 1 + w; written so that scale 1 is cond exactly.
    """
    low, high = interval
    extra = jnp.where((t >= low) & (t <= high), jnp.asarray(scale, t.dtype) - 1.0, 0.0)
    guided = cond + expand(extra, cond) * (cond - uncond)
    return rescaled(guided, cond, rescale)


def rescaled(
    guided: Float[Array, "B ..."], cond: Float[Array, "B ..."], share: Scale
) -> Float[Array, "B ..."]:
    """Give the guided x0 the contrast of the unguided one: mix in guided std(cond) / std(guided).

    Lin et al. 2023, eq. 15 and 16, on x0; standard deviations are per image. A constant image, of
    std 0, is left as it is.
    """
    axes = tuple(range(1, cond.ndim))
    std, guided_std = (jnp.std(x, axis=axes, keepdims=True) for x in (cond, guided))
    flat = guided_std == 0
    factor = jnp.where(flat, 1.0, std / jnp.where(flat, 1.0, guided_std))
    return guided * (1 + expand(jnp.asarray(share, cond.dtype), cond) * (factor - 1))


def known_region(
    denoise: Denoise, x0: Float[Array, "B ..."], mask: Float[Array, "#B ..."]
) -> Denoise:
    """Draw only where the mask is 1: elsewhere x0 is known and takes the prediction's place.

    mask x0-hat + (1 - mask) x0 (Lugmayr et al. 2022, RePaint, eq. 8, on x0 instead of x_t). A first
    order step then takes a known alpha x0 + sigma eps to alpha' x0 + sigma' eps of the same eps, so
    that what starts at the first level's q_sample stays at every level's, and ends at x0 itself.

    Args:
      denoise: to be wrapped.
      x0: what is known, [B ...].
      mask: 1 where to draw, 0 where x0 is known; broadcasts against x0.
    """

    def denoise_rest(x_t: Float[Array, "B ..."], t: Float[Array, " B"]) -> Float[Array, "B ..."]:
        return mask * denoise(x_t, t) + (1 - mask) * x0

    return denoise_rest


def static_threshold(denoise: Denoise, bound: float = 1.0) -> Denoise:
    """Clip x0 to [-bound, bound] (Saharia et al. 2022, Imagen, section 2.3)."""

    def clipped(x_t: Float[Array, "B ..."], t: Float[Array, " B"]) -> Float[Array, "B ..."]:
        return jnp.clip(denoise(x_t, t), -bound, bound)

    return clipped


def dynamic_threshold(denoise: Denoise, percentile: float = 0.995, cap: float = 2.0) -> Denoise:
    """Shrink x0 by its own high percentile, but leave white white and black black.

    With s the percentile of |x0| of an image, within [1, cap], Imagen clips to [-s, s] and divides
    by s (Saharia et al. 2022, section 2.3), which turns a white background, where nothing is
    saturated, grey. Here the s of a pixel is 1 where all its channels are at 1, or all at -1:

        s_pixel = 1 + (s - 1)(1 - a),    a = clip((|least extreme channel| - 0.9) / 0.1, 0, 1)

    with a = 0 where the channels differ in sign. Colours are treated as in Imagen. For pixels, not
    for latents.

    Args:
      denoise: to be wrapped; x0 is [B H W C].
      percentile: in (0, 1].
      cap: the largest s; 1 is `static_threshold`.

    Raises:
      UserError: percentile or cap is out of range.
    """
    if not 0 < percentile <= 1 or not cap >= 1:
        raise UserError(
            f"dynamic threshold has percentile {percentile} and cap {cap}; "
            "give a percentile in (0, 1] and a cap of at least 1"
        )

    def thresholded(x_t: Float[Array, "B ..."], t: Float[Array, " B"]) -> Float[Array, "B ..."]:
        x0 = denoise(x_t, t)
        high = jnp.quantile(jnp.abs(x0).reshape(x0.shape[0], -1), percentile, axis=1)
        s = expand(jnp.clip(high, 1.0, cap), x0)
        extreme = jnp.maximum(jnp.min(x0, -1, keepdims=True), jnp.min(-x0, -1, keepdims=True))
        s = 1 + (s - 1) * (1 - jnp.clip((extreme - 0.9) / 0.1, 0.0, 1.0))
        return jnp.clip(x0, -s, s) / s

    return thresholded
