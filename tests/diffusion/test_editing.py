"""From a picture on: a part of a grid, and what is known stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import grids as G
from jaxdiff.diffusion import guidance as Gd
from jaxdiff.diffusion import samplers as S
from jaxdiff.errors import UserError
from jaxdiff.rng import image_keys

KEYS = [3, 4]


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(size=(2, 2, 2, 1)), jnp.float32)


@pytest.mark.parametrize("name", S.SAMPLERS)
def test_a_part_of_a_grid_is_the_grid_that_starts_there(name, make_process, make_denoise, x):
    process = make_process("cosine")
    denoise, sampler, keys = make_denoise(process), S.make_sampler(name), image_keys(KEYS)
    grid = G.make_grid(process, "karras", 7)
    traces = []

    @jax.jit
    def run(grid, count):
        traces.append(name)
        return S.sample(denoise, sampler, grid, x, keys, count=count, with_x0_trace=True)

    times = G.grid_times(process, "karras", 7)
    for count in (3, 7):
        part = G.Grid(
            *(jnp.asarray(v, jnp.float32) for v in G.grid_at(process, times[7 - count :]))
        )
        alone = S.sample(denoise, sampler, part, x, keys)
        drawn, trace = run(G.last_steps(grid, count), count)
        np.testing.assert_allclose(drawn, alone, atol=2e-5)
        assert trace.shape == (7, *x.shape)
        np.testing.assert_allclose(trace[count - 1], drawn, atol=2e-5)  # the last step lands on x0
    drawn, _ = run(G.last_steps(grid, 0), 0)
    np.testing.assert_array_equal(drawn, x)
    assert len(traces) == 1


def test_the_first_steps_and_then_the_rest_are_all(make_process, make_denoise, x):
    process = make_process("scaled_linear")
    denoise, sampler, keys = (
        make_denoise(process, "mixture"),
        S.make_sampler("ddim"),
        image_keys(KEYS),
    )
    grid = G.make_grid(process, "trailing", 10)
    first = S.sample(denoise, sampler, grid, x, keys, count=4)
    both = S.sample(denoise, sampler, G.last_steps(grid, 6), first, keys, count=6)
    np.testing.assert_allclose(both, S.sample(denoise, sampler, grid, x, keys), atol=1e-6)


@pytest.mark.parametrize("count", [-1, 6])
def test_parts_that_a_grid_has_not(make_process, count):
    with pytest.raises(UserError, match="give 0 to 5"):
        G.last_steps(G.make_grid(make_process("cosine"), "karras", 5), count)


@pytest.mark.parametrize("name", S.SAMPLERS)
@pytest.mark.parametrize("process_name", ["scaled_linear", "zero_snr", "flow"])
def test_what_is_known_is_reached_exactly(name, process_name, make_process, make_denoise, x):
    process = make_process(process_name)
    x0, mask = x[::-1], jnp.asarray([[[[1.0], [0.0]], [[0.0], [1.0]]]])
    denoise = Gd.known_region(make_denoise(process), x0, mask)
    grid = G.make_grid(process, "trailing", 6)
    keys = image_keys(KEYS)
    drawn = S.sample(denoise, S.make_sampler(name), grid, x, keys)
    np.testing.assert_allclose(*jnp.broadcast_arrays((drawn - x0) * (1 - mask), 0.0), atol=1e-6)
    assert np.abs((drawn - x0) * mask).max() > 0.1


def test_what_is_known_keeps_its_noise_from_level_to_level(make_process, make_denoise, x):
    """So a known region is where q_sample of the same noise is, as if it were never drawn."""
    process = make_process("scaled_linear")
    x0, eps, mask = 0.3 * x[::-1], x, jnp.zeros((2, 2, 2, 1)).at[:, 0].set(1.0)
    grid = G.make_grid(process, "trailing", 8)
    denoise = Gd.known_region(make_denoise(process), x0, mask)
    start = grid.alpha[0] * x0 + grid.sigma[0] * eps
    for count in (1, 4, 7):
        drawn = S.sample(denoise, S.ddim(), grid, start, image_keys(KEYS), count=count)
        expected = grid.alpha[count] * x0 + grid.sigma[count] * eps
        np.testing.assert_allclose(drawn[:, 1], expected[:, 1], atol=1e-5)


def test_mask_of_ones_and_of_zeros(make_process, make_denoise, x):
    denoise, t = make_denoise(make_process("cosine")), jnp.full(2, 0.5)
    ones, zeros = jnp.ones_like(x), jnp.zeros_like(x)
    np.testing.assert_array_equal(Gd.known_region(denoise, x, ones)(x, t), denoise(x, t))
    np.testing.assert_array_equal(Gd.known_region(denoise, 2 * x, zeros)(x, t), 2 * x)
