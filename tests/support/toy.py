"""An objective that compiles in a moment: two layers that learn to undo noise on small pictures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.data.sources import Source
from jaxdiff.rng import named_keys, normal_each
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.objective import Objective, serve

WIDTH = 64


def toy_objective(run: TrainConfig, source: Source, workdir: Path) -> Objective:
    """Layers called as the table of shardings knows them; `frozen` is one of its own."""
    inputs = 3 * run.data.resolution**2

    def init(key, given):
        keys = named_keys(key, "fc1", "fc2")
        shapes = {"fc1": (inputs, WIDTH), "fc2": (WIDTH, inputs)}
        return {
            name: {
                "kernel": jax.random.normal(keys[name], shape) / np.sqrt(shape[0]),
                "bias": jnp.zeros(shape[1]),
            }
            for name, shape in shapes.items()
        }

    def layer(params, x):
        return x @ params["kernel"] + params["bias"]

    def loss(params, frozen, batch, keys):
        pixels = batch["image"].reshape(-1, inputs).astype(jnp.float32) / 255
        noise = normal_each(keys.examples, (inputs,))
        y = layer(params["fc2"], jnp.tanh(layer(params["fc1"], pixels + noise @ frozen["kernel"])))
        return jnp.mean((y - pixels) ** 2, axis=1), {}

    return Objective(
        init=init,
        given={},
        frozen={"kernel": 0.3 * np.eye(inputs, dtype=np.float32)},
        loss=loss,
        batches=serve(source, run.data, lambda captions: {}),
        keep=lambda workdir: None,
        preview=lambda params: None,
        export=_export,
    )


def _export(path: Path, params, facts: dict) -> None:
    np.savez(path, **params["fc1"])
