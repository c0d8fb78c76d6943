"""The autoencoder's compute types."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models import Autoencoder, AutoencoderConfig, parameter_shapes

CONFIG = AutoencoderConfig(
    block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, force_upcast=True
)


def test_float16_is_upcast_where_it_would_overflow():
    """Weights that take the features past 65504, and norms that take them back."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), parameter_shapes(CONFIG)
    )
    params["decoder"]["conv_in"]["kernel"] *= 1e5
    z = jnp.asarray(rng.normal(size=(1, 2, 2, 4)), jnp.float32)

    def decode(config, dtype):
        network = Autoencoder(config, dtype)
        apply = jax.jit(network.apply, static_argnames="method")
        return apply({"params": params}, z, method="decode")

    whole = decode(CONFIG, jnp.float32)
    np.testing.assert_array_equal(decode(CONFIG, jnp.float16), whole)
    kept = dataclasses.replace(CONFIG, force_upcast=False)
    assert not jnp.isfinite(decode(kept, jnp.float16)).all()
