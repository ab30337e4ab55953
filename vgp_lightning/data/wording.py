"""Wording: how the numbers of a dataset are printed."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def say_spread(values: NDArray[Any]) -> str:
    """Return smallest, middle and largest value as text."""
    return f"{values.min():.6g} minimum, {np.median(values):.6g} median, {values.max():.6g} maximum"


def say_first(words: Iterable[str], most: int = 8) -> str:
    """Return the first words of a list, and how many others there are."""
    found = list(words)
    return ", ".join(found[:most]) + (f" and {len(found) - most} others" if len(found) > most else "")
