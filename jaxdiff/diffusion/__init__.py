"""The maths of diffusion on arrays: jax and numpy only, no network, no file, no configuration."""
