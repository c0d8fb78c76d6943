"""A fresh UNet between a model's frozen parts, on caches that are computed beforehand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_training import build

from jaxdiff.convert import load_model
from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.planning.blueprint import blueprint
from jaxdiff.training import cache
from jaxdiff.training.config import FinetuneObjective, ScratchMethod
from jaxdiff.training.objective import Share
from jaxdiff.training.precompute import precompute
from jaxdiff.training.step import step_keys


@pytest.fixture
def scratch_run(finetune_run, tiny_model, tmp_path):
    """A UNet of one level less than the model's, on cached latents and captions."""
    shape = replace(
        tiny_model.unet_config,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )
    noise = NoiseConfig(schedule="scaled_linear", prediction="eps", spacing="leading")
    objective = FinetuneObjective(
        model=finetune_run.objective.model, method=ScratchMethod(unet=shape, noise=noise)
    )
    data = replace(finetune_run.data, cache=str(tmp_path / "cache"))
    return replace(finetune_run, objective=objective, data=data, workdir=tmp_path / "run")


def _as_jax(batch):
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch))


def _descend(objective, batch):
    """Fresh parameters, their loss, and the loss a small step down the gradient."""
    keys = step_keys(jax.random.key(1), jnp.zeros((), jnp.int32), batch["example"])

    @jax.jit
    def run(key, frozen, batch):
        def mean(params):
            return jnp.mean(objective.loss(params, frozen, batch, keys)[0])

        params = objective.init(key, {})
        loss, grads = jax.value_and_grad(mean)(params)
        lower = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
        return params, loss, mean(lower)

    return run(jax.random.key(0), objective.frozen, batch)


def test_it_learns_and_is_exported_as_a_model(scratch_run, tmp_path):
    objective = build(scratch_run, tmp_path)
    batch = jax.tree.map(jnp.asarray, next(objective.batches(0, Share())))
    params, before, after = _descend(objective, batch)
    assert after < before
    objective.export(tmp_path / "out", jax.device_get(params), {"step": 0})
    model = load_model(tmp_path / "out", Tokenizer.load)
    assert model.unet_config.block_out_channels == (16,)
    assert model.noise.prediction == "eps"


def test_what_is_precomputed_is_not_computed_again(scratch_run, tmp_path, monkeypatch):
    found = precompute(scratch_run)
    assert {"latents", "captions"} <= found.keys()
    monkeypatch.setattr(cache, "batched", None)
    monkeypatch.setattr(cache, "_finite_rows", None)
    assert build(scratch_run, tmp_path).inputs == found


def test_precomputing_wants_a_cache(finetune_run):
    with pytest.raises(UserError, match="--precompute needs --data.cache"):
        precompute(finetune_run)


@pytest.mark.parametrize("name", [pytest.param("cache", marks=pytest.mark.slow), ""])
def test_a_blueprint_is_what_is_trained(diffusion_run, tmp_path, name):
    where = str(tmp_path / name) if name else ""
    run = replace(diffusion_run, data=replace(diffusion_run.data, cache=where))
    blue, objective = blueprint(run), build(run, tmp_path)
    assert blue.batch == _as_jax(next(objective.batches(0, Share())))
    assert jax.tree.map(np.shape, blue.frozen) == jax.tree.map(np.shape, objective.frozen)
    key = jax.random.key(0)
    made = jax.eval_shape(lambda key: objective.init(key, objective.given), key)
    assert jax.eval_shape(blue.init, key) == made


def test_a_blueprint_from_scratch_is_what_is_trained(scratch_run, tmp_path):
    """But for the tokens of a caption, and pixels of a latent, of which this model has its own."""
    blue, objective = blueprint(scratch_run), build(scratch_run, tmp_path)
    served = _as_jax(next(objective.batches(0, Share())))
    assert blue.batch.keys() == served.keys()
    for name in ("example", "size"):
        assert blue.batch[name] == served[name]
    assert blue.batch["moments"].shape[::3] == served["moments"].shape[::3]
    for name in ("moments", "context"):
        assert blue.batch[name].dtype == served[name].dtype
    key = jax.random.key(0)
    assert jax.eval_shape(blue.init, key) == jax.eval_shape(
        lambda key: objective.init(key, {}), key
    )
