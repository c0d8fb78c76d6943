"""What a deployer can put between the drawing and its handing out: a check, a mark.

Axis legend: B pictures, H W pixels, S steps shown.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdiff.errors import UserError

SafetyChecker = Callable[[np.ndarray, Sequence[str]], tuple[np.ndarray, Sequence[bool]]]
"""(pictures uint8 [B H W 3], prompts) -> (pictures to hand out, whether each is flagged)."""

Watermark = Callable[[np.ndarray], np.ndarray]
"""A picture uint8 [H W 3] -> the picture with a mark in it."""


class Hooks(NamedTuple):
    """Both, or none."""

    safety_checker: SafetyChecker | None = None
    watermark: Watermark | None = None


class Drawn(NamedTuple):
    """What a call gives."""

    pixels: UInt8[np.ndarray, "B H W 3"]
    """The pictures."""
    steps: UInt8[np.ndarray, "B S H W 3"] | None
    """The x0 predictions at S <= 8 of the steps, first to last, where they were asked for."""
    flags: tuple[bool, ...]
    """Whether a safety checker flagged each."""


def load_hook(name: str, what: str) -> Callable:
    """The function that `module:function` names.

    Raises:
      UserError: there is no such module or function.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise UserError(f"{what} {name!r} should be module:function, such as checks:blur_faces")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{what} {name} cannot be imported: {error}") from error
    if not callable(found):
        raise UserError(f"{what} {name} is a {type(found).__name__}, not a function")
    return found


def apply_hooks(drawn: Drawn, prompts: Sequence[str], hooks: Hooks) -> Drawn:
    """What may be handed out: checked first, marked last; steps of a flagged picture are black.

    Raises:
      UserError: a hook returned other than it should.
    """
    pixels, steps, flags = drawn
    safety_checker, watermark = hooks
    if safety_checker is not None:
        checked, flags = safety_checker(pixels.copy(), list(prompts))
        flags = tuple(bool(flag) for flag in flags)
        pixels = _like(checked, pixels, "the safety checker")
        if len(flags) != len(pixels):
            raise UserError(
                f"the safety checker gave {len(flags)} flags for {len(pixels)} pictures"
            )
        if steps is not None:
            steps = np.where(np.array(flags)[:, None, None, None, None], np.uint8(0), steps)
    if watermark is not None:
        mark = lambda image: _like(watermark(image.copy()), image, "the watermark")  # noqa: E731
        pixels = np.stack([mark(image) for image in pixels])
        if steps is not None:
            steps = np.stack([np.stack([mark(image) for image in strip]) for strip in steps])
    return Drawn(pixels, steps, flags)


def _like(given: Any, expected: np.ndarray, what: str) -> np.ndarray:
    """What a hook returned, if it is pixels as those it was given."""
    array = np.asarray(given)
    if array.shape != expected.shape or array.dtype != np.uint8:
        raise UserError(
            f"{what} should return uint8 {list(expected.shape)}, not {array.dtype} "
            f"{list(array.shape)}"
        )
    return array
