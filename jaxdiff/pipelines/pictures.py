"""Users' pictures that go in: read and checked. Imports no jax.

Axis legend: N pictures, one for all that are drawn or one for each; H W pixels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdiff.data.images import decode_image
from jaxdiff.errors import UserError
from jaxdiff.provenance import File


@dataclass(frozen=True)
class Picture:
    """A picture, and what to call it in a recipe."""

    pixels: np.ndarray
    """uint8 [H W 3], or [H W] for a mask."""
    name: str
    """Of its file; may be empty."""
    sha256: str
    """Of its file, or else of its pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[:2]

    def called(self, what: str) -> str:
        """What it is, with its name if it has one."""
        return f"{what} {self.name}" if self.name else what


Given = Any
"""A `Picture`, or an array uint8 [H W 3] or [N H W 3] (a mask's without the 3); None is none."""


@dataclass(frozen=True)
class Pictures:
    """All pictures that go in; each tuple holds one for all that are drawn, or one for each."""

    init: tuple[Picture, ...] = ()
    """To start from."""
    mask: tuple[Picture, ...] = ()
    """White where to draw, black where the picture stays."""
    control: tuple[tuple[Picture, ...], ...] = ()
    """For each ControlNet."""

    @classmethod
    def of(
        cls, init: Given = None, mask: Given = None, control: Sequence[Given] = ()
    ) -> "Pictures":
        """Check what was given.

        Raises:
          UserError: something is no picture, a mask comes without one, or is of another size.
        """
        pictures = cls(
            _listed(init, "init image", 3),
            _listed(mask, "mask", 2),
            tuple(_listed(given, "control image", 3) for given in control),
        )
        if pictures.mask and not pictures.init:
            raise UserError("a mask says what to redraw of a picture; give that with --init-image")
        for cover, picture in zip(*_matched(pictures.mask, pictures.init), strict=True):
            if cover.size != picture.size:
                raise UserError(
                    f"{cover.called('mask')} is {shown_size(cover.size)}, but "
                    f"{picture.called('its picture')} is {shown_size(picture.size)}; give a mask "
                    "of that size"
                )
        return pictures


NO_PICTURES = Pictures()
"""Nothing goes in but the prompt."""


def read_picture(path: str | Path, what: str) -> Picture:
    """A picture file as RGB, upright, on white.

    Args:
      path: the file.
      what: what it is for, as errors call it.

    Raises:
      UserError: it is missing, or no picture.
    """
    path, data = Path(path), _read(path, what)
    decoded = np.asarray(decode_image(data, f"{path} ({what})"))
    return Picture(decoded, path.name, hashlib.sha256(data).hexdigest())


def read_mask(path: str | Path) -> Picture:
    """A mask file as grey; see `read_picture`."""
    picture = read_picture(path, "mask")
    grey = np.asarray(Image.fromarray(picture.pixels).convert("L"))
    return Picture(grey, picture.name, picture.sha256)


def shown_size(size: tuple[int, int]) -> str:
    """Width x height, as users write it."""
    return f"{size[1]}x{size[0]}"


def file_record(path: str | Path) -> File:
    """Name and SHA-256 of a file, for a recipe."""
    with Path(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return {"name": Path(path).name, "sha256": digest.hexdigest()}


def _listed(given: Given, what: str, axes: int) -> tuple[Picture, ...]:
    """What was given, as pictures."""
    if given is None:
        return ()
    if isinstance(given, Picture):
        return (given,)
    array = np.asarray(given)
    fits = array.ndim in (axes, axes + 1) and (axes == 2 or array.shape[-1] == 3)
    if array.dtype != np.uint8 or not fits or not array.size:
        form = "[H W 3] or [N H W 3]" if axes == 3 else "[H W] or [N H W]"
        raise UserError(f"{what} should be uint8 {form}, not {array.dtype} {list(array.shape)}")
    rows = array[None] if array.ndim == axes else array
    return tuple(Picture(row, "", hashlib.sha256(row.tobytes()).hexdigest()) for row in rows)


def _matched(first: tuple, second: tuple) -> tuple[tuple, tuple]:
    """Both as long as the longer one, where one of them has one entry for all."""
    count = max(len(first), len(second)) if first and second else 0
    for pictures in (first, second):
        if count and len(pictures) not in (1, count):
            raise UserError(f"{len(first)} masks for {len(second)} pictures; give one for each")
    return tuple(p * count if len(p) == 1 else p[:count] for p in (first, second))


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{what} {path} does not exist") from error
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from error
