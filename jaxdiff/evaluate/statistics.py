"""Reference statistics in `.npz`: what a set of pictures is once an extractor has seen it.

    mu [D]   sigma [D D]   as other FID tools write and read them
    count, extractor       which pictures cannot be compared, and how biased a distance is
    features [N D]         if kept: kernel distances, precision and recall want them all

Axis legend: N pictures, D numbers in a feature.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiff.errors import UserError
from jaxdiff.evaluate.frechet import Moments, moments


class Statistics(NamedTuple):
    """A set of pictures as an extractor sees it."""

    moments: Moments
    """Mean, covariance, count."""
    extractor: str
    """The extractor's name."""
    features: Float[np.ndarray, "N D"] | None
    """All features; None where they were not kept."""


def statistics_of(features: Float[np.ndarray, "N D"], extractor: str) -> Statistics:
    """The statistics of features.

    Raises:
      UserError: there are fewer than two.
    """
    return Statistics(moments(features), extractor, features)


def write_statistics(path: Path, statistics: Statistics, keep_features: bool = False) -> None:
    """Write statistics, with the features as float32 if they are to be kept.

    Raises:
      UserError: the file cannot be written.
    """
    mean, covariance, count = statistics.moments
    arrays = {"mu": mean, "sigma": covariance, "count": count, "extractor": statistics.extractor}
    if keep_features and statistics.features is not None:
        arrays["features"] = statistics.features.astype(np.float32)
    try:
        with path.open("wb") as stream:  # np.savez would add a suffix to another name
            np.savez(stream, **arrays)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def holds_statistics(path: Path) -> bool:
    """Whether a file is an `.npz` with statistics and no pictures."""
    if path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    return "mu.npy" in names and "arr_0.npy" not in names


def read_statistics(path: Path, extractor: str, trusted: bool = False) -> Statistics:
    """Read statistics that features of an extractor shall be compared with.

    Args:
      path: the file.
      extractor: the name of the extractor of the other side.
      trusted: take a file that names no extractor, such as other tools write, for this one's; its
        count is then unknown too where it is not there.

    Raises:
      UserError: the file is damaged, lacks an array, is of another extractor, or names none.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        mean, covariance = arrays["mu"], arrays["sigma"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as statistics ({error}); make it anew") from error
    except KeyError as error:
        raise UserError(f"{path} holds no statistics: {error.args[0]} is missing") from error
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise UserError(f"{path}: mu {mean.shape} and sigma {covariance.shape} do not fit")
    name = str(arrays.get("extractor", ""))
    if not name and not trusted:
        raise UserError(
            f"{path} does not say which extractor it is of; if it is of {extractor}, give "
            "--trust-reference"
        )
    require_same_extractor(str(path), name or extractor, "the samples", extractor)
    count = int(arrays.get("count", 0))
    kept = Moments(mean.astype(np.float64), covariance.astype(np.float64), count)
    return Statistics(kept, extractor, arrays.get("features"))


def require_same_extractor(first: str, of_first: str, second: str, of_second: str) -> None:
    """Refuse to compare features of different extractors.

    Raises:
      UserError: they differ; the message names both.
    """
    if of_first != of_second:
        raise UserError(
            f"{first} is of the extractor {of_first} and {second} of {of_second}: a distance "
            "between their features means nothing; extract both with the same one"
        )
