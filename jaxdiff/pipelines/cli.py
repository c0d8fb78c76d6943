"""The command line of `sample.py`: checks what it can before jax starts, then draws.

Paths of pictures go to standard output, one a line; all else goes to standard error.
"""

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

import jaxdiff
from jaxdiff.cli import exit_code, parse_or_explain
from jaxdiff.errors import UserError
from jaxdiff.pipelines.jobs import (
    count_up,
    parse_seeds,
    picture_path,
    read_prompts,
    strip_path,
    writable_directory,
)
from jaxdiff.provenance import Recipe, read_png, write_png

if TYPE_CHECKING:
    from jaxdiff.pipelines.text_to_image import TextToImage

SHIPPED = Path(jaxdiff.__file__).parents[1] / "models" / "emoji64"
"""The model that comes with a clone."""

_CUT_SHOWN = 60  # characters of a cut prompt that a note quotes


@dataclass(frozen=True)
class Arguments:
    """Draw pictures of what you type, with the model that ships or one of your own."""

    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to draw; several in quotes."""
    prompts_file: Path | None = None
    """A text file with one prompt a line; # begins a comment."""
    model: Path | None = None
    """Model directory; the shipped one by default."""
    num_images: int = 1
    """Pictures of each prompt, with seeds counted up from --seed."""
    seed: int = 0
    """Seed of the first picture; equal prompt, seed and settings give the equal picture."""
    seeds: str | None = None
    """Seeds instead of --seed and --num-images: 7, or 0-63, or 1,5,8-11."""
    steps: int | None = None
    """Sampling steps; by default what the model recommends, as in the next four."""
    sampler: str | None = None
    """ddim, ddpm, euler, euler_a, heun, dpm_2, dpmpp_2m, dpmpp_2m_sde, dpmpp_sde, lms, unipc or
    lcm."""
    schedule: str | None = None
    """Noise levels: karras, exponential, log_snr, leading, trailing or linspace."""
    guidance_scale: float | None = None
    """How strongly the prompt is followed; 1 turns guidance off but takes as long, since the
    scale is not compiled in: the network sees every picture with and without its prompt."""
    guidance_rescale: float | None = None
    """0 to 1: tame the contrast of strong guidance."""
    negative_prompt: str | None = None
    """What to draw away from."""
    dtype: str = "float32"
    """What the networks compute in: float32 or bfloat16."""
    out: Path = Path("out")
    """Directory for the pictures."""
    show_steps: bool = False
    """Beside each picture, a strip of what the model saw coming along the way."""
    recreate: Path | None = None
    """A PNG that jaxdiff drew: draw it again, by the recipe that it carries."""


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = parse_or_explain(
            lambda: tyro.cli(Arguments, prog="sample.py", args=arguments, use_underscores=False)
        )
        if args.recreate is not None:
            recreate(args)
        else:
            draw(args)

    return exit_code(run)


def draw(args: Arguments) -> None:
    """Draw every prompt with every seed."""
    prompts = list(args.prompts) + (read_prompts(args.prompts_file) if args.prompts_file else [])
    if not prompts:
        raise UserError("nothing to draw; give a prompt in quotes, --prompts-file or --recreate")
    if args.seeds is not None and (args.seed, args.num_images) != (0, 1):
        raise UserError("--seeds replaces --seed and --num-images; give either")
    given = args.seeds
    seeds = count_up(args.seed, args.num_images) if given is None else parse_seeds(given)
    folder = writable_directory(args.out)
    changes = {
        "num_steps": args.steps,
        "sampler": args.sampler,
        "schedule": args.schedule,
        "guidance_scale": args.guidance_scale,
        "guidance_rescale": args.guidance_rescale,
        "negative_prompt": args.negative_prompt,
    }
    pipe = _load(args.model, args.dtype, changes)
    for prompt in [*prompts, args.negative_prompt or ""]:
        _note_cut(pipe, prompt)
    jobs = [(prompt, seed) for prompt in prompts for seed in seeds]
    _say(_summary(pipe.recipe(*jobs[0], **changes), len(jobs)))
    begin = time.perf_counter()
    for start in range(0, len(jobs), pipe.batch_size):
        for recipe, pixels, strip in _batch(
            pipe, jobs[start : start + pipe.batch_size], changes, args.show_steps
        ):
            path = picture_path(folder, recipe)
            write_png(path, pixels, recipe)
            print(path, flush=True)
            if strip is not None:
                shown = dataclasses.replace(recipe, steps_shown=True)
                path = strip_path(path, shown)
                write_png(path, strip, shown)
                print(path, flush=True)
    _say(f"drew {len(jobs)} in {time.perf_counter() - begin:.1f} s")


def recreate(args: Arguments) -> None:
    """Draw a picture again by its own recipe, and say how the two differ."""
    if args != Arguments(model=args.model, out=args.out, recreate=args.recreate):
        raise UserError("--recreate takes all from the picture; add only --model or --out")
    pixels, recipe = read_png(args.recreate)
    if recipe.steps_shown:
        raise UserError(
            f"{args.recreate} is a strip of steps; give the picture beside it, or draw the strip "
            "again with the same prompt, seed and settings and --show-steps"
        )
    folder = writable_directory(args.out)
    changes = {
        name: getattr(recipe, name)
        for name in (
            "num_steps",
            "sampler",
            "schedule",
            "guidance_scale",
            "guidance_rescale",
            "negative_prompt",
        )
    }
    pipe = _load(args.model, recipe.dtype, changes)
    if pipe.digest != recipe.model_hash:
        raise UserError(
            f"{args.recreate} was drawn by model {recipe.model} ({recipe.model_hash}), but "
            f"{pipe.name} here is {pipe.digest}; give that model with --model"
        )
    jobs = [(recipe.prompt, recipe.seed)]
    [(again, drawn, _)] = _batch(pipe, jobs, changes, show=False)
    path = folder / f"{args.recreate.stem}-recreated.png"
    write_png(path, drawn, again)
    print(path, flush=True)
    _say(_comparison(pixels, drawn, args.recreate))


def _load(directory: Path | None, dtype: str, changes: dict[str, Any]) -> "TextToImage":
    """The pipeline, once all names of the command line are known to be right."""
    if directory is None and not SHIPPED.is_dir():
        raise UserError(f"the shipped model {SHIPPED} is not there; give one with --model DIR")
    directory = directory or SHIPPED
    if not directory.is_dir():
        raise UserError(f"model directory {directory} does not exist; give one with --model DIR")
    from jaxdiff.pipelines.settings import Settings, with_changes
    from jaxdiff.pipelines.text_to_image import TextToImage

    with_changes(Settings(), changes)
    return TextToImage.load(directory, dtype)


def _batch(
    pipe: "TextToImage", jobs: list[tuple[str, int]], changes: dict[str, Any], show: bool
) -> list[tuple[Recipe, Any, Any]]:
    """Draw some (prompt, seed): (recipe, pixels, strip of steps or None) of each."""
    import numpy as np

    prompts, seeds = zip(*jobs, strict=True)
    recipes = [pipe.recipe(prompt, seed, **changes) for prompt, seed in jobs]
    if not show:
        pixels = pipe(prompts, seeds, **changes)
        return list(zip(recipes, pixels, [None] * len(jobs), strict=True))
    pixels, steps = pipe.with_steps(prompts, seeds, **changes)
    strips = [np.concatenate(list(row), axis=1) for row in steps]
    return list(zip(recipes, pixels, strips, strict=True))


def _note_cut(pipe: "TextToImage", prompt: str) -> None:
    """Say which end of a prompt the model does not see."""
    tokenizer = pipe.model.text[0].tokenizer
    cut = tokenizer.truncated(prompt)
    if cut:
        length = tokenizer.max_length
        end = "..." if len(cut) > _CUT_SHOWN else ""
        _say(
            f"note: the model reads {length} tokens; of a prompt of {len(prompt)} characters the "
            f"last {len(cut)} were cut: {cut[:_CUT_SHOWN]!r}{end}"
        )


def _summary(recipe: Recipe, count: int) -> str:
    plural = "picture" if count == 1 else "pictures"
    return (
        f"{count} {plural} of {recipe.width}x{recipe.height} by {recipe.model} "
        f"({recipe.model_hash}): {recipe.sampler}, {recipe.schedule}, {recipe.num_steps} steps, "
        f"guidance {recipe.guidance_scale:g}"
    )


def _comparison(before: Any, after: Any, path: Path) -> str:
    """How two pictures differ."""
    if before.shape != after.shape:
        return f"{path} has another size"
    levels = int(abs(before.astype(int) - after.astype(int)).max())
    return f"equal to {path}" if levels == 0 else f"differs from {path} by up to {levels} of 255"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
