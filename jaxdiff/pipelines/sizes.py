"""Which size is drawn, and all pictures brought to it. Imports no jax.

Axis legend: N pictures, one for all that are drawn or one for each; H W pixels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxdiff.errors import UserError
from jaxdiff.pipelines.pictures import Picture, Pictures, shown_size

Size = tuple[int, int]
"""Height and width in pixels."""


class Sizes(NamedTuple):
    """Of what is drawn."""

    given: Size
    """What the pictures are brought to, before a canvas is enlarged."""
    first: Size
    """What the first pass draws."""
    second: Size | None
    """What the second pass draws, if there is one."""

    @property
    def output(self) -> Size:
        """Of the result."""
        return self.second or self.first


class Wish(NamedTuple):
    """What the settings say of sizes."""

    width: int | None
    height: int | None
    outpaint: tuple[int, int, int, int]
    """Pixels to add left, above, right and below."""
    hires_scale: float
    tile: int


class Room(NamedTuple):
    """What a model can draw."""

    default: Size
    """What it was trained on."""
    multiple: int
    """Sizes are a multiple of it: pixels per latent along one side."""
    upscales: bool
    """Whether it enlarges a picture that many times."""
    guided_inside: bool = False
    """Whether it is told the guidance scale, and never reads what to draw away from."""


class Layout(NamedTuple):
    """The pictures as one size, ready for a batch; leading axes are 1 or that of the batch."""

    sizes: Sizes
    init: np.ndarray | None
    """uint8 [N H W 3], to start from."""
    mask: np.ndarray | None
    """uint8 [N H W]."""
    control: tuple[np.ndarray, ...]
    """uint8 [N H W 3] each."""
    small: np.ndarray | None
    """uint8 [N h w 3], for an upscaler."""


def choose_sizes(pictures: Pictures, wish: Wish, room: Room) -> Sizes:
    """The sizes of all passes.

    The first is width x height where given, else that of the picture to start from, else that of
    the first control image, else what the model was trained on.

    Raises:
      UserError: a size is no multiple of what the model draws, pictures differ in size, or wishes
        contradict each other.
    """
    _require_agreement(pictures, wish, room)
    shown = pictures.init or (pictures.control[0] if pictures.control else ())
    found = {picture.size for picture in shown}
    if len(found) > 1 and (wish.width is None or wish.height is None):
        raise UserError("the pictures given differ in size; give --width and --height")
    natural = next(iter(found), room.default)
    given = (wish.height or natural[0], wish.width or natural[1])
    left, top, right, bottom = wish.outpaint
    first = (given[0] + top + bottom, given[1] + left + right)
    if room.upscales:
        first = (first[0] * room.multiple, first[1] * room.multiple)
    _require_multiple(first, room.multiple, any(wish.outpaint))
    second = None
    if wish.hires_scale != 1:
        second = tuple(
            max(1, round(side * wish.hires_scale / room.multiple)) * room.multiple for side in first
        )
    return Sizes(given, first, second)


def arrange(pictures: Pictures, wish: Wish, room: Room) -> Layout:
    """Bring all pictures to the size that is drawn, and enlarge the canvas of those to outpaint.

    Raises:
      UserError: as for `choose_sizes`.
    """
    sizes = choose_sizes(pictures, wish, room)
    init, mask = _stack(pictures.init, sizes.given), _stack(pictures.mask, sizes.given)
    control = tuple(_stack(each, sizes.first) for each in pictures.control)
    if any(wish.outpaint):
        init, mask = _enlarged(init, mask, wish.outpaint)
    if room.upscales:
        return Layout(sizes, None, None, control, init)
    return Layout(sizes, init, mask, control, None)


def check_used(changes: Mapping[str, Any], pictures: Pictures, room: Room) -> None:
    """Refuse settings that would change nothing here.

    Args:
      changes: of settings, by name; None and what is off ask for nothing.
      pictures: that go in.
      room: what the model can draw.

    Raises:
      UserError: one is given; the message says what for it would be.
    """
    if changes.get("noise_level") is not None and not room.upscales:
        raise UserError("noise level is for models that enlarge a picture; leave it out here")
    if changes.get("strength") is not None and (room.upscales or not pictures.init):
        reason = "this model enlarges the whole picture" if room.upscales else "there is none"
        raise UserError(f"strength is for redrawing a picture, and {reason}; leave it out")
    off = {"negative_prompt": "", "guidance_rescale": 0.0, "guidance_interval": (0.0, 1.0)}
    for name, nothing in off.items():
        if room.guided_inside and changes.get(name) not in (None, nothing):
            raise UserError(
                f"this model is told the guidance scale alone, and draws with no "
                f"{name.replace('_', ' ')}; leave it out"
            )


def _require_agreement(pictures: Pictures, wish: Wish, room: Room) -> None:
    """Refuse wishes that contradict each other."""
    grows, sized = any(wish.outpaint), wish.width is not None or wish.height is not None
    if grows and sized:
        raise UserError("outpainting sets the size; leave out width and height")
    if grows and not pictures.init:
        raise UserError("outpainting draws around a picture; give that with --init-image")
    if wish.hires_scale != 1 and (pictures.mask or grows):
        raise UserError("a hires pass would redraw what the mask keeps; leave out one of them")
    if wish.tile and (wish.tile % room.multiple or wish.tile < 2 * room.multiple):
        raise UserError(
            f"tile is {wish.tile}; give a multiple of {room.multiple} pixels, at least "
            f"{2 * room.multiple}, or 0 for none"
        )
    if room.upscales and not pictures.init:
        raise UserError("this model enlarges a picture; give one with --init-image")
    if room.upscales and (pictures.mask or grows or sized or wish.hires_scale != 1):
        raise UserError(
            "this model enlarges a picture as it is; leave out mask, outpaint, width, height and "
            "hires"
        )


def _require_multiple(size: Size, multiple: int, grows: bool) -> None:
    if all(side % multiple == 0 for side in size):
        return
    near = tuple(max(1, round(side / multiple)) * multiple for side in size)
    remedy = (
        f"borders that make it {shown_size(near)}"
        if grows
        else f"--width {near[1]} --height {near[0]}, to which pictures are resized"
    )
    raise UserError(
        f"the size {shown_size(size)} is no multiple of the {multiple} pixels that this model "
        f"draws by; give {remedy}"
    )


def _enlarged(
    init: np.ndarray, mask: np.ndarray | None, outpaint: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The pictures with their edges drawn out, and the mask of what is new, or was masked."""
    left, top, right, bottom = outpaint
    around = ((0, 0), (top, bottom), (left, right))
    mask = np.zeros(init.shape[:3], np.uint8) if mask is None else mask
    return (
        np.pad(init, (*around, (0, 0)), mode="edge"),
        np.pad(mask, around, constant_values=255),
    )


def _stack(pictures: tuple[Picture, ...], size: Size) -> np.ndarray | None:
    """The pictures as one array of this height and width."""
    if not pictures:
        return None
    return np.stack([_resized(picture.pixels, size) for picture in pictures])


def _resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))
