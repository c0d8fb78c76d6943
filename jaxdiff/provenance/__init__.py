"""What a picture carries: how it was drawn, by which model, and that a machine drew it."""

from jaxdiff.provenance.png import COMPOSITE, TRAINED, read_png, source_type, write_png
from jaxdiff.provenance.recipe import File, Recipe, Use, a1111_text, given_pictures, used

__all__ = [
    "COMPOSITE",
    "File",
    "TRAINED",
    "Recipe",
    "Use",
    "a1111_text",
    "given_pictures",
    "read_png",
    "source_type",
    "used",
    "write_png",
]
