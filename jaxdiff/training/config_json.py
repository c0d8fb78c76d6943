"""A run's config as JSON, and in what two of them may and may not differ."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxdiff.training.config import LossConfig, TrainConfig

# What may differ between a run and its continuation: where it goes, how long, how fast; not what
# it is.
FREE_FIELDS = {
    "workdir",
    "checkpoints",
    "export",
    "name",
    "licence",
    "num_steps",
    "parallel",
    "mesh",
    "steps_per_dispatch",
    "preview",
    "log_every",
    "checkpoint_every",
    "keep",
    "optimizer.learning_rate",
    "optimizer.clip_norm",
    "optimizer.accumulate",
    "data.num_threads",
    "data.workers",
    "data.prefetch",
    "data.memory_mb",
    "data.data_dir",
    "data.strict",
    "data.cache",
    "objective.unet.remat",
    "objective.unet.attention",
    "objective.remat",
    "objective.attention",
    "objective.method.layout",
}

# What processes of one run may have each of its own: where its data lies, and how it reads it.
LOCAL_FIELDS = {"data.data_dir", "data.num_threads", "data.prefetch", "data.memory_mb"}


def to_json(config: Any) -> Any:
    """A dataclass as plain JSON values; paths become strings, tuples lists."""
    if dataclasses.is_dataclass(config):
        values = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **values}
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, list | tuple):
        return [to_json(value) for value in config]
    return config


def shared_facts(config: TrainConfig) -> dict[str, Any]:
    """What all processes of a run must have alike: dotted names of fields, and JSON values."""

    def flatten(values: dict, prefix: str) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in values.items():
            deeper = isinstance(value, dict)
            flat |= flatten(value, f"{prefix}{name}.") if deeper else {prefix + name: value}
        return flat

    flat = flatten(to_json(config), "")
    return {name: value for name, value in flat.items() if name not in LOCAL_FIELDS}


def config_differences(theirs: dict, ours: TrainConfig) -> list[str]:
    """What keeps a run from going on with another config than it began with.

    Args:
      theirs: the config that it began with, as `to_json` wrote it, maybe in an older version.
      ours: the config to go on with.
    """
    return differences(_current(theirs), ours, _fixed_by_schedule(ours))


def _current(theirs: dict) -> dict:
    """A config as an older version wrote it, with the loss's options in their present place."""
    objective = theirs.get("objective")
    if not isinstance(objective, dict) or objective.get("type") != "DiffusionObjective":
        return theirs
    names = [field.name for field in dataclasses.fields(LossConfig) if field.name in objective]
    loss = {"type": "LossConfig", **{name: objective[name] for name in names}}
    return {**theirs, "objective": {"loss": loss, **objective}}


def _fixed_by_schedule(config: TrainConfig) -> set[str]:
    """A decaying learning rate depends on the last step, so that one must stay too."""
    return set() if config.optimizer.schedule == "constant" else {"num_steps"}


def differences(theirs: dict, ours: Any, fixed: set[str], prefix: str = "") -> list[str]:
    """Dotted names of the fields that differ and are not free, with both values.

    A field that `theirs` lacks, since an older version wrote it, counts as its default.
    """
    if theirs.get("type") != type(ours).__name__:
        name = prefix.rstrip(".") or "config"
        return [f"{name}: {theirs.get('type')} there, {type(ours).__name__} here"]
    found = []
    for field in dataclasses.fields(ours):
        name, value = prefix + field.name, getattr(ours, field.name)
        if name in FREE_FIELDS - fixed:
            continue
        if dataclasses.is_dataclass(value) and isinstance(theirs.get(field.name), dict):
            found += differences(theirs[field.name], value, fixed, f"{name}.")
            continue
        their = theirs.get(field.name, to_json(_default(field)))
        if their != to_json(value):
            found.append(f"{name}: {their!r} there, {to_json(value)!r} here")
    return found


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default
