"""A corpus that needs no download: coloured shapes drawn on the spot, with captions.

For first steps and tests. Every example is a pure function of its number.

Axis legend: R resolution.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jaxdiff.errors import UserError, choose

COLOURS = {
    "red": (220, 38, 38),
    "orange": (249, 146, 22),
    "yellow": (250, 204, 21),
    "green": (34, 160, 74),
    "blue": (37, 99, 235),
    "purple": (147, 51, 204),
    "pink": (244, 132, 182),
    "black": (24, 24, 27),
}
CORNERS = {"triangle": 3, "diamond": 4, "pentagon": 5, "hexagon": 6}
SHAPES = ("circle", "ring", "square", "star", *CORNERS)
SIZES = {"small": 0.26, "big": 0.42}

# One pair in eight is never seen in training, its colour and its shape are.
HELD_OUT = {(colour, SHAPES[(3 * i + 1) % len(SHAPES)]) for i, colour in enumerate(COLOURS)}
_COUNT = {"train": 4096, "heldout": 256}
_SUPERSAMPLING = 4


class ShapesSource:
    """`_COUNT[split]` pictures of one shape each on white, at a random place.

    Args:
      split: train, or heldout with the pairs of colour and shape that train lacks.
      resolution: side R of the pictures.

    Raises:
      UserError: there is no such split.
    """

    def __init__(self, split: str, resolution: int):
        self._count = _COUNT[choose("split of shapes", split, _COUNT)]
        self._resolution = resolution
        self._pairs = [
            (colour, shape)
            for colour in COLOURS
            for shape in SHAPES
            if ((colour, shape) in HELD_OUT) == (split == "heldout")
        ]

        self.skipped: list[str] = []  # every picture can be drawn

    def __len__(self) -> int:
        """Number of examples."""
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The example: image, caption, subject and id."""
        colour, shape, size, draw = self._chosen(index)
        radius = SIZES[size]
        x, y = draw.uniform(radius + 0.02, 0.98 - radius, 2)
        image = render(shape, COLOURS[colour], (x, y), radius, self._resolution)
        return {"image": image, **self.row(index)}

    def row(self, index: int) -> dict[str, Any]:
        """The example without its image, which is not drawn."""
        colour, shape, size, _ = self._chosen(index)
        return {
            "caption": f"a {size} {colour} {shape}",
            "subject": f"{colour} {shape}",
            "id": str(index),
        }

    def _chosen(self, index: int) -> tuple[str, str, str, np.random.Generator]:
        """What example `index` shows, and the generator that places it."""
        if not 0 <= index < self._count:
            raise UserError(f"shapes have examples 0 to {self._count - 1}, not {index}")
        draw = np.random.Generator(np.random.Philox(key=[index, len(self._pairs)]))
        colour, shape = self._pairs[draw.integers(len(self._pairs))]
        return colour, shape, list(SIZES)[draw.integers(len(SIZES))], draw


def render(
    shape: str,
    colour: tuple[int, int, int],
    centre: Sequence[float],
    radius: float,
    resolution: int,
) -> np.ndarray:
    """One shape on white, antialiased, uint8 [R, R, 3]; centre and radius as shares of the side."""
    side = resolution * _SUPERSAMPLING
    x, y, r = centre[0] * side, centre[1] * side, radius * side
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    if shape in ("circle", "ring"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        if shape == "ring":
            pen.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill="white")
    elif shape == "square":
        half = r / math.sqrt(2)
        pen.rectangle((x - half, y - half, x + half, y + half), fill=colour)
    else:
        pen.polygon(_outline(shape, x, y, r), fill=colour)
    picture = picture.resize((resolution, resolution), Image.Resampling.BOX)
    return np.asarray(picture, np.uint8)


def _outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of a star or a regular polygon, one of them at the top."""
    count = 10 if shape == "star" else CORNERS[shape]
    corners = []
    for i in range(count):
        reach = r * (0.42 if shape == "star" and i % 2 else 1.0)
        angle = 2 * math.pi * i / count
        corners.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
    return corners
