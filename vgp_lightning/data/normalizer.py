"""Statistics of a dataset -> the affine map of the normaliser: ``normalised = (raw - shift) / scale``, per dimension.

Shapes: n rows of a chunk, T dimensions, in physical units.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NormalizerKind = Literal["gaussian", "limits"]

CHUNK = 1 << 18  # numbers that are read at a time for statistics
# A dimension whose range is a smaller share of its largest value is constant up to rounding (float32 has 7 digits).
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Statistics:
    """What the normalisers need to know of a dataset, per dimension (T,)."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]


def measure(chunks: Iterator[NDArray[np.floating]]) -> Statistics:
    """Return the statistics of all rows, in one pass and bounded memory, by the updates of Chan et al. 1983.

    Args:
        chunks: Parts (n, T) of the rows.

    Raises:
        ValueError: If there are no rows.
    """
    count = 0
    mean = squares = minimum = maximum = np.zeros(0)
    for chunk in chunks:
        rows = np.asarray(chunk, dtype=np.float64)
        if len(rows) == 0:
            continue
        chunk_mean = rows.mean(axis=0)
        chunk_squares = ((rows - chunk_mean) ** 2).sum(axis=0)
        if count == 0:
            mean, squares, minimum, maximum = chunk_mean, chunk_squares, rows.min(axis=0), rows.max(axis=0)
        else:
            delta = chunk_mean - mean
            total = count + len(rows)
            mean = mean + delta * len(rows) / total
            squares = squares + chunk_squares + delta**2 * count * len(rows) / total
            minimum = np.minimum(minimum, rows.min(axis=0))
            maximum = np.maximum(maximum, rows.max(axis=0))
        count += len(rows)
    if count == 0:
        raise ValueError("there are no rows to take statistics of")
    return Statistics(mean, np.sqrt(squares / count), minimum, maximum)


def measure_rows(rows: NDArray[np.floating]) -> Statistics:
    """Return the statistics of all rows (n, T) of a cache: those of held-out episodes and final rows too.

    Leaving these out would change little (the actions' standard deviation by 0.7 % in mazes, 0.08 % in Hopper), but
    older checkpoints could not be resumed: their statistics would differ.
    """
    count = max(CHUNK // rows.shape[1], 1)
    return measure(rows[i : i + count] for i in range(0, len(rows), count))


def shift_and_scale(statistics: Statistics, kind: NormalizerKind) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the normaliser's shift and scale, (T,) each.

    A constant dimension is shifted to 0 and keeps its unit (scale 1).

    Args:
        statistics: Of the rows.
        kind: ``gaussian`` maps to mean 0 and standard deviation 1, ``limits`` maps the range to -1..1.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind == "gaussian":
        shift, scale = statistics.mean, statistics.std
    elif kind == "limits":
        shift = (statistics.maximum + statistics.minimum) / 2
        scale = (statistics.maximum - statistics.minimum) / 2
    else:
        raise ValueError(f"normaliser {kind!r} is unknown: choose 'gaussian' or 'limits'")
    return shift.astype(np.float32), np.where(is_constant(statistics), 1.0, scale).astype(np.float32)


def is_constant(statistics: Statistics) -> NDArray[np.bool_]:
    """Return which dimensions are constant up to the rounding of float32, or too small for it to divide by."""
    size = np.maximum(np.abs(statistics.minimum), np.abs(statistics.maximum))
    tiny = np.finfo(np.float32).tiny
    return (statistics.maximum - statistics.minimum <= _CONSTANT * size) | (statistics.std < tiny)
