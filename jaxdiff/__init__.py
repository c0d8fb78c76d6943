"""Text-to-image diffusion, from scratch, in JAX."""

__version__ = "0.1.0"
