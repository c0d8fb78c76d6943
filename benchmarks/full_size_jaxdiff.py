"""The side of this library in `full_size.py`, from the parts of its pipelines.

Axis legend: B pictures, T tokens, h w latent pixels.
"""

import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.shapes import GUIDANCE
from jaxdiff.convert import Model, load_model
from jaxdiff.diffusion.grids import make_grid
from jaxdiff.diffusion.guidance import classifier_free_batched
from jaxdiff.diffusion.prediction import denoiser
from jaxdiff.diffusion.samplers import make_sampler
from jaxdiff.models import Autoencoder
from jaxdiff.pipelines.encode import TextCondition, encode_text
from jaxdiff.pipelines.network import Given, Networks, make_net
from jaxdiff.pipelines.prompts import Tokens
from jaxdiff.rng import fold_each, image_keys


def run(directory: Path, dtype: str, steps: int) -> dict[str, float]:
    """Load, sample and decode; results go to files, the numbers of the run are returned."""
    inputs = dict(np.load(directory / "inputs.npz"))
    compute = getattr(jnp, dtype)
    begin = time.perf_counter()
    model = load_model(directory, dtype=compute)
    params = {"unet": model.unet_params, "vae": model.vae_params}
    params |= {tower.name: tower.params for tower in model.text}
    params = jax.block_until_ready(jax.device_put(params))
    loaded = time.perf_counter()
    tokens = Tokens(inputs["ids"][:, None], np.ones((2, 1, inputs["ids"].shape[1]), np.float32))
    encode = jax.jit(lambda p: encode_text(model, compute, p, (tokens,) * len(model.text)))
    text = encode({name: params[name] for name in params if name.startswith("text")})
    x = jnp.asarray(inputs["x"])
    sampler, step = _stepper(model, compute, text, x.shape[1], steps)
    vae = Autoencoder(model.vae_config, compute)
    decode = jax.jit(lambda p, z: vae.apply({"params": p}, z, method="decode"))
    state = sampler.init(x)
    start = time.perf_counter()
    step = jax.jit(step).lower(params["unet"], state, jnp.int32(0)).compile()
    decode = decode.lower(params["vae"], x).compile()
    compiled = time.perf_counter() - start
    seconds = []
    for i in range(steps):
        start = time.perf_counter()
        state = jax.block_until_ready(step(params["unet"], state, jnp.int32(i)))
        seconds.append(time.perf_counter() - start)
        if i == 0:
            np.save(directory / "ours_first.npy", state.x)
    np.save(directory / "ours_latents.npy", state.x)
    start = time.perf_counter()
    picture = np.asarray(decode(params["vae"], state.x / model.vae_config.scaling_factor))
    decoded = time.perf_counter() - start
    np.save(directory / "ours_picture.npy", picture)
    return {
        "load": loaded - begin,
        "compile": compiled,
        "step": float(np.median(seconds)),
        "decode": decoded,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


class _Sampler:
    """The sampler's first state and its step over one grid."""

    def __init__(self, model: Model, steps: int) -> None:
        self.method, self.process = make_sampler("ddim"), model.noise.process()
        self.grid = make_grid(
            self.process, model.noise.spacing, steps, steps_offset=model.noise.steps_offset
        )

    def init(self, x: Array) -> Any:
        """The state before the first step, from unit noise [B h w Z]."""
        scale = jnp.sqrt(self.grid.alpha[0] ** 2 + self.grid.sigma[0] ** 2)
        return self.method.init(x * scale, self.grid)


def _stepper(model: Model, compute: Any, text: TextCondition, size: int, steps: int) -> tuple:
    """The sampler, and a step of it with guidance: (UNet's parameters, state, i) -> state."""
    sampler = _Sampler(model, steps)
    networks = Networks(model, (), compute)
    given = Given(text, None, None, jnp.float32(GUIDANCE), (), ())
    pixels = size * model.vae_config.downscale

    def step(unet: Any, state: Any, i: Array) -> Any:
        net = make_net(networks, {"unet": unet}, given, (pixels, pixels))
        denoise = classifier_free_batched(
            denoiser(net, sampler.process, model.noise.prediction_row()), jnp.float32(GUIDANCE)
        )
        return sampler.method.step(denoise, sampler.grid, i, state, fold_each(image_keys([0]), i))

    return sampler, step
