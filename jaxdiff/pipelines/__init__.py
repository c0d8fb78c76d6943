"""Prompt to picture: model directory, samplers and guidance, jitted whole.

`TextToImage` is imported at its first use, so that the command line can refuse bad input before jax
starts.
"""

from typing import Any

__all__ = ["Settings", "TextToImage"]


def __getattr__(name: str) -> Any:
    """Import the pipeline at its first use (PEP 562)."""
    if name in __all__:
        from jaxdiff.pipelines import settings, text_to_image

        return getattr(settings if name == "Settings" else text_to_image, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
