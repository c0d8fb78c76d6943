"""The consistency loss against Gaussian data, whose trajectories are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion.arrays import expand
from jaxdiff.diffusion.consistency import consistency_loss, pseudo_huber
from jaxdiff.diffusion.grids import make_grid
from jaxdiff.diffusion.process import betas_cosine, flow, vp
from jaxdiff.rng import image_keys

STD = 0.7
PROCESSES = {"cosine": vp(betas_cosine(1000)), "flow": flow()}


def _levels(process, x, t):
    return expand(process.alpha(t), x), expand(process.sigma(t), x)


def _teacher(process):
    """The exact denoiser of N(0, STD^2)."""

    def denoise(x, t):
        alpha, sigma = _levels(process, x, t)
        return STD**2 * alpha * x / (alpha**2 * STD**2 + sigma**2)

    return denoise


def _end(process):
    """Where the probability-flow ODE leads: x over its standard deviation does not change."""

    def denoise(x, t):
        alpha, sigma = _levels(process, x, t)
        return STD * x / jnp.sqrt(alpha**2 * STD**2 + sigma**2)

    return denoise


def _loss(process, student, steps, count=512):
    keys = image_keys(range(count))
    x0 = STD * jax.random.normal(jax.random.key(0), (count, 4, 4, 2))
    grid = make_grid(process, "trailing", steps)
    return np.asarray(consistency_loss(student, _teacher(process), grid, x0, keys))


@pytest.mark.parametrize("name", PROCESSES)
def test_the_exact_student_is_what_a_fine_grid_teaches(name):
    """Its loss is the teacher's local error, of second order; that of the denoiser stays larger."""
    process = PROCESSES[name]
    coarse, fine = (_loss(process, _end(process), steps).mean() for steps in (16, 64))
    print(f"{name}: exact student {coarse:.4f} at 16 steps, {fine:.5f} at 64")
    assert fine < coarse / 8
    assert _loss(process, _teacher(process), 64).mean() > 5 * fine


def test_one_step_asks_for_the_teachers_picture():
    """From the first level to the last the target is x_b = x0 of the teacher."""
    process = PROCESSES["cosine"]
    teacher = _teacher(process)
    assert _loss(process, teacher, 1).max() < 1e-4
    assert _loss(process, lambda x, t: teacher(x, t) + 1.0, 1) == pytest.approx(32**0.5, rel=1e-3)


def test_no_gradient_goes_through_the_target():
    """What the student says at the cleaner of an example's two levels is only aimed at."""
    process = PROCESSES["cosine"]
    grid = make_grid(process, "trailing", 2)
    x0, keys = jnp.ones((8, 2, 2, 1)), image_keys(range(8))

    def losses(weights):
        def student(x, t):
            return x * expand(jnp.where(t == grid.t[0], weights[0], weights[1]), x)

        return consistency_loss(student, _teacher(process), grid, x0, keys)

    learns = np.abs(jax.jacobian(losses)(jnp.array([0.3, 0.4]))) > 1e-3
    np.testing.assert_array_equal(learns.sum(axis=1), 1)
    assert learns.any(axis=0).all()  # both levels were drawn


def test_pseudo_huber_is_a_length_with_a_rounded_foot():
    x = jnp.zeros((3, 5, 5, 4))
    y = x.at[1].set(1e-6).at[2].set(3.0)
    at_zero, near, far = pseudo_huber(x, y)
    assert at_zero == 0 and near < 1e-6 * 10 and far == pytest.approx(30.0, rel=1e-3)
    gradient = jax.grad(lambda x: pseudo_huber(x, y).sum())(x)
    lengths = np.sqrt(np.sum(np.square(gradient), axis=(1, 2, 3)))
    assert np.isfinite(lengths).all() and lengths.max() <= 1.0 + 1e-6
