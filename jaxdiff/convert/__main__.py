"""Convert a model or a ControlNet: `python -m jaxdiff.convert SOURCE DESTINATION`.

python -m jaxdiff.convert dreamshaper.safetensors dreamshaper            to a directory
python -m jaxdiff.convert models/emoji64 emoji64.safetensors             to a single file
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import ml_dtypes
import numpy as np
import tyro

from jaxdiff.cli import exit_code, parse_or_explain
from jaxdiff.convert import hub
from jaxdiff.convert.controlnet import is_controlnet, load_controlnet, save_controlnet
from jaxdiff.convert.model_dir import load_model, save_model
from jaxdiff.convert.scheduler import PredictionName
from jaxdiff.convert.single_file_save import save_single_file
from jaxdiff.convert.tensors import require_safetensors
from jaxdiff.convert.vocabulary import TokenizerFiles
from jaxdiff.convert.weight_files import INDEX
from jaxdiff.errors import UserError
from jaxdiff.models import count_parameters

_DTYPES = {
    "keep": None,
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Convert a Stable Diffusion model or a ControlNet between a directory and a single file."""

    source: Annotated[str, tyro.conf.Positional]
    """A model directory, a .safetensors file, or OWNER/NAME on the Hugging Face hub."""
    destination: Annotated[Path, tyro.conf.Positional]
    """A directory or, where it ends in .safetensors, a file."""
    dtype: Literal["keep", "float16", "bfloat16", "float32"] = "keep"
    """Type of the weights; keep: each as it is."""
    variant: str | None = None
    """Variant of a directory's weight files, such as fp16."""
    prediction: PredictionName | None = None
    """What the network predicts, where a single file does not say so."""
    tokenizer_dir: Path | None = None
    """Folder with the tokenizer of a single file that carries none."""
    overwrite: bool = False
    """Replace the destination if it exists."""


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        prog = "python -m jaxdiff.convert"
        convert(
            parse_or_explain(
                lambda: tyro.cli(Arguments, prog=prog, args=arguments, use_underscores=False)
            )
        )

    return exit_code(run)


def convert(args: Arguments) -> None:
    """Read, write, and say what was written.

    Raises:
      UserError: the source cannot be read, or the destination exists or cannot be written.
    """
    _require_destination(args)
    place = hub.locate(args.source, args.variant)
    if place.is_dir() and not (place / INDEX).is_file() and is_controlnet(place):
        told = _convert_controlnet(place, args)
    elif place.is_file() and is_controlnet(place):
        told = _convert_controlnet(place, args)
    else:
        told = _convert_model(place, args)
    print(f"wrote {args.destination}: {told}")


def _convert_model(place: Path, args: Arguments) -> str:
    model = load_model(
        place,
        TokenizerFiles,
        dtype=None,
        variant=args.variant,
        prediction=args.prediction,
        tokenizer_dir=args.tokenizer_dir,
    )
    for note in model.notes:
        print(f"note: {note}", file=sys.stderr)
    save = save_single_file if args.destination.suffix else save_model
    save(args.destination, model, _DTYPES[args.dtype])
    size = _size(model.num_parameters)
    return f"{model.family}, {size}, prediction {model.noise.prediction}"


def _convert_controlnet(place: Path, args: Arguments) -> str:
    for name in ("prediction", "tokenizer_dir"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} does nothing for a ControlNet")
    config, params = load_controlnet(place, dtype=None, variant=args.variant)
    save_controlnet(args.destination, config, params, _DTYPES[args.dtype])
    return f"ControlNet, {_size(count_parameters(params))}"


def _size(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} million parameters"


def _require_destination(args: Arguments) -> None:
    """Refuse a destination that exists, is the source, or has the suffix of something else."""
    if args.destination.suffix and not args.destination.is_dir():
        require_safetensors(args.destination)
    if not args.destination.exists():
        return
    if args.destination.resolve() == Path(args.source).resolve():
        raise UserError(f"{args.destination} is the source itself; choose another destination")
    if not args.overwrite:
        raise UserError(f"{args.destination} exists; choose another, or give --overwrite")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
