"""The side of this library: the same work in jitted functions.

Axis legend: B batch, h w latent pixels, T tokens, D text width, H W pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from benchmarks.shapes import GUIDANCE, STEPS
from jaxdiff.convert import Model, load_model
from jaxdiff.diffusion.grids import make_grid
from jaxdiff.diffusion.guidance import classifier_free_batched
from jaxdiff.diffusion.prediction import denoiser
from jaxdiff.diffusion.samplers import make_sampler, sample
from jaxdiff.heap import keep_heap
from jaxdiff.models import Autoencoder, TextEncoder, UNet, count_parameters
from jaxdiff.rng import image_keys

Inputs = dict[str, np.ndarray]
Run = Callable[[], np.ndarray]
LEARNING_RATE = 1e-4


def prepare(directory: Path, inputs: Inputs, *, dtype: str) -> dict[str, Run]:
    """Every row as a function that does the work and returns its result as float32 numpy."""
    model = load_model(directory)
    compute = getattr(jnp, dtype)
    unet, vae = UNet(model.unet_config, compute), Autoencoder(model.vae_config, compute)
    text = TextEncoder(model.text[0].config, compute)
    # Sampling holds its parameters in the type that it computes in, training in float32.
    cast = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, compute), tree)  # noqa: E731
    params = {
        "unet": cast(model.unet_params),
        "vae": cast(model.vae_params),
        "text": cast(model.text[0].params),
    }
    keep_heap(count_parameters(params))  # as train.py and sample.py do
    arrays = {name: jnp.asarray(array) for name, array in inputs.items()}

    def encode(params: Any, ids: Array) -> Array:  # [B T] -> [B T D]
        return text.apply({"params": params["text"]}, ids).last_hidden

    def decode(params: Any, z: Array) -> Array:  # [B h w Z] -> [B H W 3]
        return vae.apply({"params": params["vae"]}, z, method="decode")

    def forward(params: Any, x: Array, t: Array, context: Array) -> Array:
        return unet.apply({"params": params["unet"]}, x, t, context)

    def picture(params: Any, ids: Array, z: Array) -> Array:
        net = lambda x, t: forward(params, x, t, context)  # noqa: E731
        context = encode(params, ids)
        z0 = _sample(model, net, z)
        return jnp.clip(decode(params, z0 / model.vae_config.scaling_factor), -1, 1)

    def row(function: Callable, *names: str) -> Run:
        jitted = jax.jit(function)
        given = [arrays[name] for name in names]
        return lambda: np.asarray(jitted(params, *given), np.float32)

    return {
        "unet": row(forward, "x", "t", "context"),
        "train": _train(unet, model.unet_params, arrays),
        "text": row(encode, "ids"),
        "decode": row(decode, "z"),
        "picture": row(picture, "ids", "z"),
    }


def _sample(model: Model, net: Callable, z: Array) -> Array:
    """DDIM with guidance, from unit noise [1 h w Z]."""
    process = model.noise.process()
    grid = make_grid(process, model.noise.spacing, STEPS, steps_offset=model.noise.steps_offset)
    denoise = classifier_free_batched(
        denoiser(net, process, model.noise.prediction_row()), jnp.float32(GUIDANCE)
    )
    scaled = z * jnp.sqrt(grid.alpha[0] ** 2 + grid.sigma[0] ** 2)
    return sample(denoise, make_sampler("ddim"), grid, scaled, image_keys([0]))


def _train(unet: UNet, params: Any, arrays: dict[str, Array]) -> Run:
    """A step of AdamW on the mean squared error; the result is its loss before it."""
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=0.01)

    def loss(params: Any, x: Array, t: Array, context: Array, target: Array) -> Array:
        return jnp.mean((unet.apply({"params": params}, x, t, context) - target) ** 2)

    def step(state: tuple, *batch: Array) -> tuple:
        params, moments = state
        value, gradients = jax.value_and_grad(loss)(params, *batch)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    jitted = jax.jit(step, donate_argnums=0)
    batch = [arrays[f"train_{name}"] for name in ("x", "t", "context", "target")]
    state: list[tuple] = []

    def run() -> np.ndarray:
        if not state:
            own = jax.tree.map(jnp.array, params)
            state.append((own, optimizer.init(own)))
        state[0], value = jitted(state[0], *batch)
        jax.block_until_ready(state[0])
        return np.asarray(value, np.float32)

    return run
