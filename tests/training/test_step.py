"""The pure step: averages, accumulation, and randomness that follows the example."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.training.config import EMAConfig, OptimizerConfig
from jaxdiff.training.optimizer import learning_rate, make_optimizer
from jaxdiff.training.step import ema_decay, init_state, make_train_step, step_keys


def _noisy_loss(params, frozen, batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key))(keys.examples)
    losses = (params["w"] * batch["x"] + noise - frozen) ** 2
    return losses, {"noise": noise}


def _run(accumulate=1, steps=3, ema=None, order=None):
    optimizer, ema = optax.sgd(0.1), ema or EMAConfig(decay=0.5)
    step = make_train_step(
        _noisy_loss, optimizer, optax.constant_schedule(0.1), ema, accumulate=accumulate
    )
    state = init_state({"w": jnp.ones(())}, optimizer)
    states = [state]
    for n in range(steps):
        example = np.arange(8) + 8 * n
        example = example if order is None else example[order]
        batch = {"x": jnp.sin(example.astype(np.float32)), "example": jnp.asarray(example)}
        state, metrics = jax.jit(step)(state, jnp.ones(()), batch, jax.random.key(0))
        states.append(state)
    return states, metrics


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_changes_nothing(accumulate):
    whole, cut = _run()[0][-1], _run(accumulate)[0][-1]
    np.testing.assert_allclose(whole.params["w"], cut.params["w"], rtol=1e-6)


def test_noise_follows_the_example_and_not_its_place():
    order = np.random.default_rng(0).permutation(8)
    straight, shuffled = _run()[0][-1], _run(order=order)[0][-1]
    np.testing.assert_allclose(straight.params["w"], shuffled.params["w"], rtol=1e-6)


def test_every_step_and_example_has_its_own_key():
    keys = [
        jax.random.key_data(step_keys(jax.random.key(0), jnp.asarray(n), jnp.arange(4)).examples)
        for n in range(3)
    ]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 12


def test_average_is_the_formula_and_starts_as_a_copy():
    states, _ = _run(ema=EMAConfig(decay=0.5))
    average = 1.0
    for n, state in enumerate(states[1:]):
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * float(state.params["w"])
        np.testing.assert_allclose(state.ema_params["w"], average, rtol=1e-6)
    first = states[0]
    assert (
        first.params["w"].unsafe_buffer_pointer() != first.ema_params["w"].unsafe_buffer_pointer()
    )


def test_average_without_warm_up_has_the_full_decay_at_once():
    assert float(ema_decay(EMAConfig(decay=0.999, warmup=False), jnp.asarray(0))) == pytest.approx(
        0.999
    )


@pytest.mark.parametrize(
    ("schedule", "halfway", "end"),
    [("constant", 1, 1), ("cosine", 0.55, 0.1), ("linear", 0.55, 0.1)],
)
def test_learning_rate_warms_up_and_ends_where_it_should(schedule, halfway, end):
    config = OptimizerConfig(
        learning_rate=2.0, schedule=schedule, final_fraction=0.1, warmup_steps=10
    )
    rate = learning_rate(config, 110)
    assert float(rate(0)) == pytest.approx(0.2)
    assert float(rate(10)) == pytest.approx(2.0)
    assert float(rate(60)) == pytest.approx(2 * halfway, rel=1e-5)
    assert float(rate(110)) == pytest.approx(2 * end, rel=1e-5)


def test_a_run_may_begin_or_cease_to_clip():
    params = {"kernel": jnp.ones((2, 2))}
    states = [
        make_optimizer(OptimizerConfig(clip_norm=norm), 10).init(params) for norm in (0.0, 1.0)
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_weight_decay_spares_norms_biases_and_embeddings():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=0, weight_decay=0.1, clip_norm=0.0)
    params = {name: jnp.ones((2, 2)) for name in ("kernel", "bias", "scale", "embedding")}
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    assert {name for name, u in updates.items() if np.any(u != 0)} == {"kernel"}
