"""The one function that is compiled: tokens, seeds, pictures and noise levels to pixels.

    prompts -> text -> network (+ ControlNets, + channels) -> x0 -> guidance (-> known region)
    noise (+ picture) -> sample over the grid (-> enlarge, noise, sample again) -> decode

Every task is this function with other parts of it present; a part that is None is not compiled.

Axis legend: B pictures, H W pixels, h w Z latents, S steps shown.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.diffusion.arrays import expand
from jaxdiff.diffusion.guidance import classifier_free_batched, known_region
from jaxdiff.diffusion.prediction import Denoise, denoiser
from jaxdiff.diffusion.samplers import initial_scale, make_sampler, sample, unit_noise
from jaxdiff.models.autoencoder import from_uint8
from jaxdiff.pipelines.canvas import Canvas, decode, make_canvas, paste
from jaxdiff.pipelines.encode import TextCondition, encode_text
from jaxdiff.pipelines.inputs import How, Pass, Rows, Shared
from jaxdiff.pipelines.network import Given, Networks, Params, make_net
from jaxdiff.rng import image_keys, named_keys


class Scene(NamedTuple):
    """All that one call has, and what the prompts say."""

    networks: Networks
    params: Params
    rows: Rows
    shared: Shared
    how: How
    keys: Key[Array, " B"]
    text: TextCondition
    """Of the prompts, then of the negative prompts."""

    @property
    def calls(self) -> int:
        """Rows of a network call for each picture."""
        return 1 if self.networks.guided_inside else 2


def draw(
    networks: Networks, params: Params, rows: Rows, shared: Shared, *, how: How
) -> tuple[Array, Array | None]:
    """The function that is jitted, with `networks` and `how` compiled in.

    Args:
      networks: shapes of all networks.
      params: their parameters.
      rows: one row per picture.
      shared: guidance and noise levels.
      how: the rest.

    Returns:
      Pictures [B H W 3] and, if shown, the x0 predictions [S B H W 3] at those steps; uint8. Or
      latents [B h w Z], float32, and None.
    """
    text = _read(networks, params, rows, shared, how.clip_skip)
    scene = Scene(networks, params, rows, shared, how, image_keys(rows.seeds), text)
    canvas = _canvas(scene, rows.init, rows.mask, how.size)
    if networks.upscales:
        canvas = canvas._replace(extra=_noised(scene))
    x, traced = _start(scene, canvas), shared.shown is not None
    denoise = _denoise(scene, canvas, shared.first, how.size)
    keys = scene.keys if rows.sample is None else _named(scene.keys, "refine")
    z, trace = _sample(scene, denoise, shared.first, x, keys, traced)
    if shared.second is not None:
        z = _draw_again(scene, z)
    if how.as_latents:
        return z, None

    def finish(z: Array) -> Array:
        return paste(decode(networks, params, z, how.tile), rows.init, rows.mask)

    return finish(z), jax.lax.map(finish, trace[shared.shown]) if traced else None


def _read(
    networks: Networks, params: Params, rows: Rows, shared: Shared, clip_skip: int
) -> TextCondition:
    """Encode the prompts and, where the network is called for both, the negative prompts."""
    read = functools.partial(encode_text, networks.model, networks.dtype, params)
    if networks.guided_inside:
        return read(rows.tokens, clip_skip)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rows.tokens, rows.negative)
    text = read(both, clip_skip)
    if not networks.model.zero_empty_prompt:
        return text
    batch = rows.seeds.shape[0]
    heard = jnp.where(jnp.arange(2 * batch) < batch, True, ~shared.silent)
    return jax.tree.map(lambda x: jnp.where(expand(heard, x), x, 0.0), text)


def _sample(
    scene: Scene,
    denoise: Denoise,
    run: Pass,
    x: Array,
    keys: Key[Array, " B"],
    traced: bool = False,
) -> tuple[Array, Array | None]:
    """One pass; those behind the first draw their noise from keys of their own."""
    method = make_sampler(scene.how.sampler)
    out = sample(denoise, method, run.grid, x, keys, count=run.count, with_x0_trace=traced)
    return out if traced else (out, None)


def _named(keys: Key[Array, " B"], name: str) -> Key[Array, " B"]:
    """Each picture's key of this name."""
    return jax.vmap(lambda key: named_keys(key, name)[name])(keys)


def _start(scene: Scene, canvas: Canvas) -> Float[Array, "B h w Z"]:
    """The sample at the first level: noise, a picture noised, or what is given.

    Where a mask leaves nothing of the picture to draw from (`fresh`), the masked part is noise
    alone; a network that is not shown the known part finds that noised as its level wants it.
    """
    rows, first, networks = scene.rows, scene.shared.first, scene.networks
    if rows.sample is not None:
        return rows.sample
    shape = (*_latent_size(networks, scene.how.size), networks.model.vae_config.latent_channels)
    noise = unit_noise(scene.keys, shape) if rows.latents is None else rows.latents
    alone = initial_scale(first.grid) * noise
    if canvas.x0 is None:
        return alone
    noised = first.grid.alpha[0] * canvas.x0 + first.grid.sigma[0] * noise
    drawn = jnp.where(first.fresh, alone, noised)
    if canvas.mask is None or networks.inpaints:
        return drawn
    return canvas.mask * drawn + (1 - canvas.mask) * noised


def _denoise(scene: Scene, canvas: Canvas, run: Pass, size: tuple[int, int]) -> Denoise:
    """(x_t, t) -> x0: network, prediction, guidance, known region."""
    networks, shared = scene.networks, scene.shared

    def each(x: Array | None) -> Array | None:
        return None if x is None else jnp.concatenate([x] * scene.calls)

    labels = None
    if shared.small_noise is not None:
        labels = jnp.broadcast_to(shared.small_noise.level, scene.text.context.shape[:1])
    images = tuple(each(_resized(image / 255.0, size)) for image in scene.rows.control)
    given = Given(scene.text, each(canvas.extra), labels, shared.guidance_scale, images, run.dials)
    noise = networks.model.noise
    net = make_net(networks, scene.params, given, size)
    denoise = denoiser(net, noise.process(), noise.prediction_row())
    if not networks.guided_inside:
        denoise = classifier_free_batched(
            denoise,
            shared.guidance_scale,
            rescale=shared.guidance_rescale,
            interval=shared.guidance_interval,
        )
    if canvas.mask is None or canvas.x0 is None or networks.inpaints:
        return denoise
    return known_region(denoise, canvas.x0, canvas.mask)


def _draw_again(scene: Scene, z: Array) -> Float[Array, "B h w Z"]:
    """Enlarge the latents, noise them to the second pass's first level, and draw from there."""
    networks, run, size = scene.networks, scene.shared.second, scene.how.hires_size
    z = _resized(z, _latent_size(networks, size))
    noise = unit_noise(scene.keys, z.shape[1:], "hires")
    x = run.grid.alpha[0] * z + run.grid.sigma[0] * noise
    denoise = _denoise(scene, _canvas(scene, None, None, size), run, size)
    return _sample(scene, denoise, run, x, _named(scene.keys, "second"))[0]


def _canvas(scene: Scene, init: Array | None, mask: Array | None, size: tuple[int, int]) -> Canvas:
    batch, small = scene.rows.seeds.shape[0], _latent_size(scene.networks, size)
    return make_canvas(scene.networks, scene.params, init, mask, batch, small, scene.how.tile)


def _noised(scene: Scene) -> Float[Array, "B h w 3"]:
    """The small pictures that an upscaler is given, noised."""
    small, noise = from_uint8(scene.rows.small), scene.shared.small_noise
    return noise.alpha * small + noise.sigma * unit_noise(scene.keys, small.shape[1:], "small")


def _resized(x: Array, size: tuple[int, int]) -> Array:
    """To another height and width, [B H W C], bilinearly; the same size is left alone."""
    if x.shape[1:3] == size:
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "linear", antialias=False)


def _latent_size(networks: Networks, size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] // networks.downscale, size[1] // networks.downscale)
