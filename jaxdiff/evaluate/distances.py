"""Distances between sets of features, a block of rows at a time, so that memory stays bounded.

Axis legend: N M features, D numbers in each, K neighbours.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

BLOCK = 1024  # rows at a time


def row_blocks(count: int) -> Iterator[slice]:
    """The rows 0 .. count in blocks."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def square_distances(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]
) -> Float[np.ndarray, "N M"]:
    """|a_i - b_j|^2 = |a_i|^2 + |b_j|^2 - 2 a_i b_j in float64, clipped at 0."""
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    squares = np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("md,md->m", b, b)
    return np.maximum(squares - 2 * (a @ b.T), 0.0)


def nearest(
    queries: Float[np.ndarray, "N D"],
    gallery: Float[np.ndarray, "M D"],
    k: int,
    rounding: Float[np.ndarray, " N"] | float = 0.0,
) -> tuple[Int[np.ndarray, "N K"], Float[np.ndarray, "N K"]]:
    """The k nearest rows of the gallery and how far they are, nearest first.

    They are found by `square_distances`, whose rounding would make equal rows 1e-8 apart, and then
    measured by differences. A distance of at most `rounding` (of each query) is 0.
    """
    rounding = np.broadcast_to(rounding, len(queries))
    gallery = gallery.astype(np.float64)
    places, far = [], []
    for rows in row_blocks(len(queries)):
        squares = square_distances(queries[rows], gallery)
        found = np.sort(np.argpartition(squares, k - 1, axis=1)[:, :k], axis=1)
        apart = np.stack(
            [np.linalg.norm(queries[rows] - gallery[column], axis=1) for column in found.T], axis=1
        )
        apart[apart <= rounding[rows, None]] = 0.0
        order = np.argsort(apart, axis=1, kind="stable")
        places.append(np.take_along_axis(found, order, 1))
        far.append(np.take_along_axis(apart, order, 1))
    return np.concatenate(places), np.concatenate(far)


def unit(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Features over their lengths, in float64; one of length 0 stays 0."""
    features = features.astype(np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)
