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
