"""Tiles: exact where the function is local, seamless elsewhere, the untiled one where one holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.models import Autoencoder, AutoencoderConfig, example_inputs
from jaxdiff.models.tiling import tiled_decode, tiled_encode


def _enlarge(z):
    """Pixel by pixel, so that tiles change nothing: [B h w 3] -> [B 4h 4w 3]."""
    return jnp.tanh(z).repeat(4, axis=1).repeat(4, axis=2)


def _shrink(x):
    """The inverse, and something else beside it."""
    z = jnp.arctanh(x[:, ::4, ::4])
    return z, 2 * z


@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [((8, 8), 4, 0), ((7, 13), 4, 1), ((7, 13), 6, 4), ((3, 20), 5, 3)],
)
def test_tiles_of_a_local_function_fit_together(size, tile, overlap):
    z = jax.random.normal(jax.random.key(0), (2, *size, 3))
    x = jax.jit(lambda z: tiled_decode(_enlarge, z, tile, overlap))(z)
    np.testing.assert_allclose(x, _enlarge(z), atol=1e-6)
    mean, double = jax.jit(lambda x: tiled_encode(_shrink, x, tile, overlap))(x)
    np.testing.assert_allclose(mean, z, atol=1e-4)
    np.testing.assert_allclose(double, 2 * z, atol=1e-4)


def test_one_tile_is_the_function_itself():
    z = jax.random.normal(jax.random.key(0), (2, 5, 8, 3))
    np.testing.assert_array_equal(tiled_decode(_enlarge, z, 8, 2), _enlarge(z))


def test_neighbours_are_blended_linearly():
    """A function that says which tile it is in: the overlap is a ramp from one to the other."""
    z = jnp.arange(12.0).reshape(1, 1, 12, 1)
    x = tiled_decode(lambda z: jnp.broadcast_to(z[:, :, :1], z.shape), z, 8, 4)
    ramp = (np.arange(4) + 0.5) / 4 * 4  # from the tile at 0 to the tile at 4
    np.testing.assert_allclose(x[0, 0, :, 0], [0] * 4 + list(ramp) + [4] * 4, atol=1e-6)


def test_an_autoencoder_by_tiles_is_nearly_the_whole_one():
    """Without attention, and with norms that see less, the tiles differ little at this overlap."""
    config = AutoencoderConfig(
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    network = Autoencoder(config)
    params = network.init(jax.random.key(0), **example_inputs(config))
    z = jax.random.normal(jax.random.key(1), (1, 24, 16, 4))

    def decode(z):
        return network.apply(params, z, method="decode")

    whole, tiled = decode(z), jax.jit(lambda z: tiled_decode(decode, z, 16, 8))(z)
    assert tiled.shape == whole.shape
    assert jnp.abs(tiled - whole).mean() < 0.2 * jnp.abs(whole).mean()
    steps = jnp.abs(jnp.diff(tiled, axis=1)).mean((0, 2, 3))  # no row where it jumps
    assert steps.max() < 2 * jnp.median(steps)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_tiles_that_do_not_advance_are_refused(tile, overlap):
    with pytest.raises(UserError, match="overlap"):
        tiled_decode(_enlarge, jnp.zeros((1, 8, 8, 3)), tile, overlap)
