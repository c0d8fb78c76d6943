"""Licensed icon sets: fetched as npm packages, checked, and read as named SVG drawings.

Each package of the Iconify project holds `icons.json` (the drawings) and `info.json` (author and
licence). Versions and SHA-512 digests are pinned, so the corpus is the same for everybody.
"""

import json
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from jaxdiff.data.npm import Package


class Icon(NamedTuple):
    """One drawing: `name` as the set calls it, and a square stand-alone SVG document."""

    name: str
    svg: str


def _iconify(name: str, version: str, integrity: str, licence: str) -> Package:
    return Package(f"@iconify-json/{name}", version, f"sha512-{integrity}==", licence)


ICON_SETS = {
    "noto": _iconify(
        "noto", "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw",
        "Apache-2.0"),
    "fluent": _iconify(
        "fluent-emoji-flat", "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw",
        "MIT"),
    "twemoji": _iconify(
        "twemoji", "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw",
        "CC-BY-4.0"),
    "emojione": _iconify(
        "emojione", "1.2.3",
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg",
        "CC-BY-4.0"),
    "fxemoji": _iconify(
        "fxemoji", "1.2.2",
        "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ",
        "Apache-2.0"),
    "openmoji": _iconify(
        "openmoji", "1.2.29",
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ",
        "CC-BY-SA-4.0"),
}  # fmt: skip

# Everything but share-alike: what a model that ships may be trained on.
PERMISSIVE = ("noto", "fluent", "twemoji", "emojione", "fxemoji")

_SKIN_TONE = re.compile(r"(^|-)((medium-)?(light|dark)-skin-tone|medium-skin-tone|tone[1-5])")
_SHORT_TONE = re.compile(r"(-(light|medium|dark))+$")  # Fluent's form, "man-detective-dark"


def read_archive(path: Path) -> tuple[dict, dict]:
    """The set's `icons.json` and `info.json` from its archive."""
    with tarfile.open(path) as archive:
        icons = json.load(archive.extractfile("package/icons.json"))
        return icons, json.load(archive.extractfile("package/info.json"))


def visible_icons(icons: dict) -> list[Icon]:
    """The drawings of `icons.json` less hidden ones and skin-tone variants, by name.

    Aliases are names for drawings that are here already, and are left out.
    """
    drawings = icons["icons"]
    return [
        Icon(name, svg_document(icons, name))
        for name, drawing in sorted(drawings.items())
        if not drawing.get("hidden") and not _is_skin_tone(name, drawings)
    ]


def _is_skin_tone(name: str, drawings: dict) -> bool:
    if _SKIN_TONE.search(name):
        return True
    plain = _SHORT_TONE.sub("", name)
    return plain != name and f"{plain}-medium-dark" in drawings  # "police-car-light" stays


def svg_document(icons: dict, name: str) -> str:
    """The drawing `name` as an SVG document, centred in the smallest square that holds it."""
    drawing = icons["icons"][name]
    left, top, width, height = (
        drawing.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{side:g}" height="{side:g}">{drawing["body"]}</svg>'
    )
