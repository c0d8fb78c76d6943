"""A ControlNet in training: it begins as nothing, learns beside a frozen UNet, and loads again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_training import build, one_loss, train_shortly

from jaxdiff.convert import load_model
from jaxdiff.convert.controlnet import load_controlnet
from jaxdiff.errors import UserError
from jaxdiff.models import controlnet_config
from jaxdiff.training.config import ControlNetMethod


@pytest.fixture(scope="module")
def steered(finetune_run):
    """The run of the fixture with a ControlNet."""
    return replace(
        finetune_run,
        objective=replace(finetune_run.objective, method=ControlNetMethod()),
        data=replace(finetune_run.data, conditioning=True),
        preview=replace(finetune_run.preview, every=1, prompts=("a red toy",), rows=1, num_steps=2),
    )


@pytest.fixture(scope="module")
def short(steered, tmp_path_factory):
    optimizer = replace(steered.optimizer, warmup_steps=0)
    return train_shortly(replace(steered, optimizer=optimizer), tmp_path_factory.mktemp("run"))


def test_the_first_loss_is_the_base_models(steered, finetune_run, tmp_path):
    """The zero convolutions: a LoRA's first loss is the base's too."""
    base, same = (one_loss(run, tmp_path)[1] for run in (finetune_run, steered))
    np.testing.assert_allclose(same, base, rtol=1e-6)


def test_it_learns_and_loads_again(short, steered, tiny_model, tmp_path):
    assert short.losses[-1] < short.losses[0]
    assert short.first.keys() == {"controlnet"}
    for name in ("conv_in", "mid_block"):
        jax.tree.map(
            np.testing.assert_array_equal,
            short.first["controlnet"][name],
            tiny_model.unet_params[name],
        )
    short.objective.export(tmp_path / "net", short.last, {})
    config, params = load_controlnet(tmp_path / "net")
    assert config.downscale == tiny_model.vae_config.downscale
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        params,
        short.last["controlnet"],
    )
    method = ControlNetMethod(init=tmp_path / "net")
    again = build(replace(steered, objective=replace(steered.objective, method=method)), tmp_path)
    first = again.init(jax.random.key(0), again.given)
    jax.tree.map(np.testing.assert_array_equal, first, {"controlnet": params})


def test_a_preview_is_drawn_with_it(short):
    before, after = (short.objective.preview(params) for params in (short.first, short.last))
    assert before.shape == (16, 16, 3)
    assert (before != after).any()


def test_one_of_another_model_is_refused(steered, short, tmp_path):
    from jaxdiff.convert.controlnet import save_controlnet
    from jaxdiff.models import parameter_shapes

    unet = replace(load_model(steered.objective.model).unet_config, block_out_channels=(8, 32))
    config = controlnet_config(unet, conditioning_embedding_out_channels=(16, 32))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), parameter_shapes(config))
    save_controlnet(tmp_path / "other", config, zeros)
    method = ControlNetMethod(init=tmp_path / "other")
    with pytest.raises(UserError, match="does not fit this model"):
        build(replace(steered, objective=replace(steered.objective, method=method)), tmp_path)
