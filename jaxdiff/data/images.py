"""Pictures in and out of files: decoded, composited, cropped and resized with Pillow.

Axis legend: H height, W width, R resolution, C channels (RGB).
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxdiff.data.buckets import fit
from jaxdiff.errors import UserError

# What Pillow raises on files that are damaged, foreign or too large to be honest.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

_ORIENTATION = 0x0112  # of EXIF


class CorruptImage(UserError):
    """A picture that can not be decoded; the message names it."""


def decode_image(data: bytes | Path, name: str = "", at_least: int = 0) -> Image.Image:
    """The picture as RGB, upright by its EXIF orientation, transparency composited on white.

    Args:
      data: the bytes of a file, or its path.
      name: what to call it in an error.
      at_least: a JPEG may be decoded at half, a quarter or an eighth of its size, as long as both
        sides keep so many pixels (much faster); 0 decodes all of it.

    Raises:
      CorruptImage: the bytes are no picture, or end too early; the message names it.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
            if at_least:
                opened.draft(None, (at_least, at_least))
            return on_white(ImageOps.exif_transpose(opened))
    except _DAMAGED as error:
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        shown = name or (str(data) if isinstance(data, Path) else "(bytes)")
        raise CorruptImage(f"can not read the picture {shown}: {reason}") from error


def picture_size(path: Path) -> tuple[int, int] | None:
    """Height and width of an upright picture, by its file's header; None if that is damaged."""
    try:
        with Image.open(path) as opened:
            exif = Image.Image.getexif(opened)  # that of a PNG would decode the picture for it
            turned = exif.get(_ORIENTATION, 1) >= 5  # by 90 degrees either way
            return opened.size if turned else opened.size[::-1]
    except _DAMAGED:
        return None


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB; what is transparent becomes white, 16-bit grey becomes 8-bit."""
    if picture.mode.startswith("I"):
        return picture.point(lambda value: value / 257).convert("L").convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def square(picture: Image.Image, resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """The central square of the picture, resized with antialiasing to [R, R, 3] uint8."""
    return fit(picture, resolution, resolution)


def encode_png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """The picture as the bytes of a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
