"""What a single file says of itself in its header: whatever a model directory holds but weights.

    jaxdiff.files   {"unet/config.json": "...", "tokenizer/vocab.json": "...", ...} as JSON
    modelspec.*     title, architecture, resolution: what A1111 and ComfyUI show of a model

Source of the latter: Stability AI, Model Metadata Standard Specification 1.0.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from jaxdiff.convert.layout import write_layout
from jaxdiff.convert.model import Model
from jaxdiff.errors import UserError

FILES_KEY = "jaxdiff.files"

_SUFFIXES = (".json", ".txt")
# (family, channels of the first level, text width) -> the name of the architecture.
_ARCHITECTURES = {
    ("sd", 320, 768): "stable-diffusion-v1",
    ("sd-inpaint", 320, 768): "stable-diffusion-v1/inpaint",
    ("sd", 320, 1024): "stable-diffusion-v2",
    ("sdxl", 320, 2048): "stable-diffusion-xl-v1-base",
    ("sdxl-refiner", 384, 1280): "stable-diffusion-xl-v1-refiner",
}
_V2 = {"eps": "-512", "v": "-768-v"}
_PREDICTIONS = {"eps": "epsilon", "v": "v"}


def model_header(model: Model) -> dict[str, str]:
    """The header of a model's single file; the same for equal models."""
    unet, family = model.unet_config, model.family
    pixels = unet.sample_size * model.vae_config.downscale
    shape = (family, unet.block_out_channels[0], unet.cross_attention_dim)
    architecture = _ARCHITECTURES.get(shape, f"jaxdiff-{family}")
    if architecture == "stable-diffusion-v2":
        architecture += _V2.get(model.noise.prediction, "")
    about = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "sgm",
        "modelspec.title": str(model.meta.get("name") or family),
        "modelspec.resolution": f"{pixels}x{pixels}",
    }
    if model.noise.prediction in _PREDICTIONS:
        about["modelspec.prediction_type"] = _PREDICTIONS[model.noise.prediction]
    if model.meta.get("licence"):
        about["modelspec.license"] = str(model.meta["licence"])
    return about | packed(lambda folder: write_layout(folder, model))


def packed(write: Callable[[Path], None]) -> dict[str, str]:
    """The header that carries the text files which a function writes into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write(root)
        files = {
            file.relative_to(root).as_posix(): file.read_text("utf-8")
            for file in sorted(root.rglob("*"))
            if file.is_file()
        }
    return {FILES_KEY: json.dumps(files, ensure_ascii=False)}


def unpack(metadata: Mapping[str, str], folder: Path, source: str) -> bool:
    """Write the files that a header carries into a folder; False if it carries none.

    Args:
      metadata: the header's.
      folder: an empty one.
      source: the file, for messages.

    Raises:
      UserError: it is damaged, or names a file outside of the folder.
    """
    if FILES_KEY not in metadata:
        return False
    try:
        files = json.loads(metadata[FILES_KEY])
    except ValueError as error:
        raise UserError(f"{source}: {FILES_KEY} in its header is damaged: {error}") from error
    texts = files if isinstance(files, dict) else {FILES_KEY: None}
    for name, text in texts.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.suffix not in _SUFFIXES:
            raise UserError(f"{source}: {FILES_KEY} in its header names {name!r}: not a model's")
        if not isinstance(text, str):
            raise UserError(f"{source}: {name!r} in its header holds no text")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    return True
