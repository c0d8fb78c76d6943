"""The table of InceptionV3's layers: which convolutions and pools stand behind or beside others.

Szegedy et al. 2016, figures 5 to 7 and 10. The names are those of the PyTorch ports.
"""

from typing import NamedTuple


class Conv(NamedTuple):
    """A convolution without bias, its batch norm and ReLU; padded where its stride is 1."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class Pool(NamedTuple):
    """A 3x3 pool; of stride 1 and padded, or of stride 2 and not."""

    kind: str
    stride: int = 1


Step = Conv | Pool | tuple[Conv, ...]
"""One after the other; several in a tuple stand side by side and are concatenated."""
Branches = tuple[tuple[Step, ...], ...]

_AVERAGE = Pool("average")


def _double(first: int, features: int, stride: int = 1) -> tuple[Step, ...]:
    """1x1, 3x3, 3x3: two small kernels for one of 5x5."""
    return (
        Conv("branch3x3dbl_1", first),
        Conv("branch3x3dbl_2", features, (3, 3)),
        Conv("branch3x3dbl_3", features, (3, 3), stride),
    )


def _block_35(pooled: int) -> Branches:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        _double(64, 96),
        (_AVERAGE, Conv("branch_pool", pooled)),
    )


def _block_17(inner: int) -> Branches:
    sides = ((7, 1), (1, 7), (7, 1))
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", inner),
            Conv("branch7x7_2", inner, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", inner),
            *(Conv(f"branch7x7dbl_{i}", inner, side) for i, side in enumerate(sides, 2)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (_AVERAGE, Conv("branch_pool", 192)),
    )


def _block_8(pool: str) -> Branches:
    def sides(name: str) -> tuple[Conv, ...]:
        return Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))

    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), sides("branch3x3_2")),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            sides("branch3x3dbl_3"),
        ),
        (Pool(pool), Conv("branch_pool", 192)),
    )


_SHRINK_TO_17: Branches = (
    (Conv("branch3x3", 384, (3, 3), 2),),
    _double(64, 96, stride=2),
    (Pool("max", 2),),
)
_SHRINK_TO_8: Branches = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2),
    ),
    (Pool("max", 2),),
)

STEM: tuple[tuple[Conv | Pool, bool], ...] = (
    (Conv("Conv2d_1a_3x3", 32, (3, 3), 2), False),
    (Conv("Conv2d_2a_3x3", 32, (3, 3)), False),
    (Conv("Conv2d_2b_3x3", 64, (3, 3)), True),
    (Pool("max", 2), False),
    (Conv("Conv2d_3b_1x1", 80), False),
    (Conv("Conv2d_4a_3x3", 192, (3, 3)), False),
    (Pool("max", 2), False),
)
"""The first layers, and whether each is padded."""

MIXED: dict[str, Branches] = {
    "Mixed_5b": _block_35(32),
    "Mixed_5c": _block_35(64),
    "Mixed_5d": _block_35(64),
    "Mixed_6a": _SHRINK_TO_17,
    "Mixed_6b": _block_17(128),
    "Mixed_6c": _block_17(160),
    "Mixed_6d": _block_17(160),
    "Mixed_6e": _block_17(192),
    "Mixed_7a": _SHRINK_TO_8,
    "Mixed_7b": _block_8("average"),
    "Mixed_7c": _block_8("max"),  # in the other networks, the average
}
"""The blocks behind them."""
