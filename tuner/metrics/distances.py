"""Squared distances between samples: in float32 with a bound on the error, or in float64.

A matrix of distances in float32 takes half as long. What its error leaves undecided is computed in
float64, so decisions are those of float64. Distances in float64 that are within rounding error of
zero are zero.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.fid import Features, Matrix

ROWS, COLUMNS = 512, 4096  # of a block of distances; columns in float64
PAIRS = 64  # pairs whose distances are computed at a time
FEW = 1 / 64  # of all pairs; if more are undecided, computing all in float64 takes less time
ROUNDING = 1e-13  # smaller squared distances, relative to the squared lengths, count as zero

Indices = NDArray[np.intp]


class Samples(NamedTuple):
    """Features (n, d), and their differences from a centre (d,) in float32 with squared lengths."""

    features: Features
    centre: Matrix
    centred: NDArray[np.float32]
    lengths: Matrix  # (n,)

    def part(self, rows: slice) -> "Samples":
        """Some of the samples."""
        return Samples(self.features[rows], self.centre, self.centred[rows], self.lengths[rows])


def centred(features: Features, centre: Matrix | None = None) -> Samples:
    """Features around a ``centre``, by default their own: it reduces rounding errors."""
    if centre is None:
        centre = features.mean(axis=0, dtype=np.float64)
    differences = np.empty(features.shape, np.float32)
    with np.errstate(over="ignore"):  # see ``error_bound``
        np.subtract(features, centre, out=differences, casting="same_kind")
    lengths = np.einsum("nd,nd->n", differences, differences, dtype=np.float64)
    return Samples(features, centre, differences, lengths)


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most ``ROWS`` rows."""
    for start in range(0, count, ROWS):
        yield slice(start, min(start + ROWS, count))


def approximate(a: Samples, b: Samples) -> NDArray[np.float32]:
    """Squared distances (n, m) between a and b, off by at most ``error_bound``."""
    with np.errstate(over="ignore", invalid="ignore"):
        squared: NDArray[np.float32] = (-2 * a.centred) @ b.centred.T
        squared += b.lengths.astype(np.float32)
        squared += a.lengths.astype(np.float32)[:, None]
    return squared


def error_bound(a: Samples, b: Samples) -> float:
    """The largest error of ``approximate``: infinite if float32 might overflow or underflow.

    For squared lengths x and y of two samples, and u = 2^-24: twice a product of d terms is off by
    d u (x + y), whatever the order of summation (Higham 2002, section 3.1). Rounding the samples,
    the lengths and two sums adds less than 16 u (x + y). A tenth covers higher powers of u.
    """
    longest = float(a.lengths.max() + b.lengths.max())
    if not 1e-25 < longest < 1e35:
        return np.inf
    return 1.1 * 2.0**-24 * (len(a.centre) + 16) * longest


def of_pairs(a: Samples, b: Samples, rows: Indices, columns: Indices) -> Matrix:
    """Squared distances (k,) in float64 between samples ``rows`` of a and ``columns`` of b."""
    squared = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS):
        some = slice(start, start + PAIRS)
        x, y = a.features[rows[some]], b.features[columns[some]]
        difference = np.subtract(x, y, dtype=np.float64)
        squared[some] = np.einsum("nd,nd->n", difference, difference)
    squared[squared <= ROUNDING * (a.lengths[rows] + b.lengths[columns])] = 0
    return squared


def exact(a: Samples, b: Samples) -> Matrix:
    """Squared distances (n, m) in float64 between a and b."""
    found = np.empty((len(a.features), len(b.features)))
    x = a.features - a.centre
    for first in range(0, len(b.features), COLUMNS):
        columns = slice(first, first + COLUMNS)
        y = b.features[columns] - a.centre
        lengths = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
        squared = lengths - 2 * (x @ y.T)
        squared[squared <= ROUNDING * lengths] = 0
        found[:, columns] = squared
    return found


class Comparison:
    """Compares the squared distances between a (n, d) and b (m, d) with limits."""

    def __init__(self, a: Samples, b: Samples) -> None:
        self._a, self._b = a, b
        self._squared, self._error = approximate(a, b), error_bound(a, b)

    def within(self, limits: Matrix) -> NDArray[np.bool]:
        """Whether each squared distance (n, m) is at most its limit, (m,) or (n, 1)."""
        if self._error == np.inf:
            return self._exact <= limits
        margins = self._error + 1e-7 * limits  # which are rounded, too
        inside = self._squared <= (limits - margins).astype(np.float32)
        outside = self._squared > (limits + margins).astype(np.float32)
        undecided = np.flatnonzero(inside == outside)
        if len(undecided) >= FEW * inside.size:
            return self._exact <= limits
        rows, columns = np.divmod(undecided, inside.shape[1])
        known = np.broadcast_to(limits, inside.shape)[rows, columns]
        inside[rows, columns] = of_pairs(self._a, self._b, rows, columns) <= known
        return inside

    @cached_property
    def _exact(self) -> Matrix:
        return exact(self._a, self._b)
