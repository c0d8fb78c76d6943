"""What is asked for is what is drawn: settings reach every row and every pass, or are refused."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdiff.convert import load_model, save_controlnet, save_model
from jaxdiff.errors import UserError
from jaxdiff.models import controlnet_config
from jaxdiff.pipelines import TextToImage, draw
from jaxdiff.pipelines.cli import SHIPPED
from jaxdiff.pipelines.engine import _small_noise
from jaxdiff.pipelines.pictures import NO_PICTURES, Pictures
from jaxdiff.pipelines.plan import first_pass, second_pass
from jaxdiff.pipelines.settings import Settings, default_settings
from jaxdiff.pipelines.sizes import Layout, Room, check_used

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
        num_steps=25, sampler="dpmpp_2m", schedule="trailing", guidance_scale=6.0, max_chunks=1
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


def test_a_card_recommends_a_guidance_interval(tiny_model):
    def of(interval):
        meta = {"sampling": {"guidance_interval": interval}}
        return default_settings(dataclasses.replace(tiny_model, meta=meta)).guidance_interval

    assert of([0.25, 1]) == (0.25, 1.0)
    for wrong in ([0.2], [0.2, 0.5, 0.8], 0.2, "0.2,0.8"):
        with pytest.raises(UserError, match="sampling in jaxdiff.json: guidance_interval should"):
            of(wrong)
    with pytest.raises(UserError, match="guidance interval is 0.8,0.2"):
        of([0.8, 0.2])


# --------------------------------------------------------------------------------------- keys


def test_every_pass_draws_noise_of_its_own(tiny_model, monkeypatch):
    """A second pass with the first's keys would add the same noise again."""
    used = []

    def sample(denoise, method, grid, x, keys, **_):
        jax.debug.callback(lambda data: used.append(np.asarray(data)), jax.random.key_data(keys))
        return x

    monkeypatch.setattr(draw, "sample", sample)
    monkeypatch.setattr(draw, "_denoise", lambda *_: lambda x, t: x)
    monkeypatch.setattr(draw, "decode", lambda networks, params, z, tile: z[..., :3])
    base, refiner = TextToImage(tiny_model), TextToImage(tiny_model)
    base("cat", [7], hires_scale=2.0, **FEW)
    base.set_refiner(refiner)
    base("cat", [7], **FEW)
    jax.effects_barrier()
    keys = {tuple(key.tolist()) for each in used for key in each}
    assert tuple(jax.random.key_data(jax.random.key(7)).tolist()) in keys
    assert len(keys) == 3
    base.set_refiner(None)
    assert base.extras.refiner is None and not base.recipe("cat", 7).refiner


# -------------------------------------------------------------------- what would change nothing


@pytest.fixture(scope="module")
def picture():
    return Pictures.of(np.zeros((16, 16, 3), np.uint8), None, ())


def test_settings_that_would_change_nothing_are_refused(picture):
    plain, lcm = Room((16, 16), 2, False), Room((16, 16), 2, False, True)
    upscaler = Room((16, 16), 4, True)
    for changes, pictures, room, message in (
        (dict(noise_level=10), picture, plain, "noise level is for models that enlarge"),
        (dict(strength=0.5), NO_PICTURES, plain, "strength is for redrawing a picture, and there"),
        (dict(strength=0.5), picture, upscaler, "enlarges the whole picture; leave it out"),
        (dict(negative_prompt="cat"), NO_PICTURES, lcm, "draws with no negative prompt"),
        (dict(guidance_rescale=0.7), NO_PICTURES, lcm, "draws with no guidance rescale"),
        (dict(guidance_interval=(0.2, 0.8)), NO_PICTURES, lcm, "draws with no guidance interval"),
    ):
        with pytest.raises(UserError, match=message):
            check_used(changes, pictures, room)
    nothing = dict(noise_level=None, strength=None, negative_prompt="", guidance_rescale=0.0)
    check_used(nothing | dict(guidance_interval=(0.0, 1.0)), NO_PICTURES, lcm)
    check_used(dict(strength=0.5, negative_prompt="cat"), picture, plain)
    check_used(dict(noise_level=10), picture, upscaler)


def test_a_pipeline_refuses_them_before_it_compiles(pipe, lcm_model, compilations):
    lcm = TextToImage(lcm_model)
    with compilations() as compiled:
        for each, changes in ((pipe, dict(strength=0.5)), (lcm, dict(negative_prompt="cat"))):
            with pytest.raises(UserError, match="leave it out"):
                each("cat", [1], **changes)
            with pytest.raises(UserError, match="leave it out"):
                each.recipe("cat", 1, **changes)
    assert not compiled


def test_noise_beyond_an_upscalers_training_is_refused(tiny_model):
    layout = Layout(None, None, None, (), np.zeros((1, 16, 16, 3), np.uint8))
    model = dataclasses.replace(tiny_model, low_res_noise=tiny_model.noise, max_noise_level=350)
    assert _small_noise(model, Settings(noise_level=350), layout).level == 350
    with pytest.raises(UserError, match="noise level is 351; give at most 350"):
        _small_noise(model, Settings(noise_level=351), layout)


# ---------------------------------------------------------------------------- names and variants


def test_a_version_in_a_name_stays(tiny_model, tiny_controlnet, tmp_path):
    where = tmp_path / "model-1.0"
    save_model(where, dataclasses.replace(tiny_model, meta={}))
    save_controlnet(tmp_path / "canny", *tiny_controlnet)
    (tmp_path / "canny").rename(tmp_path / "canny-1.1")
    for file in (*where.rglob("*.safetensors"), *(tmp_path / "canny-1.1").glob("*.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    pipe = TextToImage.load(where, variant="fp16")
    pipe.add_controlnet(tmp_path / "canny-1.1", variant="fp16")
    assert (pipe.name, pipe.extras.controlnets[0].name) == ("model-1.0", "canny-1.1")
    assert len(pipe.digest) == len(pipe.extras.controlnets[0].digest) == 10
    with pytest.raises(UserError, match=r"bf16.safetensors is missing"):
        TextToImage.load(where, variant="bf16")
