"""Prior preservation: every second example of a batch shows the subject's class.

    L = mean over the subject's examples + w mean over the class's                               (1)

(Ruiz et al. 2023, DreamBooth, eq. 2.) The loss of a batch is the mean of its rows, half of which
are of either kind, so a row counts 2 or 2 w times.
"""

import dataclasses
import logging
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdiff.convert import Model
from jaxdiff.data.folder import METADATA, SUFFIXES
from jaxdiff.data.images import encode_png
from jaxdiff.data.pipeline import Batch, DataConfig
from jaxdiff.errors import UserError
from jaxdiff.pipelines.text_to_image import TextToImage
from jaxdiff.training.config import PriorConfig, TrainConfig
from jaxdiff.training.objective import Serve, Share

log = logging.getLogger(__name__)


def prior_config(run: TrainConfig) -> DataConfig:
    """How the class's pictures are served: as the subject's, half a batch at a time."""
    folder = run.objective.prior.folder
    half = run.data.batch_size // 2
    return dataclasses.replace(run.data, source=f"folder:{folder}", batch_size=half, caption="")


def paired(subject: Serve, prior: Serve, weight: float) -> Serve:
    """Batches whose even rows are the subject's and whose odd ones are the class's.

    Args:
      subject: batches of half the size.
      prior: likewise.
      weight: w of eq. (1).

    Returns:
      Batches with "weight" [b], the factor on each row's loss; "example" numbers both together.
    """

    def batches(start: int, share: Share) -> Iterator[Batch]:
        streams = subject(start // 2, share), prior(start // 2, share)
        for ours, theirs in zip(*streams, strict=False):
            both = {name: _interleave(ours[name], theirs[name]) for name in ours}
            both["example"] = _interleave(2 * ours["example"], 2 * theirs["example"] + 1)
            count = len(ours["example"])
            both["weight"] = np.tile(np.array([2.0, 2.0 * weight], np.float32), count)
            yield both

    return batches


def _interleave(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def draw_prior(run: TrainConfig, model: Model) -> None:
    """Draw what the prior's folder lacks of its pictures, each with its prompt in a .txt file.

    Picture number n has seed n: a run that was interrupted goes on where it stopped.

    Raises:
      UserError: the folder has a metadata.jsonl, which would hide new pictures, or can not be
        written.
    """
    config: PriorConfig = run.objective.prior
    if config.folder is None or not config.prompt:
        return
    if jax.process_index() == 0:
        try:
            _draw_missing(config, model, run.dtype)
        except OSError as error:
            raise UserError(
                f"objective.prior.folder={config.folder} cannot be written: {error}"
            ) from error
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("prior pictures")


def _draw_missing(config: PriorConfig, model: Model, dtype: str) -> None:
    folder = config.folder
    if (folder / METADATA).exists():
        raise UserError(
            f"objective.prior.folder={folder} has a {METADATA}, which would hide pictures that "
            "are drawn; leave out objective.prior.prompt, or give an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))
    if there >= config.count:
        return
    log.info("drawing %d pictures of %r into %s", config.count - there, config.prompt, folder)
    pipe = TextToImage(model, dtype=dtype)
    for first in range(there, config.count, pipe.batch_size):
        seeds = list(range(first, min(first + pipe.batch_size, config.count)))
        for seed, picture in zip(seeds, pipe(config.prompt, seeds), strict=True):
            path = folder / f"prior-{seed:06d}.png"
            path.with_suffix(".txt").write_text(config.prompt)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(encode_png(picture))
            temporary.replace(path)
