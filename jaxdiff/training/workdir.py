"""The work directory of a run: its `config.json`, and the check that it belongs to this run."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from etils import epath

from jaxdiff.convert.replacing import require_writable
from jaxdiff.errors import UserError
from jaxdiff.training.config import LossConfig, TrainConfig

INPUTS = "inputs.json"

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
LOCAL_FIELDS = {
    "data.data_dir",
    "data.num_threads",
    "data.workers",
    "data.prefetch",
    "data.memory_mb",
}


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


def checkpoint_dir(config: TrainConfig) -> epath.Path:
    """Where the checkpoints of a run lie."""
    return epath.Path(config.checkpoints or config.workdir / "checkpoints")


def check_workdir(config: TrainConfig) -> Path:
    """Check that the work directory can be written and its checkpoints are of this run.

    Nothing is written: much can still be found wrong before there is something to keep.

    Raises:
      UserError: no directory was given, it cannot be written, or it holds checkpoints and its
        `config.json` differs from this run's in more than `FREE_FIELDS`; the message lists them.
    """
    if config.workdir is None:
        raise UserError("--workdir is missing; say where checkpoints and metrics shall go")
    path = config.workdir / "config.json"
    try:
        require_writable(config.workdir, _may_write, "folder to write to")
        started = any(checkpoint_dir(config).glob("[0-9]*"))
        theirs = json.loads(path.read_text()) if started and path.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use --workdir {config.workdir}: {error}") from error
    if theirs is None:
        return config.workdir
    if not isinstance(theirs, dict):
        raise UserError(f"cannot use --workdir {config.workdir}: config.json is no config")
    different = differences(_current(theirs), config, _fixed_by_schedule(config))
    if different:
        raise UserError(
            f"{config.workdir} belongs to another config ({'; '.join(different[:4])}); "
            "give the same options, or another --workdir"
        )
    return config.workdir


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def check_inputs(config: TrainConfig, inputs: dict[str, str]) -> None:
    """Refuse to go on with other frozen weights or another cache than a run began with.

    Args:
      config: the run, whose work directory has been checked.
      inputs: name -> hash; a name that was not recorded, such as that of a cache which the run
        did without so far, is not compared.

    Raises:
      UserError: names what has changed.
    """
    path = config.workdir / INPUTS
    started = any(checkpoint_dir(config).glob("[0-9]*"))
    try:
        theirs = json.loads(path.read_text()) if started and path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use --workdir {config.workdir}: {error}") from error
    changed = [name for name in inputs if theirs.get(name, inputs[name]) != inputs[name]]
    if changed:
        raise UserError(
            f"{config.workdir} was trained with another {' and '.join(changed)}: weights, "
            "pictures, captions or their cache have changed since; put them back, or give another "
            "--workdir"
        )


def write_config(config: TrainConfig, inputs: dict[str, str]) -> None:
    """Write `config.json` and `inputs.json` into the work directory, each whole or not at all."""
    for name, content in (("config.json", to_json(config)), (INPUTS, inputs)):
        path = config.workdir / name
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(path)


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
