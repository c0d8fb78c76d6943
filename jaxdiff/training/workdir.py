"""The work directory of a run: its `config.json`, and the check that it belongs to this run.

Checkpoints carry the same, as `about_run` gives it, since they may outlive the directory.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from jaxdiff.convert.replacing import require_writable
from jaxdiff.errors import UserError
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.config_json import config_differences, to_json

INPUTS = "inputs.json"


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
    started = _started(config)
    try:
        require_writable(config.workdir, _may_write, "folder to write to")
        theirs = json.loads(path.read_text()) if started and path.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use --workdir {config.workdir}: {error}") from error
    if theirs is None:
        return config.workdir
    if not isinstance(theirs, dict):
        raise UserError(f"cannot use --workdir {config.workdir}: config.json is no config")
    _check_config(config, theirs, config.workdir)
    return config.workdir


def _started(config: TrainConfig) -> bool:
    """Whether the run has checkpoints.

    Raises:
      UserError: what reads object stores is not installed.
    """
    try:
        return any(checkpoint_dir(config).glob("[0-9]*"))
    except ImportError as error:
        raise UserError(
            f"--checkpoints {config.checkpoints} cannot be used: {error}. For gs:// run "
            "`pip install gcsfs`, for s3:// `pip install s3fs`"
        ) from error


def _check_config(config: TrainConfig, theirs: dict, where: os.PathLike) -> None:
    """Refuse to go on with another config than `theirs`, which was found at `where`."""
    different = config_differences(theirs, config)
    if different:
        raise UserError(
            f"{where} belongs to another config ({'; '.join(different[:4])}); "
            "give the same options, or another --workdir"
        )


def about_run(config: TrainConfig, inputs: dict[str, str]) -> dict[str, Any]:
    """What a run is, as JSON values: its config, and hashes of what it reads."""
    return {"config": to_json(config), "inputs": inputs}


def check_about(config: TrainConfig, inputs: dict[str, str], theirs: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run.

    Args:
      config: the run.
      inputs: what it reads.
      theirs: what the checkpoint carries, as `about_run` made it.

    Raises:
      UserError: names what is different.
    """
    where = checkpoint_dir(config)
    _check_config(config, theirs["config"], where)
    _compare_inputs(inputs, theirs["inputs"], where)


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
    started = _started(config)
    try:
        theirs = json.loads(path.read_text()) if started and path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use --workdir {config.workdir}: {error}") from error
    _compare_inputs(inputs, theirs, config.workdir)


def _compare_inputs(ours: dict[str, str], theirs: dict[str, str], where: os.PathLike) -> None:
    changed = [name for name in ours if theirs.get(name, ours[name]) != ours[name]]
    if changed:
        raise UserError(
            f"{where} was trained with another {' and '.join(changed)}: weights, pictures, "
            "captions or their cache have changed since; put them back, or give another --workdir"
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is written within goes to `path`; say so where it cannot be.

    Raises:
      UserError: the disk is full, or something is in the way.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; training stopped. Make room, "
            "and run the command again"
        ) from error


def write_config(config: TrainConfig, inputs: dict[str, str]) -> None:
    """Write `config.json` and `inputs.json` into the work directory, each whole or not at all."""
    for name, content in (("config.json", to_json(config)), (INPUTS, inputs)):
        path = config.workdir / name
        temporary = path.with_suffix(".tmp")
        with writing(path):
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            temporary.replace(path)
