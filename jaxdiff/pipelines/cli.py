"""The command line of `sample.py`: checks what it can before jax starts, then draws.

Paths of pictures go to standard output, one a line; all else goes to standard error.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from jaxdiff.cli import exit_code, parse_or_explain
from jaxdiff.errors import UserError
from jaxdiff.pipelines.arguments import Arguments, settings_of
from jaxdiff.pipelines.jobs import (
    count_up,
    parse_seeds,
    picture_path,
    read_prompts,
    strip_path,
    writable_directory,
)
from jaxdiff.pipelines.opening import SHIPPED, open_pipeline, read_files
from jaxdiff.pipelines.pictures import Pictures
from jaxdiff.provenance import Recipe, write_png

if TYPE_CHECKING:
    from jaxdiff.pipelines.text_to_image import TextToImage

__all__ = ["SHIPPED", "Arguments", "main"]


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = parse_or_explain(
            lambda: tyro.cli(Arguments, prog="sample.py", args=arguments, use_underscores=False)
        )
        if args.recreate is not None:
            from jaxdiff.pipelines.recreate import recreate

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
    changes, files = settings_of(args), read_files(args)
    pipe = open_pipeline(args, files, args.dtype, changes)
    notes = _notes(pipe, prompts, changes)
    jobs = [(prompt, seed) for prompt in prompts for seed in seeds]
    summary = _summary(pipe.recipe(*jobs[0], files.pictures, **changes), len(jobs))
    prompt, seed = jobs[0]
    pipe.job([prompt], [seed], files.pictures, show=args.show_steps, **changes)
    folder = writable_directory(args.out)
    for line in (*(f"note: {note}" for note in notes), summary):
        say(line)
    begin, flagged = time.perf_counter(), 0
    for start in range(0, len(jobs), pipe.batch_size):
        part = jobs[start : start + pipe.batch_size]
        flagged += _draw_part(pipe, part, files.pictures, changes, folder, args.show_steps)
    if flagged:
        say(f"note: the safety checker flagged {flagged} of {len(jobs)} pictures")
    say(f"drew {len(jobs)} in {time.perf_counter() - begin:.1f} s")


def _notes(pipe: "TextToImage", prompts: list[str], changes: dict[str, Any]) -> list[str]:
    """What to tell of the model and the prompts: what was assumed, cut, or taken literally."""
    from jaxdiff.pipelines.rows import read_prompt
    from jaxdiff.pipelines.settings import with_changes

    settings = with_changes(pipe.defaults, changes)
    words = (
        read_prompt(pipe.model, prompt, settings.negative_prompt, settings.max_chunks)
        for prompt in prompts
    )
    said = dict.fromkeys(note for each in words for note in each.notes)
    return [*pipe.model.notes, *said]


def _draw_part(
    pipe: "TextToImage",
    jobs: list[tuple[str, int]],
    pictures: Pictures,
    changes: dict[str, Any],
    folder: Path,
    show: bool,
) -> int:
    """Draw and write some (prompt, seed); how many of them were flagged."""
    import numpy as np

    prompts, seeds = zip(*jobs, strict=True)
    recipes = [pipe.recipe(*job, pictures, **changes) for job in jobs]
    drawn = pipe.draw(prompts, seeds, pictures, show=show, **changes)
    for i, (recipe, pixels) in enumerate(zip(recipes, drawn.pixels, strict=True)):
        path = picture_path(folder, recipe)
        write_png(path, pixels, recipe)
        print(path, flush=True)
        if show:
            shown = dataclasses.replace(recipe, steps_shown=True)
            path = strip_path(path, shown)
            write_png(path, np.concatenate(list(drawn.steps[i]), axis=1), shown)
            print(path, flush=True)
    return sum(drawn.flags)


def _summary(recipe: Recipe, count: int) -> str:
    strength = "" if recipe.strength is None else f" at strength {recipe.strength:g}"
    source = f", from {recipe.init_image['name']}{strength}" if recipe.init_image else ""
    return (
        f"{_counted(count, 'picture')} of {recipe.width}x{recipe.height} by {recipe.model} "
        f"({recipe.model_hash}): {recipe.sampler}, {recipe.schedule}, "
        f"{_counted(recipe.num_steps, 'step')}, guidance {recipe.guidance_scale:g}{source}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def say(line: str) -> None:
    """A line for the user, on standard error."""
    print(line, file=sys.stderr, flush=True)
