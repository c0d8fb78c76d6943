"""The flags of `sample.py`, and the small languages that some of them have. Imports no jax."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from jaxdiff.errors import UserError

Several = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class Arguments:
    """Draw pictures of what you type, with the model that ships or one of your own."""

    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to draw; several in quotes. (word:1.3) weighs more, [word] less."""
    prompts_file: Path | None = None
    """A text file with one prompt a line; # begins a comment."""
    model: str | None = None
    """Model directory, single .safetensors file, or OWNER/NAME on the hub; the shipped one by
    default."""
    prediction: str | None = None
    """What the network predicts, where its files do not say: eps, v, x0, flow or edm."""
    variant: str | None = None
    """Of weight files in directories, such as fp16; by default those of no variant, or of the only
    one."""
    tokenizer_dir: Path | None = None
    """A folder of tokenizer files, for a single file that has none."""
    num_images: int = 1
    """Pictures of each prompt, with seeds counted up from --seed."""
    seed: int = 0
    """Seed of the first picture; equal prompt, seed and settings give the equal picture."""
    seeds: str | None = None
    """Seeds instead of --seed and --num-images: 7, or 0-63, or 1,5,8-11."""
    steps: int | None = None
    """Sampling steps; by default what the model recommends, as in the next five."""
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
    guidance_interval: str | None = None
    """LOW,HIGH: guide only at times LOW to HIGH, 0 clean to 1 noise, such as 0.2,0.8."""
    negative_prompt: str | None = None
    """What to draw away from."""
    clip_skip: int | None = None
    """Leave out so many of the text encoder's last layers. Web UIs count from 1: their 2 is 1."""
    max_chunks: int | None = None
    """How often a prompt may fill the text encoder's length; what is beyond is cut."""
    width: int | None = None
    """In pixels; by default that of the picture given, else what the model was trained on."""
    height: int | None = None
    """In pixels; likewise."""
    init_image: Path | None = None
    """A picture to start from."""
    strength: float | None = None
    """0 to 1: how much of the picture is redrawn; 0.8 by default, or 1 with a mask."""
    mask: Path | None = None
    """A picture of the same size, white where to draw; what is black stays as it is."""
    outpaint: str | None = None
    """Draw around the picture: LEFT,TOP,RIGHT,BOTTOM in pixels, such as 64,0,64,0."""
    noise_level: int | None = None
    """For upscalers: how much of the picture's own detail new detail may replace; 20 by default."""
    controlnet: Several = ()
    """DIR:IMAGE[:WEIGHT[:START-END]]: steer by a picture, from START to END of the steps (shares
    of 1). May be given several times, as the next three may."""
    lora: Several = ()
    """FILE[:WEIGHT]: change the model by a LoRA."""
    embedding: Several = ()
    """FILE: a textual inversion, whose word prompts may then use."""
    refiner: str | None = None
    """DIR[:START]: a second model, which goes on from START of the way (0.8 by default)."""
    hires_scale: float | None = None
    """Enlarge the result by this factor and draw it again."""
    hires_strength: float | None = None
    """0 to 1: how much of the enlarged picture is redrawn; 0.7 by default."""
    tile: int | None = None
    """Side in pixels of tiles by which the autoencoder works, for pictures that do not fit."""
    safety_checker: str | None = None
    """MODULE:FUNCTION of (pictures, prompts) that returns pictures to write and their flags."""
    watermark: str | None = None
    """MODULE:FUNCTION of a picture that returns it marked."""
    dtype: str = "float32"
    """What the networks compute in: float32 or bfloat16."""
    out: Path = Path("out")
    """Directory for the pictures."""
    show_steps: bool = False
    """Beside each picture, a strip of what the model saw coming along the way."""
    recreate: Path | None = None
    """A PNG that jaxdiff drew: draw it again, by the recipe that it carries. Give the files that
    it was drawn from again: --init-image, --mask, --controlnet, --lora, --embedding, --refiner."""


SETTINGS = {
    "steps": "num_steps",
    **{
        name: name
        for name in (
            "sampler",
            "schedule",
            "guidance_scale",
            "guidance_rescale",
            "negative_prompt",
            "clip_skip",
            "max_chunks",
            "width",
            "height",
            "strength",
            "noise_level",
            "hires_scale",
            "hires_strength",
            "tile",
        )
    },
}
"""Flags that are fields of `Settings`, and their names there."""

FILES = ("init_image", "mask", "controlnet", "lora", "embedding", "refiner")
"""Flags that name what goes in."""

_NEEDS = {
    "mask": "init_image",
    "strength": "init_image",
    "outpaint": "init_image",
    "hires_strength": "hires_scale",
}


class ControlFlag(NamedTuple):
    """What one --controlnet says; None is not said."""

    where: str
    image: Path
    weight: float | None
    steps: tuple[float, float] | None


class WeightFlag(NamedTuple):
    """What one --lora or --refiner says."""

    where: str
    number: float | None


def settings_of(args: Arguments) -> dict[str, Any]:
    """The changes to a model's settings that the flags ask for.

    Raises:
      UserError: a flag has nothing to do without another, or is ill-formed.
    """
    for flag, needed in _NEEDS.items():
        if getattr(args, flag) is not None and getattr(args, needed) is None:
            raise UserError(f"{_flag(flag)} does nothing without {_flag(needed)}; give both")
    changes = {ours: getattr(args, flag) for flag, ours in SETTINGS.items()}
    nets = [parse_controlnet(text) for text in args.controlnet]
    if any(net.weight is not None for net in nets):
        changes["control_weights"] = tuple(1.0 if n.weight is None else n.weight for n in nets)
    if any(net.steps is not None for net in nets):
        changes["control_ranges"] = tuple(n.steps or (0.0, 1.0) for n in nets)
    if args.guidance_interval is not None:
        changes["guidance_interval"] = parse_interval(args.guidance_interval)
    if args.outpaint is not None:
        changes["outpaint"] = parse_outpaint(args.outpaint)
    return changes


def parse_controlnet(text: str) -> ControlFlag:
    """DIR:IMAGE[:WEIGHT[:START-END]].

    >>> parse_controlnet("canny:edges.png:0.7:0-0.5")[2:]
    (0.7, (0.0, 0.5))

    Raises:
      UserError: it has another form.
    """
    where, *rest = text.split(":")
    steps = None
    if len(rest) == 3:
        match = re.fullmatch(r"([\d.]+)-([\d.]+)", rest.pop())
        numbers = [_number(part) for part in match.groups()] if match else [None]
        steps = None if None in numbers else (numbers[0], numbers[1])
        if steps is None:
            raise UserError(_ill_formed("controlnet", text))
    weight = _number(rest[1]) if len(rest) == 2 else None
    if not where or not rest or not rest[0] or len(rest) > 2 or (len(rest) == 2 and weight is None):
        raise UserError(_ill_formed("controlnet", text))
    return ControlFlag(where, Path(rest[0]), weight, steps)


def parse_weighted(text: str) -> WeightFlag:
    """WHERE[:NUMBER]; a last part that is no number belongs to the path.

    >>> parse_weighted("styles/ink.safetensors:0.7")
    WeightFlag(where='styles/ink.safetensors', number=0.7)
    """
    where, colon, last = text.rpartition(":")
    number = _number(last) if colon and where else None
    return WeightFlag(text, None) if number is None else WeightFlag(where, number)


def parse_interval(text: str) -> tuple[float, float]:
    """LOW,HIGH.

    >>> parse_interval("0.2,0.8")
    (0.2, 0.8)

    Raises:
      UserError: these are not two numbers.
    """
    numbers = tuple(_number(part) for part in text.split(","))
    if len(numbers) != 2 or None in numbers:
        raise UserError(
            f"--guidance-interval {text!r} should be LOW,HIGH, two times of 0 to 1, such as 0.2,0.8"
        )
    return numbers


def parse_outpaint(text: str) -> tuple[int, int, int, int]:
    """LEFT,TOP,RIGHT,BOTTOM.

    Raises:
      UserError: these are not four whole numbers, or all are 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise UserError(
            f"--outpaint {text!r} should be LEFT,TOP,RIGHT,BOTTOM in pixels, such as 64,0,64,0"
        )
    borders = tuple(map(int, parts))
    if not any(borders):
        raise UserError("--outpaint adds nothing; give at least one border above 0")
    return borders


def others_given(args: Arguments, allowed: tuple[str, ...]) -> list[str]:
    """The flags that differ from their defaults, but for those allowed."""
    plain = Arguments()
    return [
        _flag(field.name)
        for field in dataclasses.fields(Arguments)
        if field.name not in allowed and getattr(args, field.name) != getattr(plain, field.name)
    ]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _ill_formed(flag: str, text: str) -> str:
    return (
        f"--{flag} {text!r} should be DIR:IMAGE[:WEIGHT[:START-END]], such as "
        "canny:edges.png:0.7:0-0.5"
    )


def _flag(name: str) -> str:
    if name == "prompts":
        return name
    return "--" + name.replace("_", "-")
