"""Where a run's result goes: checked before there is one."""

from pathlib import Path

from jaxdiff.convert import check_writable
from jaxdiff.convert.clip import check_clip_writable
from jaxdiff.convert.controlnet import check_controlnet_writable
from jaxdiff.convert.replacing import require_writable_file
from jaxdiff.convert.text_encoder import check_text_encoder_writable
from jaxdiff.errors import UserError
from jaxdiff.training.config import (
    ContrastiveObjective,
    ControlNetMethod,
    FinetuneObjective,
    LoraMethod,
    SentenceObjective,
    TextualInversionMethod,
    TrainConfig,
)


def check_export(config: TrainConfig) -> None:
    """Raise what writing `config.export` would, as far as can be known; writes nothing.

    Raises:
      UserError: the path is of the wrong kind, holds something else, or cannot be written.
    """
    if config.export is None:
        return
    objective = config.objective
    method = objective.method if isinstance(objective, FinetuneObjective) else None
    if isinstance(method, LoraMethod | TextualInversionMethod):
        _check_file(config.export)
    elif isinstance(method, ControlNetMethod):
        check_controlnet_writable(config.export)
    elif isinstance(objective, ContrastiveObjective):
        check_clip_writable(config.export)
    elif isinstance(objective, SentenceObjective):
        check_text_encoder_writable(config.export)
    else:
        noise = getattr(objective, "noise", getattr(method, "noise", None))
        check_writable(config.export, noise)


def _check_file(path: Path) -> None:
    if path.suffix != ".safetensors" or path.is_dir():
        raise UserError(f"--export {path} must be a file, NAME.safetensors, for this preset")
    require_writable_file(path)
