"""The page of the closest pairs: each generated picture beside its nearest training pictures.

Axis legend: N generated pictures, H W pixels.
"""

import base64
import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.images import encode_png
from jaxdiff.evaluate.files import write_text
from jaxdiff.evaluate.memorisation import Audit

_STYLE = (
    "body{font:14px sans-serif;margin:2em}td{padding:4px 10px;text-align:center}"
    "img{width:128px;image-rendering:pixelated;border:1px solid #ccc}.f{background:#fdd}"
)
Pictures = Mapping[int, UInt8[np.ndarray, "H W 3"]]


def closest(audit: Audit, count: int) -> list[int]:
    """The generated pictures that are nearest to a training picture, nearest first."""
    return np.argsort(audit.distances[:, 0], kind="stable")[:count].tolist()


def write_page(
    path: Path, audit: Audit, places: list[int], generated: Pictures, training: Pictures, said: str
) -> None:
    """Write the pairs as one HTML file that needs no other.

    Args:
      path: the file.
      audit: what was found.
      places: generated pictures, in the order of the page.
      generated: pictures by place.
      training: pictures by place.
      said: a line above them.

    Raises:
      UserError: the file cannot be written.
    """
    rows = "\n".join(_row(audit, place, generated, training) for place in places)
    head = "<tr><th>generated</th><th colspan=9>nearest training pictures</th></tr>"
    text = (
        f"<!doctype html><meta charset=utf-8><title>closest pairs</title><style>{_STYLE}</style>"
        f"<h1>Closest pairs</h1><p>{html.escape(said)}</p><table>{head}\n{rows}\n</table>\n"
    )
    write_text(path, text)


def _row(audit: Audit, place: int, generated: Pictures, training: Pictures) -> str:
    first = _cell(generated[place], f"no. {place}, p = {audit.p_values[place]:.3f}")
    others = (
        _cell(training[near], f"no. {near}, {far:.3f}")
        for near, far in zip(audit.places[place], audit.distances[place], strict=True)
    )
    return f"<tr{' class=f' if audit.flags[place] else ''}>{first}{''.join(others)}</tr>"


def _cell(picture: UInt8[np.ndarray, "H W 3"], words: str) -> str:
    data = base64.b64encode(encode_png(picture)).decode()
    return f'<td><img src="data:image/png;base64,{data}"><br>{words}</td>'
