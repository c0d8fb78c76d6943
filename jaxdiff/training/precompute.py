"""Fill a run's caches before it starts: `python train.py PRESET --precompute --data.cache DIR`.

Several processes with one folder share the work, each beginning at a place of its own; what was
interrupted goes on behind the last whole chunk (`training.cache`). No network is trained.
"""

from pathlib import Path

from jaxdiff.data.sources import make_source
from jaxdiff.errors import UserError
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.loop import OBJECTIVES


def precompute(run: TrainConfig) -> dict[str, str]:
    """Compute the latents and, where no text encoder is trained, the text states of a run.

    Returns:
      Name and hash of each cache and of the networks that made it.

    Raises:
      UserError: no cache is named, or something of the run cannot be used.
    """
    if not run.data.cache:
        raise UserError("--precompute needs --data.cache DIR, to say where the results shall go")
    source = make_source(run.data)
    workdir = run.workdir or Path(run.data.cache)  # where a tokenizer of the run may lie
    return OBJECTIVES[type(run.objective)](run, source, workdir).inputs
