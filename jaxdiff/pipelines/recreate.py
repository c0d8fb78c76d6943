"""A picture drawn again by the recipe that it carries, from the same files."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdiff.errors import UserError
from jaxdiff.pipelines.arguments import FILES, Arguments, WeightFlag, others_given
from jaxdiff.pipelines.cli import say
from jaxdiff.pipelines.jobs import writable_directory
from jaxdiff.pipelines.opening import Files, open_pipeline, read_files
from jaxdiff.pipelines.pictures import Picture, file_record
from jaxdiff.provenance import File, Recipe, Use, read_png, write_png

if TYPE_CHECKING:
    from jaxdiff.pipelines.text_to_image import TextToImage

_ALLOWED = (
    "model",
    "variant",
    "tokenizer_dir",
    "out",
    "recreate",
    "safety_checker",
    "watermark",
    *FILES,
)
_PLAIN = (
    "num_steps",
    "sampler",
    "schedule",
    "guidance_scale",
    "guidance_rescale",
    "guidance_interval",
    "negative_prompt",
    "clip_skip",
    "max_chunks",
    "strength",
    "noise_level",
    "hires_scale",
    "hires_strength",
    "tile",
)


def recreate(args: Arguments) -> None:
    """Draw a picture again by its own recipe, and say how the two differ.

    Raises:
      UserError: it carries no recipe, or what it was drawn from is not given again.
    """
    other = others_given(args, _ALLOWED)
    if other:
        raise UserError(
            f"--recreate takes all from the picture; leave out {', '.join(other)} (only --model, "
            "--out and the files that it was drawn from go with it)"
        )
    pixels, recipe = read_png(args.recreate)
    if recipe.steps_shown:
        raise UserError(
            f"{args.recreate} is a strip of steps; give the picture beside it, or draw the strip "
            "again with the same prompt, seed and settings and --show-steps"
        )
    files = _require_files(args, recipe)
    changes = _changes(recipe)
    if recipe.prediction:
        args = dataclasses.replace(args, prediction=recipe.prediction)
    pipe = open_pipeline(args, files, recipe.dtype, changes)
    _require_models(args, pipe, recipe)
    again = pipe.recipe(recipe.prompt, recipe.seed, files.pictures, **changes)
    job = ([recipe.prompt], [recipe.seed], files.pictures)
    pipe.job(*job, **changes)
    folder = writable_directory(args.out)
    [drawn] = pipe.draw(*job, **changes).pixels
    path = folder / f"{args.recreate.stem}-recreated.png"
    write_png(path, drawn, again)
    print(path, flush=True)
    say(_comparison(pixels, drawn, args.recreate))


def _changes(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe."""
    changes = {name: getattr(recipe, name) for name in _PLAIN}
    if recipe.outpaint:
        changes["outpaint"] = recipe.outpaint
    elif recipe.hires_from:
        changes |= dict(zip(("width", "height"), recipe.hires_from, strict=True))
    elif recipe.noise_level is None:
        changes |= {"width": recipe.width, "height": recipe.height}
    if recipe.controlnets:
        changes["control_weights"] = tuple(net["weight"] for net in recipe.controlnets)
        changes["control_ranges"] = tuple((n["start"], n["end"]) for n in recipe.controlnets)
    return changes


def _require_files(args: Arguments, recipe: Recipe) -> Files:
    """The files that are given, once they are those of the recipe; weights come from there."""
    files = read_files(args)
    source = str(args.recreate)
    for what, flag, pictures, used in (
        ("init image", "--init-image", files.pictures.init, [recipe.init_image]),
        ("mask", "--mask", files.pictures.mask, [recipe.mask]),
        (
            "control image",
            "--controlnet",
            tuple(each[0] for each in files.pictures.control),
            [{"name": n["image"], "sha256": n["image_sha256"]} for n in recipe.controlnets],
        ),
    ):
        _require_same(source, what, flag, pictures, [file for file in used if file])
    for what, flag, given, used in (
        ("LoRA", "--lora", [lora.where for lora in files.loras], recipe.loras),
        ("embedding", "--embedding", files.embeddings, recipe.embeddings),
    ):
        records = tuple(_Named(**file_record(path)) for path in given)
        _require_same(source, what, flag, records, used)
    weights = zip(files.loras, recipe.loras, strict=True)
    loras = tuple(_at_weight(source, "LoRA", flag, float(used["weight"])) for flag, used in weights)
    return files._replace(loras=loras, refiner=_refiner(source, files.refiner, recipe))


class _Named(NamedTuple):
    """A file that is given."""

    name: str
    sha256: str


def _require_same(
    source: str, what: str, flag: str, given: Sequence[_Named | Picture], used: Sequence[File | Use]
) -> None:
    """Refuse files that are not those of the recipe, in its order."""
    for i, file in enumerate(used):
        known = f"{file['name']} (SHA-256 {str(file['sha256'])[:10]}...)"
        if i >= len(given):
            raise UserError(f"{source} was drawn with {what} {known}; give it with {flag}")
        if given[i].sha256 != file["sha256"]:
            raise UserError(
                f"{source} was drawn with {what} {known}, but {given[i].name} is another file "
                f"({given[i].sha256[:10]}...)"
            )
    if len(given) > len(used):
        extra = given[len(used)].name
        raise UserError(f"{source} was drawn without {what} {extra}; leave out that {flag}")


def _at_weight(source: str, what: str, flag: WeightFlag, used: float) -> WeightFlag:
    """The flag with the number of the recipe, which it may repeat but not change."""
    if flag.number not in (None, used):
        raise UserError(
            f"{source} was drawn with {what} {flag.where} at {used:g}, not {flag.number:g}; leave "
            "out the number"
        )
    return flag._replace(number=used)


def _refiner(source: str, flag: WeightFlag | None, recipe: Recipe) -> WeightFlag | None:
    if bool(recipe.refiner) != (flag is not None):
        verb = "with" if recipe.refiner else "without a"
        named = f" {recipe.refiner['name']}" if recipe.refiner else ""
        raise UserError(f"{source} was drawn {verb} refiner{named}; see --refiner")
    return flag and _at_weight(source, "refiner", flag, float(recipe.refiner["start"]))


def _require_models(args: Arguments, pipe: "TextToImage", recipe: Recipe) -> None:
    """Refuse models other than those that drew the picture."""
    extras = pipe.extras
    models = [("model", "--model", pipe.name, pipe.digest, recipe.model, recipe.model_hash)]
    models += [
        ("ControlNet", "--controlnet", net.name, net.digest, used["name"], used["hash"])
        for net, used in zip(extras.controlnets, recipe.controlnets, strict=True)
    ]
    if recipe.refiner:
        refiner, used = extras.refiner, recipe.refiner
        models.append(
            ("refiner", "--refiner", refiner.name, refiner.digest, used["name"], used["hash"])
        )
    for what, flag, name, digest, used_name, used_digest in models:
        if digest != used_digest:
            raise UserError(
                f"{args.recreate} was drawn by {what} {used_name} ({used_digest}), but {name} "
                f"here is {digest}; give that {what} with {flag}"
            )


def _comparison(before: Any, after: Any, path: Path) -> str:
    """How two pictures differ."""
    if before.shape != after.shape:
        return f"{path} has another size"
    levels = int(abs(before.astype(int) - after.astype(int)).max())
    return f"equal to {path}" if levels == 0 else f"differs from {path} by up to {levels} of 255"
