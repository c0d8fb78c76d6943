"""The consistency loss against Gaussian data, whose trajectories are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion.arrays import expand
from jaxdiff.diffusion.consistency import consistency_loss, levels_at, pseudo_huber
from jaxdiff.diffusion.grids import make_grid
from jaxdiff.diffusion.process import betas_cosine, flow, vp
from jaxdiff.diffusion.samplers import ddim, sample
from jaxdiff.diffusion.stepping import Point, x0_between
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


def _end_of_segment(process, segments):
    """The x0 that leads in one step to where the flow of probability is at the segment's end."""
    ends = make_grid(process, "trailing", segments)

    def denoise(x, t):
        a = Point(t, *_levels(process, x, t))
        end = jnp.argmax(t[:, None] > ends.t[None], axis=1)  # the next boundary
        b = levels_at(ends, end, x)
        scale = jnp.sqrt((b.alpha**2 * STD**2 + b.sigma**2) / (a.alpha**2 * STD**2 + a.sigma**2))
        return x0_between(x, scale * x, a, b)

    return denoise


def _loss(process, student, steps, count=512, segments=1):
    keys = image_keys(range(count))
    x0 = STD * jax.random.normal(jax.random.key(0), (count, 4, 4, 2))
    grid = make_grid(process, "trailing", steps)
    return np.asarray(consistency_loss(student, _teacher(process), grid, x0, keys, segments))


@pytest.mark.parametrize("name", PROCESSES)
def test_the_exact_student_is_what_a_fine_grid_teaches(name):
    """Its loss is the teacher's local error, of second order; that of the denoiser stays larger."""
    process = PROCESSES[name]
    coarse, fine = (_loss(process, _end(process), steps).mean() for steps in (16, 64))
    print(f"{name}: exact student {coarse:.4f} at 16 steps, {fine:.5f} at 64")
    assert fine < coarse / 8
    assert _loss(process, _teacher(process), 64).mean() > 5 * fine


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("segments", [2, 4])
def test_of_segments_the_exact_student_goes_to_their_ends(name, segments):
    process = PROCESSES[name]
    student = _end_of_segment(process, segments)
    coarse, fine = (_loss(process, student, n, segments=segments).mean() for n in (16, 64))
    whole_way = _loss(process, _end(process), 64, segments=segments).mean()
    print(f"{name}: {coarse:.4f} at 16 steps, {fine:.5f} at 64; the whole way {whole_way:.4f}")
    assert fine < coarse / 2
    assert whole_way > 5 * fine


@pytest.mark.parametrize("name", PROCESSES)
def test_as_many_ddim_steps_as_segments_draw_what_the_exact_student_knows(name):
    """At the last level, every x is where its trajectory ends."""
    process = PROCESSES[name]
    grid = make_grid(process, "trailing", 4)
    x = jax.random.normal(jax.random.key(1), (8, 4, 4, 2))
    drawn = sample(_end_of_segment(process, 4), ddim(), grid, x, image_keys(range(8)))
    first = jnp.sqrt(grid.alpha[0] ** 2 * STD**2 + grid.sigma[0] ** 2)
    np.testing.assert_allclose(drawn, STD * x / first, rtol=1e-4, atol=1e-5)


def test_a_segment_for_each_step_asks_for_the_teacher():
    process = PROCESSES["cosine"]
    grid = make_grid(process, "trailing", 8)
    x0, keys = jax.random.normal(jax.random.key(2), (64, 4, 4, 2)), image_keys(range(64))
    student, teacher = _teacher(process), _end(process)
    alike = consistency_loss(teacher, teacher, grid, x0, keys, 8)
    np.testing.assert_allclose(alike, 0, atol=1e-4)
    assert consistency_loss(student, teacher, grid, x0, keys, 8).min() > 1e-2


def test_segments_that_do_not_divide_the_grid_are_refused():
    with pytest.raises(ValueError, match="16 steps of a grid are not 3 equal segments"):
        _loss(PROCESSES["flow"], _end(PROCESSES["flow"]), 16, segments=3)


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
