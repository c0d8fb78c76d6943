"""TFDS data set `emoji`: captioned pictures rendered from licensed vector icons.

One configuration per style and one, `permissive`, for all five sets without a share-alike clause;
each at any resolution: `emoji_builder("permissive", 64, folder)`. Import this module where the
data set is needed, not at the top of another: it brings in `tensorflow_datasets` (not TensorFlow).
"""

import dataclasses
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from jaxdiff.data.captions import emoji_caption
from jaxdiff.data.icons import ICON_SETS, PERMISSIVE, read_archive, visible_icons
from jaxdiff.data.images import decode_image, encode_png, square
from jaxdiff.data.naming import Vocabulary
from jaxdiff.data.npm import fetch
from jaxdiff.errors import choose

HELD_OUT_SHARE = 0.05
STYLES = (*ICON_SETS, "permissive")


@dataclasses.dataclass
class EmojiConfig(tfds.core.BuilderConfig):
    """Which styles to draw and at what size.

    Attributes:
      style: one of the icon sets, or "permissive" for all that are not share-alike.
      resolution: side of the square pictures, in pixels.
    """

    name: str = ""
    style: str = "permissive"
    resolution: int = 64

    def __post_init__(self):
        choose("emoji style", self.style, STYLES)
        self.name = f"{self.style}-{self.resolution}"

    @property
    def styles(self) -> tuple[str, ...]:
        """The icon sets drawn."""
        return PERMISSIVE if self.style == "permissive" else (self.style,)


class Drawing(NamedTuple):
    """One example before it is rendered."""

    id: str
    svg: str
    subject: str
    style: str
    licence: str
    author: str


class Emoji(tfds.core.GeneratorBasedBuilder):
    """The icon sets as examples of image, caption, subject, style, licence, author and id."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Five permissive sets and OpenMoji."}
    # The usual sizes; any other is a "custom configuration" to TFDS and serves as well.
    BUILDER_CONFIGS = [
        EmojiConfig(style=style, resolution=resolution)
        for style in ("permissive", *ICON_SETS)
        for resolution in (64, 32, 128, 256)
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.resolution
        text = ("caption", "subject", "style", "licence", "author", "id")
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(side, side, 3), encoding_format="png")}
                | {name: tfds.features.Text() for name in text}
            ),
            homepage="https://iconify.design",
            license="Each example names its own: Apache-2.0, MIT, CC-BY-4.0 or CC-BY-SA-4.0.",
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
        folder = Path(dl_manager.download_dir) / "npm"
        splits = split_drawings(*read_drawings(folder, self.builder_config.styles))
        return {name: self._generate_examples(chosen) for name, chosen in splits.items()}

    def _generate_examples(self, drawings: list[Drawing]) -> Iterator[tuple[str, dict]]:
        for drawing in drawings:
            fields = drawing._asdict()
            png = render(fields.pop("svg"), self.builder_config.resolution)
            caption = emoji_caption(drawing.subject, drawing.style)
            yield drawing.id, fields | {"image": io.BytesIO(png), "caption": caption}


def emoji_builder(style: str, resolution: int, data_dir: Path) -> Emoji:
    """The data set in one configuration, prepared or not, under `data_dir`.

    Raises:
      UserError: there is no such style; the message lists them.
    """
    config = EmojiConfig(style=style, resolution=resolution)
    # TFDS refuses a configuration that is equal to one of its own without being the same object.
    return Emoji(config=Emoji.builder_configs.get(config.name, config), data_dir=data_dir)


def read_drawings(
    folder: Path, styles: tuple[str, ...]
) -> tuple[list[Drawing], Mapping[str, set[str]]]:
    """The drawings of `styles`, and for every subject the permissive styles that draw it.

    The vocabulary and the split need every permissive set, whichever styles are asked for.
    """
    names = dict.fromkeys((*PERMISSIVE, *styles))
    archives = {style: read_archive(fetch(ICON_SETS[style], folder)) for style in names}
    icons = {style: visible_icons(archives[style][0]) for style in names}
    vocabulary = _vocabulary(archives, icons)
    drawings, permissive_styles = [], defaultdict(set)
    for style in names:
        author = archives[style][1]["author"]["name"]
        for icon in icons[style]:
            subject = vocabulary.subject(icon.name, style)
            if style in PERMISSIVE:
                permissive_styles[subject].add(style)
            if style in styles:
                drawings.append(
                    Drawing(
                        f"{style}:{icon.name}",
                        icon.svg,
                        subject,
                        style,
                        ICON_SETS[style].licence,
                        author,
                    )
                )
    return drawings, permissive_styles


def _vocabulary(archives: Mapping, icons: Mapping) -> Vocabulary:
    named_by_unicode = ("noto", "fluent", "twemoji")
    aliases = {
        alias: entry["parent"]
        for style in ("emojione", *reversed(named_by_unicode))
        for alias, entry in archives[style][0].get("aliases", {}).items()
    }
    return Vocabulary((icon.name for style in named_by_unicode for icon in icons[style]), aliases)


def split_drawings(
    drawings: Sequence[Drawing], permissive_styles: Mapping[str, set[str]]
) -> dict[str, list[Drawing]]:
    """`train` and `heldout`; a picture that has two names (some families) is always in `train`."""
    uses = Counter(drawing.svg for drawing in drawings)
    splits = {"train": [], "heldout": []}
    for drawing in drawings:
        held = uses[drawing.svg] == 1 and held_out(
            drawing.subject, drawing.style, permissive_styles
        )
        splits["heldout" if held else "train"].append(drawing)
    return splits


def held_out(subject: str, style: str, permissive_styles: Mapping[str, set[str]]) -> bool:
    """Whether the pair belongs to the split `heldout`.

    A pair is held out if its hash falls in the lowest 5% and a permissive style other than its own
    draws the subject with a hash above: that drawing is then in `train`. The rule looks at nothing
    but names, so the split is the same in every configuration and at every resolution.
    """
    return _unit_hash(subject, style) < HELD_OUT_SHARE and any(
        _unit_hash(subject, other) >= HELD_OUT_SHARE
        for other in permissive_styles.get(subject, ())
        if other != style
    )


def _unit_hash(subject: str, style: str) -> float:
    """A number in [0, 1) that depends on the pair alone."""
    digest = hashlib.sha256(f"{subject}|{style}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def render(svg: str, resolution: int) -> bytes:
    """The drawing on white as a PNG of `resolution` squared, RGB."""
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg,
        width=resolution,
        height=resolution,
        background="#ffffff",
        skip_system_fonts=True,
    )
    return encode_png(square(decode_image(bytes(png), "icon"), resolution))
