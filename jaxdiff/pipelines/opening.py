"""What the command line names, opened: pictures before jax starts, then the models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jaxdiff
from jaxdiff.errors import UserError
from jaxdiff.heap import keep_heap
from jaxdiff.pipelines.arguments import (
    Arguments,
    ControlFlag,
    WeightFlag,
    parse_controlnet,
    parse_weighted,
)
from jaxdiff.pipelines.hooks import load_hook
from jaxdiff.pipelines.pictures import Pictures, read_mask, read_picture

if TYPE_CHECKING:
    from jaxdiff.pipelines.text_to_image import TextToImage

SHIPPED = Path(jaxdiff.__file__).parents[1] / "models" / "emoji64"
"""The model that comes with a clone."""


class Files(NamedTuple):
    """What goes in."""

    pictures: Pictures
    controlnets: tuple[ControlFlag, ...]
    loras: tuple[WeightFlag, ...]
    embeddings: tuple[Path, ...]
    refiner: WeightFlag | None


def read_files(args: Arguments) -> Files:
    """Read all pictures, and see that all other files are there.

    Raises:
      UserError: one cannot be read, or the mask is of another size than its picture.
    """
    nets = tuple(parse_controlnet(text) for text in args.controlnet)
    init = None if args.init_image is None else read_picture(args.init_image, "init image")
    mask = None if args.mask is None else read_mask(args.mask)
    control = [read_picture(net.image, "control image") for net in nets]
    loras = tuple(parse_weighted(text) for text in args.lora)
    embeddings = tuple(map(Path, args.embedding))
    for what, files in (
        ("LoRA", [lora.where for lora in loras]),
        ("embedding", embeddings),
    ):
        for file in map(Path, files):
            if not file.is_file():
                raise UserError(f"{what} {file} does not exist; give a .safetensors file")
    refiner = None if args.refiner is None else parse_weighted(args.refiner)
    return Files(Pictures.of(init, mask, control), nets, loras, embeddings, refiner)


def open_pipeline(
    args: Arguments, files: Files, dtype: str, changes: dict[str, Any]
) -> "TextToImage":
    """The pipeline with all that takes part, once all names of the command line are right.

    Args:
      args: model, prediction and hooks.
      files: what goes in.
      dtype: what the networks compute in.
      changes: of settings, to be checked first.

    Raises:
      UserError: a setting is out of range, or something cannot be loaded or does not fit.
    """
    where = _model(args.model)
    hooks = {
        name: load_hook(given, name.replace("_", " "))
        for name in ("safety_checker", "watermark")
        if (given := getattr(args, name)) is not None
    }
    from jaxdiff.convert.tensors import read_metadata, require_safetensors
    from jaxdiff.pipelines.settings import Settings, with_changes
    from jaxdiff.pipelines.text_to_image import TextToImage

    with_changes(Settings(), changes)
    for file in (*files.embeddings, *(lora.where for lora in files.loras)):
        read_metadata(require_safetensors(file))  # whole and no pickle: before the model is read
    options = {"tokenizer_dir": args.tokenizer_dir, "variant": args.variant}
    pipe = TextToImage.load(where, dtype, prediction=args.prediction, **options, **hooks)
    for path in files.embeddings:
        pipe.add_embedding(path)
    if files.loras:
        pipe.set_loras([(x.where, 1.0 if x.number is None else x.number) for x in files.loras])
    for net in files.controlnets:
        pipe.add_controlnet(net.where, variant=_variant(net.where, args))
    if files.refiner is not None:
        options["variant"] = _variant(files.refiner.where, args)
        refiner = TextToImage.load(files.refiner.where, dtype, **options)
        start = files.refiner.number
        pipe.set_refiner(refiner, 0.8 if start is None else start)
    keep_heap(pipe.num_parameters)
    return pipe


def _variant(where: str | Path, args: Arguments) -> str | None:
    """The variant that is asked for, which single files do not have."""
    return None if Path(where).is_file() else args.variant


def _model(given: str | None) -> str | Path:
    if given is not None:
        return given
    if not SHIPPED.is_dir():
        raise UserError(f"the shipped model {SHIPPED} is not there; give one with --model DIR")
    return SHIPPED
