"""Curves as a picture: values over a logarithmic or linear axis, by Pillow alone."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

COLOURS = (
    (200, 60, 40),
    (40, 90, 200),
    (40, 150, 70),
    (150, 80, 180),
    (210, 140, 30),
    (60, 160, 170),
    (120, 120, 120),
    (90, 60, 30),
)
_WIDTH, _HEIGHT, _MARGIN = 640, 400, 60


class Axis(NamedTuple):
    """What lies along a side of the picture."""

    label: str
    form: str = "{:g}"
    """How a number is written."""
    logarithmic: bool = False


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], title: str, across: Axis, up: Axis
) -> Image.Image:
    """Lines through points (x, y), each with its name; y begins at 0.

    Args:
      lines: name -> points, at least one.
      title: above the picture.
      across: the axis of x, marked where points lie.
      up: the axis of y.
    """
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    xs = sorted({x for points in lines.values() for x, _ in points})
    top = 1.1 * max(y for points in lines.values() for _, y in points) or 1.0
    scale = math.log2 if across.logarithmic else float
    span = scale(xs[-1]) - scale(xs[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = (scale(x) - scale(xs[0])) / span
        return (
            _MARGIN + share * (_WIDTH - 3 * _MARGIN),
            _HEIGHT - _MARGIN - y / top * (_HEIGHT - 2 * _MARGIN),
        )

    draw.text((_MARGIN, 15), title, "black")
    for share in range(5):
        value = top * share / 4
        (left, y), (right, _) = place(xs[0], value), place(xs[-1], value)
        draw.line((left, y, right, y), (225, 225, 225))
        draw.text((8, y - 6), up.form.format(value), "black")
    for x in xs:
        at, bottom = place(x, 0.0)
        draw.text((at - 8, bottom + 8), across.form.format(x), "black")
    draw.text((_WIDTH - 2 * _MARGIN + 12, _HEIGHT - _MARGIN + 8), across.label, "black")
    draw.text((8, 15), up.label, "black")
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [place(x, y) for x, y in points]
        draw.line(places, colour, 2)
        for x, y in places:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
        draw.text((_WIDTH - 2 * _MARGIN + 12, 40 + 14 * number), name, colour)
    return image
