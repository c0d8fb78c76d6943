"""What is asked for is what is drawn: settings reach every row and every pass, or are refused."""

import dataclasses

import numpy as np
import pytest

from jaxdiff.convert import load_model
from jaxdiff.errors import UserError
from jaxdiff.models import controlnet_config
from jaxdiff.pipelines import TextToImage
from jaxdiff.pipelines.cli import SHIPPED
from jaxdiff.pipelines.plan import first_pass, second_pass
from jaxdiff.pipelines.settings import Settings, default_settings

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


# ------------------------------------------------------------------------------- noise levels


@pytest.mark.parametrize("strength", [0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("schedule", ["trailing", "karras"])
def test_a_refiner_goes_on_at_the_level_where_the_model_stops(tiny_model, strength, schedule):
    settings = Settings(num_steps=25, schedule=schedule)
    options = dict(strength=strength, masked=False, controlnets=0)
    base = first_pass(tiny_model.noise, settings, span=(0.0, 0.8), **options)
    rest = first_pass(tiny_model.noise, settings, span=(0.8, 1.0), **options)
    assert base.grid.sigma[base.count] == rest.grid.sigma[0]
    assert base.count + rest.count == int(25 * strength)
    assert rest.grid.sigma[rest.count] == base.grid.sigma[-1]


def test_a_strength_that_takes_no_step_is_refused(tiny_model):
    options = dict(masked=False, controlnets=0)
    for strength in (0.03, 0.0399):
        with pytest.raises(UserError, match=f"strength {strength} takes none of 25 steps; give 0"):
            first_pass(tiny_model.noise, Settings(), strength=strength, **options)
    assert first_pass(tiny_model.noise, Settings(), strength=0.0, **options).count == 0
    assert first_pass(tiny_model.noise, Settings(), strength=1 / 25, **options).count == 1
    with pytest.raises(UserError, match="hires strength 0.01 takes none of 25 steps"):
        second_pass(tiny_model.noise, Settings(hires_strength=0.01), 0)


# ----------------------------------------------------------------------------------- defaults


def test_the_shipped_models_defaults():
    expected = Settings(
        num_steps=25, sampler="dpmpp_2m", schedule="trailing", guidance_scale=4.0, max_chunks=1
    )
    assert default_settings(load_model(SHIPPED)) == expected


def test_a_card_changes_only_what_it_recommends(tiny_model, lcm_model):
    """A name or a schedule in the card leaves what is usual for the family."""
    tower = tiny_model.text[0]
    clip = tower._replace(config=dataclasses.replace(tower.config, max_position_embeddings=77))
    for meta in ({}, {"name": "mine"}, {"sampling": {"schedule": "trailing"}}):
        sd = dataclasses.replace(tiny_model, meta=meta, text=(clip,))
        assert (default_settings(sd).guidance_scale, default_settings(sd).max_chunks) == (7.5, 4)
        lcm = default_settings(dataclasses.replace(lcm_model, meta=meta))
        assert (lcm.guidance_scale, lcm.num_steps, lcm.sampler) == (8.5, 4, "lcm")
        assert lcm.max_chunks == 1
    own = dataclasses.replace(tiny_model, meta={"sampling": {"guidance_scale": 4.0}})
    assert default_settings(own).guidance_scale == 4.0
