"""Models of random weights for every task, and a count of what XLA compiles."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from jaxdiff.models import ControlNetConfig, controlnet_config, parameter_shapes
from jaxdiff.pipelines import TextToImage


@pytest.fixture(scope="session")
def random_params():
    """config -> parameters of that network: norms' scales about 1, nothing zero."""

    def make(config, seed=1):
        rng = np.random.default_rng(seed)

        def draw(path, leaf):
            values = 0.1 * rng.normal(size=leaf.shape) + (path[-1].key == "scale")
            return values.astype(np.float32)

        return jax.tree_util.tree_map_with_path(draw, parameter_shapes(config))

    return make


@pytest.fixture(scope="session")
def inpaint_model(tiny_model, random_params):
    """`tiny_model` with a UNet that is given a mask and the masked picture."""
    channels = 2 * tiny_model.vae_config.latent_channels + 1
    config = dataclasses.replace(tiny_model.unet_config, in_channels=channels)
    return dataclasses.replace(tiny_model, unet_config=config, unet_params=random_params(config))


@pytest.fixture(scope="session")
def tiny_controlnet(tiny_model, random_params):
    """A ControlNet for `tiny_model`: (config, params)."""
    config: ControlNetConfig = controlnet_config(
        tiny_model.unet_config, conditioning_embedding_out_channels=(4, 8), in_channels=4
    )
    return config, random_params(config, seed=2)


@pytest.fixture(scope="session")
def make_pipe(tiny_model, inpaint_model, tiny_controlnet):
    """Name of a task -> a pipeline for it."""

    def make(name):
        model = inpaint_model if name == "inpaint" else tiny_model
        meta = model.meta | {"sampling": {"max_chunks": 4}}
        pipe = TextToImage(dataclasses.replace(model, meta=meta))
        for _ in range({"control": 2}.get(name, 0)):
            pipe.add_controlnet(tiny_controlnet)
        return pipe

    return make


@pytest.fixture
def compilations():
    """A context whose list grows by one for every program that XLA compiles or loads."""

    @contextlib.contextmanager
    def count():
        compiled = []

        def listen(event, duration, **_):
            if event == "/jax/core/compile/backend_compile_duration":
                compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield compiled
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    return count


@pytest.fixture(scope="session")
def photo():
    """Three pictures uint8 [3 16 16 3]."""
    return np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="session")
def mask():
    """A mask uint8 [16 16], white in a part whose edges are not those of latents."""
    mask = np.zeros((16, 16), np.uint8)
    mask[3:9, 5:16] = 255
    return mask


@pytest.fixture(scope="session")
def lora(tiny_model):
    """A LoRA of `tiny_model`'s UNet and text encoder that changes much."""
    from jaxdiff.convert.lora import Lora
    from jaxdiff.models.lora import TARGETS, init_lora

    def filled(params, targets, seed):
        layers = init_lora(jax.random.key(seed), params, targets, rank=2, alpha=2.0)
        rng = np.random.default_rng(seed)
        return {
            path: layer._replace(up=0.5 * rng.normal(size=layer.up.shape).astype(np.float32))
            for path, layer in layers.items()
        }

    text = {t.name: filled(t.params, TARGETS["text_attention"], 1) for t in tiny_model.text}
    return Lora(filled(tiny_model.unet_params, TARGETS["all"], 0), text, {})
