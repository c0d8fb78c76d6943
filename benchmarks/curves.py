"""Curves as a picture."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

_MARKERS = "osD^v<>"  # with ten colours: 70 lines that differ


class Axis(NamedTuple):
    """What lies along a side of the picture."""

    label: str
    form: str = "{x:g}"
    """How a number x is written."""
    logarithmic: bool = False


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], title: str, across: Axis, up: Axis
) -> Figure:
    """Lines through points (x, y), each with its name; y begins at 0.

    Args:
      lines: name -> points, at least one.
      title: above the picture.
      across: the axis of x, marked where points lie.
      up: the axis of y.
    """
    figure = Figure(figsize=(7.5, max(4.5, 0.24 * len(lines))), layout="constrained")
    axes = figure.subplots()
    colours = mpl.color_sequences["tab10"]
    for number, (name, points) in enumerate(lines.items()):
        style = colours[number % len(colours)], _MARKERS[number % len(_MARKERS)]
        axes.plot(*zip(*points, strict=True), color=style[0], marker=style[1], label=name)
    if across.logarithmic:
        axes.set_xscale("log", base=2)
    ticks = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(ticks, [across.form.format(x=x) for x in ticks], minor=False)
    axes.set(title=title, xlabel=across.label, ylabel=up.label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(up.form)
    axes.grid(color="0.9")
    figure.legend(loc="outside right upper", frameon=False)
    return figure
