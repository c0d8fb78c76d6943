"""What is asked for is what is drawn: settings reach every row and every pass, or are refused."""

import dataclasses

import numpy as np
import pytest

from jaxdiff.models import controlnet_config
from jaxdiff.pipelines import TextToImage

FEW = dict(num_steps=4, guidance_scale=4.0, sampler="euler_a")


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return TextToImage(tiny_model)


@pytest.fixture(scope="module")
def lcm_model(tiny_model, random_params):
    """`tiny_model` with a UNet that is told the guidance scale."""
    config = dataclasses.replace(tiny_model.unet_config, time_cond_proj_dim=8)
    return dataclasses.replace(tiny_model, unet_config=config, unet_params=random_params(config))


def _levels_apart(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


def test_a_pooling_controlnet_steers_every_picture_of_lcm(lcm_model, random_params, photo):
    config = controlnet_config(
        lcm_model.unet_config,
        conditioning_embedding_out_channels=(4, 8),
        in_channels=4,
        global_pool_conditions=True,
    )
    pipe = TextToImage(lcm_model)
    pipe.add_controlnet((config, random_params(config, seed=2)))
    settings = FEW | dict(sampler="lcm", num_steps=2, control_images=[photo[0]])
    together = pipe(["cat", "red heart", "cat"], [1, 2, 3], **settings)
    alone = pipe("cat", [1], **settings)
    off = pipe("cat", [1], control_weights=(0.0,), **settings)
    assert _levels_apart(alone[0], together[0]) <= 1
    assert _levels_apart(alone, off) > 2
    assert _levels_apart(pipe("cat", [3], **settings)[0], together[2]) <= 1
