"""Every sampler by name, and the one loop that runs them.

Axis legend: B images, N steps; the rest of x is any shape.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff.diffusion.grids import Grid
from jaxdiff.diffusion.prediction import Denoise
from jaxdiff.diffusion.samplers_ode import dpm_2, heun, lms, unipc
from jaxdiff.diffusion.samplers_sde import ancestral, dpmpp_2m_sde, dpmpp_sde, lcm
from jaxdiff.diffusion.stepping import Sampler
from jaxdiff.errors import choose
from jaxdiff.rng import fold_each, named_keys, normal_each


def ddim(eta: float = 0.0, s_noise: float = 1.0) -> Sampler:
    """DDIM (Song et al. 2021, eq. 12): `ancestral`, deterministic unless eta is given."""
    return ancestral(eta, s_noise)


def ddpm() -> Sampler:
    """DDPM (Ho et al. 2020, algorithm 2, posterior variance): `ancestral` with eta = 1."""
    return ancestral(1.0)


def euler() -> Sampler:
    """Euler in s = sigma / alpha (Karras et al. 2022): `ancestral` with eta = 0, hence DDIM."""
    return ancestral(0.0)


def dpmpp_2m() -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): `dpmpp_2m_sde` with eta = 0."""
    return dpmpp_2m_sde(0.0)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "euler_a": ancestral,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_sde": dpmpp_sde,
    "lms": lms,
    "unipc": unipc,
    "lcm": lcm,
}
"""Name -> constructor; call it with the options of that method."""


def make_sampler(name: str, **options: float) -> Sampler:
    """The sampler of a name, with its options.

    Raises:
      UserError: the name is unknown, or an option is out of range.
    """
    return SAMPLERS[choose("sampler", name, SAMPLERS)](**options)


def sample(
    denoise: Denoise,
    sampler: Sampler,
    grid: Grid,
    x: Float[Array, "B ..."],
    keys: Key[Array, " B"],
    *,
    count: int | Int[Array, ""] | None = None,
    with_x0_trace: bool = False,
) -> Float[Array, "B ..."] | tuple[Float[Array, "B ..."], Float[Array, "N B ..."]]:
    """Run a sampler over a grid in one `lax.scan`.

    Args:
      denoise: (x_t, t) -> x0.
      sampler: from `SAMPLERS`.
      grid: levels from noisy to clean; its values may be traced.
      x: the sample at the first level, from `initial_noise` or `q_sample`.
      keys: one key per image; step i draws from fold_in(key, i).
      count: take only so many steps, 0 to N; may be traced. None takes all.
      with_x0_trace: also return the prediction of x0 at every step, [N B ...].
    """

    def step(state, i):  # noqa: ANN001, ANN202
        return sampler.step(denoise, grid, i, state, fold_each(keys, i))

    def body(state, i):  # noqa: ANN001, ANN202
        if count is None:
            state = step(state, i)
        else:
            state = jax.lax.cond(i < count, step, lambda state, _: state, state, i)
        return state, state.x0 if with_x0_trace else None

    state, trace = jax.lax.scan(body, sampler.init(x, grid), jnp.arange(grid.n))
    return (state.x, trace) if with_x0_trace else state.x


def initial_noise(
    keys: Key[Array, " B"], shape: tuple[int, ...], grid: Grid
) -> Float[Array, "B ..."]:
    """The sample [B, *shape] at the first level, from each image's own key, float32.

    N(0, alpha^2 + sigma^2), the marginal for data of unit variance: 1 for a variance-preserving
    process at any level and for flow at t = 1.
    """
    return initial_scale(grid) * unit_noise(keys, shape)


def unit_noise(
    keys: Key[Array, " B"], shape: tuple[int, ...], name: str = "x_T"
) -> Float[Array, "B ..."]:
    """Standard normal noise [B, *shape], float32, from each image's own key of this name."""
    return normal_each(jax.vmap(lambda key: named_keys(key, name)[name])(keys), shape)


def initial_scale(grid: Grid) -> Float[Array, ""]:
    """What `initial_noise` multiplies unit noise by."""
    return jnp.sqrt(grid.alpha[0] ** 2 + grid.sigma[0] ** 2)
