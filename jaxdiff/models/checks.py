"""What the configurations of the networks refuse."""

from collections.abc import Sequence
from typing import Any

from jaxdiff.errors import UserError


def require_positive(kind: str, config: Any, names: Sequence[str]) -> None:
    """Refuse fields that are not at least 1.

    Raises:
      UserError: one is not; the message names `kind` and the field.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{kind}: {name} must be at least 1, not {getattr(config, name)}")


def require_groups(kind: str, levels: Sequence[int], groups: int) -> None:
    """Refuse channels per level that the group norms do not divide.

    Raises:
      UserError: there is no level, no group, or a remainder.
    """
    if groups < 1 or not levels or min(levels) < 1:
        raise UserError(
            f"{kind}: block_out_channels={tuple(levels)} and norm_num_groups={groups} must be at "
            "least 1"
        )
    for channels in levels:
        if channels % groups:
            raise UserError(
                f"{kind}: {channels} channels do not divide into norm_num_groups={groups}"
            )


def require_divides(kind: str, config: Any, part: str, whole: str) -> None:
    """Refuse a field that does not divide another.

    Raises:
      UserError: there is a remainder; the message names `kind` and both fields.
    """
    divisor, value = getattr(config, part), getattr(config, whole)
    if value % divisor:
        raise UserError(f"{kind}: {part}={divisor} does not divide {whole}={value}")


def require_latents(height: int, width: int, downscale: int) -> None:
    """Refuse sides of pictures that an autoencoder's factor does not divide.

    Raises:
      UserError: there is a remainder.
    """
    if height % downscale or width % downscale:
        raise UserError(
            f"pictures of {width} x {height} have no latents: the sides must be multiples of "
            f"{downscale}; give --resolution"
        )
