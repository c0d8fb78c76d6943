"""Properties of every sampler: order, distribution, identities, noise that belongs to the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_kinds import ORDERS, STOCHASTIC

from jaxdiff.diffusion import grids as G
from jaxdiff.diffusion import samplers as S
from jaxdiff.errors import UserError
from jaxdiff.rng import fold_each, image_keys, normal_each

SHAPE = (2, 2, 1)


def _draw(denoise, sampler, grid, keys, x=None, **options):
    """Noise and sampler in one jitted function, the grid an argument."""

    @jax.jit
    def draw(grid, keys, x):
        x = S.initial_noise(keys, SHAPE, grid) if x is None else x
        return S.sample(denoise, sampler, grid, x, keys, **options)

    return draw(grid, keys, x)


def test_the_table_is_covered():
    assert {*ORDERS, *STOCHASTIC} == set(S.SAMPLERS)


# ------------------------------------------------------------- every sampler


@pytest.mark.parametrize("name", S.SAMPLERS)
@pytest.mark.parametrize("process_name", ["cosine", "zero_snr", "flow", "edm"])
def test_a_constant_denoiser_is_reached_exactly(name, process_name, make_process):
    """The last step lands on x0, from zero terminal SNR too, where nothing may divide by alpha."""
    process = make_process(process_name)
    denoise = lambda x, t: jnp.full_like(x, 0.25)  # noqa: E731
    for kind, n in (("trailing", 1), ("trailing", 5), ("karras", 2)):
        grid = G.make_grid(process, kind, n)
        out = _draw(denoise, S.make_sampler(name), grid, image_keys(range(3)))
        np.testing.assert_allclose(out, 0.25, atol=1e-6)


@pytest.mark.parametrize("name", S.SAMPLERS)
def test_a_picture_depends_on_its_own_key_alone(name, make_process, make_denoise):
    """Batch of 8, batch of 1, another place in the batch: the same picture."""
    process = make_process("cosine")
    denoise, sampler = make_denoise(process, "mixture"), S.make_sampler(name)
    grid = G.make_grid(process, "trailing", 6)
    whole = _draw(denoise, sampler, grid, image_keys(range(8)))
    turned = _draw(denoise, sampler, grid, image_keys(range(7, -1, -1)))
    single = _draw(denoise, sampler, grid, image_keys([5]))
    np.testing.assert_allclose(turned[::-1], whole, atol=1e-6)
    np.testing.assert_allclose(single[0], whole[5], atol=1e-6)
    assert len(np.unique(np.round(whole, 4))) > 8  # and different keys, different pictures


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_sde", "unipc"])
def test_eight_devices_draw_the_same_pictures(name, make_process, make_denoise):
    if jax.device_count() < 8:
        pytest.skip("needs eight devices")
    process = make_process("cosine")
    grid, keys = G.make_grid(process, "trailing", 6), image_keys(range(8))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put(keys, jax.NamedSharding(mesh, jax.P("data")))
    denoise, sampler = make_denoise(process, "mixture"), S.make_sampler(name)
    one, eight = (_draw(denoise, sampler, grid, k) for k in (keys, spread))
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(eight, one, atol=1e-6)


@pytest.mark.parametrize("name", S.SAMPLERS)
def test_one_compile_for_every_grid_and_key(name, make_process, make_denoise):
    process, compiled = make_process("cosine"), []

    @jax.jit
    def draw(grid, keys):
        compiled.append(1)
        x = S.initial_noise(keys, SHAPE, grid)
        return S.sample(make_denoise(process), S.make_sampler(name), grid, x, keys)

    for kind in ("trailing", "karras"):
        for seed in (0, 1):
            out = draw(G.make_grid(process, kind, 4), image_keys([seed]))
            assert out.dtype == jnp.float32 and jnp.isfinite(out).all()
    assert len(compiled) == 1


@pytest.mark.parametrize("name", S.SAMPLERS)
def test_trace_of_x0(name, make_process, make_denoise):
    """One prediction per step; the first is the denoiser's at the noise, the last comes out."""
    process = make_process("edm")
    denoise, grid = make_denoise(process), G.make_grid(process, "karras", 5)
    keys = image_keys(range(2))
    out, trace = _draw(denoise, S.make_sampler(name), grid, keys, with_x0_trace=True)
    assert trace.shape == (5, 2, *SHAPE)
    x = S.initial_noise(keys, SHAPE, grid)
    np.testing.assert_allclose(trace[0], denoise(x, jnp.ones(2)), rtol=1e-5)
    if name != "lms":  # lms extrapolates to sigma = 0
        np.testing.assert_allclose(trace[-1], out, atol=1e-5)


def test_a_half_precision_start_is_sampled_in_float32(make_process):
    process = make_process("flow")
    grid, x = G.make_grid(process, "trailing", 3), jnp.ones((1, *SHAPE), jnp.bfloat16)
    out = S.sample(lambda x, t: x / 2, S.heun(), grid, x, image_keys([0]))
    assert out.dtype == jnp.float32


def test_initial_noise(make_process):
    """Of the marginal's standard deviation for unit data, from each image's own key."""
    keys = image_keys(range(2000))
    for name, std in (("cosine", 1.0), ("flow", 1.0), ("edm", 80.0)):
        noise = S.initial_noise(keys, SHAPE, G.make_grid(make_process(name), "trailing", 3))
        assert float(noise.std()) == pytest.approx(std, rel=0.03)
        assert abs(float(noise.mean())) < 0.03 * std
    again = S.initial_noise(keys[3:4], SHAPE, G.make_grid(make_process("edm"), "trailing", 3))
    np.testing.assert_array_equal(again[0], noise[3])
    step = normal_each(fold_each(keys[:50], 0), SHAPE)
    assert abs(np.corrcoef(np.ravel(step), np.ravel(noise[:50]))[0, 1]) < 0.3  # not drawn again


def test_unknown_sampler_and_impossible_options():
    with pytest.raises(UserError, match="unknown sampler 'dpmpp_3m'.*ddim, ddpm, dpm_2"):
        S.make_sampler("dpmpp_3m")
    for name, options in (("ddim", {"eta": -1.0}), ("dpmpp_sde", {"s_noise": -0.1}), ("lms", {"order": 9})):  # noqa: E501 # fmt: skip
        with pytest.raises(UserError, match="give"):
            S.make_sampler(name, **options)


def test_second_order_methods_call_once_at_the_last_step(make_process):
    """2 N - 1 evaluations, as diffusers counts them; counted when they run."""
    process, times = make_process("edm"), []

    def denoise(x, t):
        jax.debug.callback(times.append, t[0])
        return 0.5 * x

    for name in ("heun", "dpm_2", "dpmpp_sde"):
        times.clear()
        grid = G.make_grid(process, "karras", 4)
        jax.block_until_ready(_draw(denoise, S.make_sampler(name), grid, image_keys([0])))
        jax.effects_barrier()
        assert len(times) == 7, name


# ---------------------------------------------------------------- stochastic


@pytest.mark.parametrize("name", STOCHASTIC)
def test_mean_and_variance_of_a_gaussian(name, make_process, make_denoise, gaussian):
    """lcm wants a consistency function: the solution of the ODE, not the posterior mean."""
    process, (mean, std) = make_process("cosine"), gaussian

    def consistency(x, t):
        alpha, sigma = (f(t)[:, None, None, None] for f in (process.alpha, process.sigma))
        return mean + std * (x - alpha * mean) / jnp.sqrt(alpha**2 * std**2 + sigma**2)

    denoise = consistency if name == "lcm" else make_denoise(process)
    out = _draw(denoise, S.make_sampler(name), G.make_grid(process, "trailing", 400), image_keys(range(4096)))  # noqa: E501 # fmt: skip
    assert float(out.mean()) == pytest.approx(mean, abs=0.015)
    assert float(out.std()) == pytest.approx(std, abs=0.015)


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name != "lcm"])
def test_moments_of_a_mixture(name, make_process, make_denoise):
    """Modes at -0.7 and 0.7 of deviation 0.3: E x = 0, E x^2 = 0.58, E |x| = 0.7009."""
    process = make_process("flow")
    grid = G.make_grid(process, "trailing", 400)
    out = _draw(make_denoise(process, "mixture"), S.make_sampler(name), grid, image_keys(range(4096)))  # noqa: E501 # fmt: skip
    moments = [out.mean(), (out**2).mean(), jnp.abs(out).mean()]
    np.testing.assert_allclose(moments, [0, 0.58, 0.7009], atol=0.02)


def test_increments_within_a_step_are_of_one_brownian_path(make_process):
    """dpmpp_sde on x0 = 0: the noise at the end, given that at the middle, as the SDE has it."""
    from jaxdiff.diffusion.samplers_sde import _brownian

    for r in (0.1, 0.5, 0.95):
        middle, end = _brownian(image_keys(range(5000)), SHAPE, jnp.float32(r))
        np.testing.assert_allclose([middle.std(), end.std()], 1, atol=0.03)
        # dy = y ds^2/s^2 + noise: y' = r y + up' z' must be the two half steps after another.
        half, up = np.sqrt(r), lambda r, s: s * np.sqrt(1 - r**2)
        second = up(r, r) * end - half**2 * up(half, half) * middle
        np.testing.assert_allclose(second.std(), up(half, r), rtol=0.03)
        assert abs(np.corrcoef(np.ravel(second), np.ravel(middle))[0, 1]) < 0.03


# ----------------------------------------------------------------- identities


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (S.ddim(), S.euler()),
        (S.ddpm(), S.SAMPLERS["euler_a"](1.0)),
        (S.ddim(0.6), S.SAMPLERS["euler_a"](0.6)),
        (S.dpmpp_2m(), S.SAMPLERS["dpmpp_2m_sde"](0.0)),
        (S.euler(), S.SAMPLERS["lms"](1)),
    ],
    ids=["ddim=euler", "ddpm=euler_a", "ddim(eta)=euler_a(eta)", "2m=2m_sde(0)", "euler=lms(1)"],
)
def test_identities(a, b, make_process, make_denoise):
    process = make_process("linear")
    denoise, grid = make_denoise(process, "mixture"), G.make_grid(process, "trailing", 12)
    ours, theirs = (_draw(denoise, sampler, grid, image_keys(range(4))) for sampler in (a, b))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
