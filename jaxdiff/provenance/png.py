"""A PNG with its recipe.

It gets three text chunks. `parameters` is the form that AUTOMATIC1111's web UI made common;
`jaxdiff` is the same as JSON, and more, for `--recreate`; `XML:com.adobe.xmp` holds the IPTC
digital source type. Axis legend: H W pixels.
"""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from jaxdiff.errors import UserError, typed_fields
from jaxdiff.provenance.recipe import Recipe, a1111_text, given_pictures, used

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for a picture drawn by a trained model alone (http, exactly so)."""

COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term where somebody's own picture went in."""

_JSON_CHUNK = "jaxdiff"
_A1111_CHUNK = "parameters"
_XMP_CHUNK = "XML:com.adobe.xmp"
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    Iptc4xmpExt:DigitalSourceType="{source_type}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def write_png(
    path: str | Path,
    pixels: UInt8[np.ndarray, "H W 3"],
    recipe: Recipe,
    source_type: str | None = None,
) -> None:
    """Write a picture with its recipe, whole or not at all (a temporary file, then a rename).

    Args:
      path: where to.
      pixels: the picture.
      recipe: how it was drawn.
      source_type: IPTC's term; None is `COMPOSITE` where a user's picture went in, else `TRAINED`.

    Raises:
      UserError: the file cannot be written.
    """
    path = Path(path)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(_A1111_CHUNK, a1111_text(recipe))
    chunks.add_text(_JSON_CHUNK, json.dumps(used(recipe), sort_keys=True))
    term = source_type or (COMPOSITE if given_pictures(recipe) else TRAINED)
    chunks.add_itxt(_XMP_CHUNK, _XMP.format(source_type=term))
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp", delete=False
        ) as stream:
            try:
                Image.fromarray(pixels).save(stream, "png", pnginfo=chunks)
                stream.flush()
                os.chmod(stream.name, 0o644)
                os.replace(stream.name, path)
            except BaseException:
                os.unlink(stream.name)
                raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def read_png(path: str | Path) -> tuple[UInt8[np.ndarray, "H W 3"], Recipe]:
    """The pixels of a picture that jaxdiff drew, and its recipe.

    Raises:
      UserError: the file is missing, no picture, or carries no recipe.
    """
    try:
        with Image.open(path) as image:
            image.load()
            chunk = getattr(image, "text", {}).get(_JSON_CHUNK)
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"picture {path} does not exist") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable picture ({error})") from error
    if chunk is None:
        raise UserError(f"{path} carries no recipe; only a PNG drawn by jaxdiff can be drawn again")
    return pixels, _recipe(chunk, path)


def source_type(path: str | Path) -> str | None:
    """The IPTC digital source type in a PNG's XMP; None where it has none."""
    with Image.open(path) as image:
        packet = getattr(image, "text", {}).get(_XMP_CHUNK, "")
    _, found, rest = packet.partition('Iptc4xmpExt:DigitalSourceType="')
    return rest.partition('"')[0] if found else None


def _recipe(chunk: str, path: str | Path) -> Recipe:
    """The recipe in a JSON chunk; keys that a later version may have added are left out."""
    damaged = f"the recipe in {path} is damaged"
    try:
        content: dict[str, Any] = json.loads(chunk)
        known = {field.name for field in dataclasses.fields(Recipe)}
        given = {key: value for key, value in content.items() if key in known}
        return Recipe(**typed_fields(Recipe, given, damaged))
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{damaged} ({error})") from error
