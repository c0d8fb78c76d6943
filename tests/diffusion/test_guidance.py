"""Guidance has its limits, belongs to the image, and leaves white white."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import grids as G
from jaxdiff.diffusion import guidance as Gd
from jaxdiff.diffusion import samplers as S
from jaxdiff.errors import UserError
from jaxdiff.rng import image_keys


def cond(x, t):
    """A prompt that wants 0.8, and more of it where there is little noise."""
    return 0.8 - 0.3 * t[:, None, None, None] + 0.1 * x


def uncond(x, t):
    """No prompt: darker and flatter."""
    return -0.2 + 0.05 * x


@pytest.fixture
def x_t(rng):
    """(x [4 6 6 3], t [4])."""
    return jnp.asarray(rng.normal(size=(4, 6, 6, 3)), jnp.float32), jnp.linspace(0.1, 0.9, 4)


def test_scale_one_is_unguided_and_zero_is_the_other(x_t):
    np.testing.assert_array_equal(Gd.classifier_free(cond, uncond, 1.0)(*x_t), cond(*x_t))
    np.testing.assert_allclose(Gd.classifier_free(cond, uncond, 0)(*x_t), uncond(*x_t), atol=1e-6)


def test_scale_moves_away_from_the_negative_prompt(x_t):
    expected = uncond(*x_t) + 3.0 * (cond(*x_t) - uncond(*x_t))
    np.testing.assert_allclose(Gd.classifier_free(cond, uncond, 3.0)(*x_t), expected, atol=1e-5)


def test_swapping_prompt_and_negative_mirrors_the_scale(x_t):
    """Scale w with (a, b) is scale 1 - w with (b, a)."""
    a = Gd.classifier_free(cond, uncond, 3.0)(*x_t)
    np.testing.assert_allclose(a, Gd.classifier_free(uncond, cond, -2.0)(*x_t), atol=1e-5)


def test_guiding_x0_is_guiding_eps(x_t, make_process):
    process = make_process("cosine")
    (x, t), column = x_t, lambda level: level[:, None, None, None]
    alpha, sigma = column(process.alpha(t)), column(process.sigma(t))
    eps = lambda denoise: (x - alpha * denoise(x, t)) / sigma  # noqa: E731
    guided = eps(uncond) + 4.0 * (eps(cond) - eps(uncond))
    np.testing.assert_allclose(
        eps(Gd.classifier_free(cond, uncond, 4.0)), guided, rtol=1e-3, atol=1e-4
    )


def test_one_call_on_twice_the_batch_is_two_calls(x_t):
    def both(x, t):
        (a, b), (s, r) = jnp.split(x, 2), jnp.split(t, 2)
        return jnp.concatenate([cond(a, s), uncond(b, r)])

    for options in ({}, {"rescale": 0.7}, {"interval": (0.3, 0.7)}):
        batched = Gd.classifier_free_batched(both, 3.0, **options)(*x_t)
        separate = Gd.classifier_free(cond, uncond, 3.0, **options)(*x_t)
        np.testing.assert_allclose(batched, separate, rtol=1e-6)


def test_a_scale_per_image(x_t):
    scales = jnp.asarray([0.0, 1.0, 3.0, 7.0])
    whole = Gd.classifier_free(cond, uncond, scales)(*x_t)
    for i, scale in enumerate(scales):
        alone = Gd.classifier_free(cond, uncond, float(scale))(x_t[0][i : i + 1], x_t[1][i : i + 1])
        np.testing.assert_allclose(whole[i : i + 1], alone, rtol=1e-6)


def test_new_scale_compiles_nothing(make_process):
    process, compiled = make_process("cosine"), []
    grid = G.make_grid(process, "trailing", 3)

    @jax.jit
    def draw(scale, rescale, low):
        compiled.append(1)
        denoise = Gd.classifier_free(cond, uncond, scale, rescale=rescale, interval=(low, 0.8))
        keys = image_keys([0])
        return S.sample(denoise, S.euler(), grid, S.initial_noise(keys, (2, 2, 3), grid), keys)

    results = [draw(*options) for options in ((1.0, 0.0, 0.0), (5.0, 0.0, 0.0), (5.0, 0.7, 0.2))]
    assert len(compiled) == 1 and not np.allclose(results[0], results[1])


def test_rescale_gives_the_contrast_of_the_unguided_image(x_t):
    std = lambda x: np.std(x, axis=(1, 2, 3))  # noqa: E731
    guided = Gd.classifier_free(cond, uncond, 7.0)(*x_t)
    full = Gd.classifier_free(cond, uncond, 7.0, rescale=1.0)(*x_t)
    np.testing.assert_allclose(std(full), std(cond(*x_t)), rtol=1e-5)
    half = Gd.classifier_free(cond, uncond, 7.0, rescale=0.5)(*x_t)
    np.testing.assert_allclose(half, 0.5 * (full + guided), rtol=1e-4, atol=1e-5)
    flat = Gd.rescaled(jnp.full((1, 2, 2, 1), 3.0), jnp.ones((1, 2, 2, 1)), 1.0)
    np.testing.assert_array_equal(flat, 3.0)  # no contrast: left alone, no NaN


def test_interval_guides_inside_and_not_outside(x_t):
    out = Gd.classifier_free(cond, uncond, 5.0, interval=(0.3, 0.7))(*x_t)
    always = Gd.classifier_free(cond, uncond, 5.0)(*x_t)
    inside = np.array([False, True, True, False])  # t = 0.1, 0.37, 0.63, 0.9
    np.testing.assert_array_equal(out[inside], always[inside])
    np.testing.assert_array_equal(out[~inside], cond(*x_t)[~inside])
    x, t = x_t[0], jnp.array([0.0, 1e-6, 1 - 1e-6, 1.0])  # 0 and 1 are within (0, 1)
    plain = cond(x, t) + 4.0 * (cond(x, t) - uncond(x, t))
    ends = Gd.classifier_free(cond, uncond, 5.0, interval=(0.0, 1.0))(x, t)
    np.testing.assert_array_equal(ends, plain)


# ------------------------------------------------------------------ thresholding


def _apply(wrapper, x0, **options):
    """Wrap a denoiser that says x0 whatever it sees."""
    x0 = jnp.asarray(x0, jnp.float32)
    wrapped = wrapper(lambda x, t: x0, **options)
    return np.asarray(wrapped(jnp.zeros_like(x0), jnp.zeros(x0.shape[0])))


def test_static_threshold(rng):
    x0 = rng.normal(size=(2, 4, 4, 3)) * 2
    np.testing.assert_allclose(_apply(Gd.static_threshold, x0), np.clip(x0, -1, 1))


def test_dynamic_threshold_keeps_what_is_in_range(rng):
    x0 = rng.uniform(-1, 1, size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(_apply(Gd.dynamic_threshold, x0), x0)


@pytest.mark.parametrize("background", [1.0, 1.06, -1.0])
def test_white_stays_white_and_black_black(background, rng):
    """A strongly guided red disc on a white ground: Imagen's rule turns the ground grey."""
    x0 = np.full((1, 16, 16, 3), background)
    x0[:, 4:10, 4:10] = [1.8, -1.5, -1.5]
    out = _apply(Gd.dynamic_threshold, x0, cap=3.0)
    np.testing.assert_allclose(out[:, 0, 0], np.sign(background), atol=1e-6)
    np.testing.assert_allclose(out[:, 5, 5], [[1, -1.5 / 1.8, -1.5 / 1.8]], atol=1e-2)
    assert np.abs(out).max() <= 1


def test_dynamic_threshold_is_imagens_for_colours_up_to_its_cap(rng):
    x0 = rng.normal(size=(3, 16, 16, 3)) * np.array(
        [1.2, -1.2, 0.2]
    )  # no pixel near white or black
    x0[..., 0], x0[..., 1] = np.abs(x0[..., 0]), -np.abs(x0[..., 1])
    for cap in (1.0, 1.3, 9.0):
        s = np.clip(np.quantile(np.abs(x0).reshape(3, -1), 0.995, axis=1), 1, cap)
        s = s[:, None, None, None]
        out = _apply(Gd.dynamic_threshold, x0, cap=cap)
        np.testing.assert_allclose(out, np.clip(x0, -s, s) / s, rtol=1e-4, atol=1e-5)


def test_threshold_of_an_image_does_not_depend_on_the_batch(rng):
    x0 = rng.normal(size=(4, 8, 8, 3)) * 2
    whole = _apply(Gd.dynamic_threshold, x0)
    alone = _apply(Gd.dynamic_threshold, x0[2:3])
    np.testing.assert_allclose(whole[2:3], alone, rtol=1e-6)


@pytest.mark.parametrize("options", [{"percentile": 0.0}, {"percentile": 99.5}, {"cap": 0.5}])
def test_impossible_thresholds_are_refused(options):
    with pytest.raises(UserError, match="give a percentile"):
        Gd.dynamic_threshold(cond, **options)
