"""Draw the README's two grids: subjects by styles from training pairs, and held-out pairs.

    python benchmarks/grids.py --model models/emoji64 --out docs/images

Nothing is picked by its looks: picture i of both grids, counted through, is drawn with seed `seed`
+ i, and the held-out pairs are the first of a shuffle.

Axis legend: N pictures, H W pixels.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxdiff import platform
from jaxdiff.cli import exit_code, or_exit

or_exit(platform.configure)

import numpy as np  # noqa: E402
import tyro  # noqa: E402
from jaxtyping import UInt8  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

from jaxdiff.data.captions import emoji_caption  # noqa: E402
from jaxdiff.data.sources import DataConfig, make_source  # noqa: E402
from jaxdiff.errors import UserError  # noqa: E402
from jaxdiff.pipelines import TextToImage  # noqa: E402

SUBJECTS = (
    "cat face",
    "red heart",
    "rocket",
    "pizza",
    "smiling face with sunglasses",
    "red apple",
    "snowman",
    "octopus",
)
STYLES = ("noto", "fluent", "twemoji", "emojione")
_GAP, _FONT = 6, 13  # pixels


@dataclass(frozen=True)
class Arguments:
    """Draw two grids of pictures with captions."""

    model: Path = Path("models/emoji64")
    """Model directory."""
    out: Path = Path("docs/images")
    """Where grid_train.png and grid_heldout.png go."""
    source: str = "emoji/permissive"
    """Corpus with splits train and heldout."""
    subjects: tuple[str, ...] = SUBJECTS
    """Columns of the first grid; each must be a training pair in every style."""
    styles: tuple[str, ...] = STYLES
    """Rows of the first grid."""
    held_out: int = 32
    """How many held-out pairs."""
    seed: int = 0
    """Shuffles the held-out pairs; the first picture's seed."""
    side: int = 112
    """Side of a picture in the grid, in pixels."""


def labelled_grid(
    images: UInt8[np.ndarray, "N H W 3"],
    rows: Sequence[str],
    columns: Sequence[str],
    side: int,
) -> Image.Image:
    """Pictures row by row, with a label left of each row and above each column."""
    font = ImageFont.load_default(_FONT)
    left = _GAP + max(int(font.getlength(row)) for row in rows) + _GAP
    wrapped = [_wrap(column, font, side) for column in columns]
    top = _GAP + max(text.count("\n") + 1 for text in wrapped) * (_FONT + 3) + _GAP
    sheet, draw = _sheet(left + len(columns) * (side + _GAP), top + len(rows) * (side + _GAP))
    for i, text in enumerate(wrapped):
        corner = (left + i * (side + _GAP) + side / 2, top - _GAP)
        draw.multiline_text(corner, text, "black", font, anchor="md", align="center")
    for i, row in enumerate(rows):
        draw.text((_GAP, top + i * (side + _GAP) + side / 2), row, "black", font, anchor="lm")
    for i, image in enumerate(images):
        row, column = divmod(i, len(columns))
        sheet.paste(
            _scaled(image, side), (left + column * (side + _GAP), top + row * (side + _GAP))
        )
    return sheet


def captioned_grid(
    images: UInt8[np.ndarray, "N H W 3"], captions: Sequence[str], columns: int, side: int
) -> Image.Image:
    """Pictures row by row, each with its caption below it."""
    font = ImageFont.load_default(_FONT - 2)
    wrapped = [_wrap(caption, font, side) for caption in captions]
    below = max(text.count("\n") + 1 for text in wrapped) * (_FONT + 1) + _GAP
    count = -(-len(images) // columns)
    sheet, draw = _sheet(_GAP + columns * (side + _GAP), _GAP + count * (side + below + _GAP))
    for i, (image, text) in enumerate(zip(images, wrapped, strict=True)):
        row, column = divmod(i, columns)
        x, y = _GAP + column * (side + _GAP), _GAP + row * (side + below + _GAP)
        sheet.paste(_scaled(image, side), (x, y))
        draw.multiline_text(
            (x + side / 2, y + side + 2), text, "black", font, anchor="ma", align="center"
        )
    return sheet


def _sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (width, height), "white")
    return sheet, ImageDraw.Draw(sheet)


def _scaled(image: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Break a text into lines of at most `width` pixels, at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def training_captions(known: set[str], subjects: Sequence[str], styles: Sequence[str]) -> list[str]:
    """The captions of styles by subjects, row by row.

    Raises:
      UserError: one is no training pair.
    """
    captions = [emoji_caption(subject, style) for style in styles for subject in subjects]
    missing = [caption for caption in captions if caption not in known]
    if missing:
        raise UserError(f"no training pairs: {'; '.join(missing)}; choose other --subjects")
    return captions


def draw(args: Arguments) -> list[Path]:
    """Draw both grids; the files written."""
    pipe = TextToImage.load(args.model)
    train, held = (
        make_source(DataConfig(source=args.source, split=split, resolution=pipe.image_size))
        for split in ("train", "heldout")
    )
    known = {train[index]["caption"] for index in range(len(train))}
    captions = training_captions(known, args.subjects, args.styles)
    seeds = range(args.seed, args.seed + len(captions))
    first = labelled_grid(pipe(captions, seeds), args.styles, args.subjects, args.side)

    order = np.random.default_rng(args.seed).permutation(len(held))[: args.held_out]
    captions = [held[int(index)]["caption"] for index in order]
    seeds = range(seeds.stop, seeds.stop + len(captions))
    second = captioned_grid(pipe(captions, seeds), captions, 8, args.side)

    args.out.mkdir(parents=True, exist_ok=True)
    paths = [args.out / "grid_train.png", args.out / "grid_heldout.png"]
    for path, sheet in zip(paths, (first, second), strict=True):
        sheet.save(path, optimize=True)
    return paths


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        for path in draw(tyro.cli(Arguments, args=arguments)):
            print(path)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
