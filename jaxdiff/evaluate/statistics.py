"""Reference statistics in `.npz`: what a set of pictures is once an extractor has seen it.

    mu [D]   sigma [D D]   as other FID tools write and read them
    count, extractor       which pictures cannot be compared, and how biased a distance is
    features [N D]         if kept: kernel distances, precision and recall want them all
    size                   height and width of the pictures, which those of the other side share

Axis legend: N pictures, D numbers in a feature.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiff.errors import UserError
from jaxdiff.evaluate.files import staged
from jaxdiff.evaluate.frechet import Moments, moments

_ARRAYS = ("mu", "sigma", "count", "extractor", "features", "size")


class Statistics(NamedTuple):
    """A set of pictures as an extractor sees it."""

    moments: Moments
    """Mean, covariance, count."""
    extractor: str
    """The extractor's name."""
    features: Float[np.ndarray, "N D"] | None
    """All features; None where they were not kept."""
    size: tuple[int, int] | None = None
    """Height and width of the pictures; None where nobody knows."""


def statistics_of(
    features: Float[np.ndarray, "N D"], extractor: str, size: tuple[int, int] | None = None
) -> Statistics:
    """The statistics of features of pictures of a size.

    Raises:
      UserError: there are fewer than two.
    """
    return Statistics(moments(features), extractor, features, size)


def write_statistics(path: Path, statistics: Statistics, keep_features: bool = False) -> None:
    """Write statistics, with the features as float32 if they are to be kept.

    Raises:
      UserError: the file cannot be written.
    """
    mean, covariance, count = statistics.moments
    arrays = {"mu": mean, "sigma": covariance, "count": count, "extractor": statistics.extractor}
    if keep_features and statistics.features is not None:
        arrays["features"] = statistics.features.astype(np.float32)
    if statistics.size is not None:
        arrays["size"] = np.array(statistics.size)
    with staged(path) as temporary, temporary.open("wb") as stream:  # a name would get a suffix
        np.savez(stream, **arrays)


class Contents(NamedTuple):
    """What an `.npz` holds."""

    pictures: bool
    """`arr_0`."""
    statistics: bool
    """`mu` and `sigma`."""


def contents(path: Path) -> Contents:
    """What lies in a file; nothing if it is no `.npz`, or a damaged one."""
    try:
        if path.suffix != ".npz" or not path.is_file():
            return Contents(False, False)
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return Contents(False, False)
    return Contents("arr_0.npy" in names, {"mu.npy", "sigma.npy"} <= names)


def read_statistics(path: Path, extractor: str, trusted: bool = False) -> Statistics:
    """Read statistics that features of an extractor shall be compared with.

    Args:
      path: the file.
      extractor: the name of the extractor of the other side.
      trusted: take a file that names no extractor, such as other tools write, for this one's; its
        count is then unknown too where neither it nor features are there.

    Raises:
      UserError: the file is damaged, lacks an array or holds a bad one, is of another extractor, or
        names none.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _ARRAYS if name in archive.files}
        mean, covariance = arrays["mu"], arrays["sigma"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as statistics ({error}); make it anew") from error
    except KeyError as error:
        raise UserError(f"{path} holds no statistics: {error.args[0]} is missing") from error
    for name in arrays.keys() - {"extractor"}:
        if arrays[name].dtype.kind not in "fiu" or not np.isfinite(arrays[name]).all():
            raise UserError(f"{path}: {name} holds what is no finite number; make it anew")
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise UserError(f"{path}: mu {mean.shape} and sigma {covariance.shape} do not fit")
    name = str(arrays.get("extractor", ""))
    if not name and not trusted:
        raise UserError(
            f"{path} does not say which extractor it is of; if it is of {extractor}, give "
            "--trust-reference"
        )
    require_same_extractor(str(path), name or extractor, "the samples", extractor)
    features = arrays.get("features")
    count = _whole(path, "count", arrays, [0 if features is None else len(np.atleast_1d(features))])
    size = _whole(path, "size", arrays, [0, 0])
    if features is not None and features.shape != (*count, len(mean)):
        raise UserError(f"{path}: {count[0]} pictures have no features {list(features.shape)}")
    kept = Moments(mean.astype(np.float64), covariance.astype(np.float64), *count)
    return Statistics(kept, extractor, features, tuple(size) if min(size) > 0 else None)


def _whole(path: Path, name: str, arrays: Mapping[str, np.ndarray], other: list[int]) -> list[int]:
    """As many whole numbers as `other` has, from 0 up; `other` where a file does not give them.

    Raises:
      UserError: it gives something else; other tools may mean another thing by the name.
    """
    given = np.atleast_1d(arrays.get(name, other))
    if given.shape != (len(other),) or (given < 0).any() or (given % 1 != 0).any():
        one = f"{len(other)} whole numbers" if len(other) > 1 else "a whole number"
        raise UserError(f"{path}: {name} should be {one}, not {arrays[name].tolist()}")
    return [int(each) for each in given]


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


def require_same_size(
    known: tuple[int, int] | None, where: str, size: tuple[int, int], name: str
) -> None:
    """Refuse to compare pictures of different sizes: blur would be all that an extractor sees.

    Args:
      known: height and width of the reference's; nothing is refused where nobody knows.
      where: what the user calls it.
      size: height and width of the samples.
      name: what the user calls them.

    Raises:
      UserError: the sizes differ; the message says both.
    """
    if known is not None and known != size:
        shown = [f"{width} x {height}" for height, width in (known, size)]
        raise UserError(
            f"the pictures of {where} are {shown[0]} and those of {name} {shown[1]}: bring both to "
            "one size with --resolution (of statistics: when they are made)"
        )


def require_same_width(reference: Statistics, where: str, width: int, extractor: str) -> None:
    """Refuse statistics of features of another length.

    Raises:
      UserError: the lengths differ.
    """
    known = len(reference.moments.mean)
    if known != width:
        raise UserError(
            f"{where} is of {known} numbers for each picture and the extractor {extractor} gives "
            f"{width}: they are not of one extractor; name the other with --extractor"
        )
