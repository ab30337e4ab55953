"""What a file or folder of recordings holds before its numbers are read: pieces of named columns."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Format = Literal["d4rl", "robomimic", "npz", "ogbench", "csv", "parquet", "lerobot"]
AskedFormat = Literal["auto", "d4rl", "robomimic", "npz", "ogbench", "csv", "parquet", "lerobot"]
_IMAGE = 1000  # numbers of one row; a larger one is an image, as for the spaces of a dataset


class Column(NamedTuple):
    """One array of a piece. Its first dimension counts the rows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], NDArray[Any]]

    @property
    def problem(self) -> str | None:
        """Return why the column is no vector of numbers a row; None: it is one."""
        if self.dtype.kind not in "biuf":
            return "no numbers" if self.dtype.kind == "O" else f"type {self.dtype}"
        if not self.shape:
            return "a single number"
        if int(np.prod(self.shape[1:], dtype=np.int64)) > _IMAGE:
            return f"images of shape {self.shape[1:]}"
        return None


class Piece(NamedTuple):
    """Rows that follow each other: a whole file, or one episode of it."""

    name: str  # for messages
    columns: dict[str, Column]


@dataclass(frozen=True)
class Source:
    """What was found.

    Attributes:
        path: The file or folder.
        format: How it was read.
        pieces: At least one; all have the same keys.
        is_episode: Whether each piece is one episode.
        ends_in_observation: Whether the last row of an episode holds its final observation, and no step.
        step_rate: Steps per second, if the source says so.
        notes: What else the user should know, a line each.
    """

    path: Path
    format: Format
    pieces: list[Piece]
    is_episode: bool = False
    ends_in_observation: bool = False
    step_rate: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """Return the names of the columns, in natural order (obs_2 before obs_10)."""
        return in_natural_order(self.pieces[0].columns)

    def numeric(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys whose columns hold numbers that a planner can use."""
        return [key for key in keys if self.pieces[0].columns[key].problem is None]

    def matching(self, pattern: str) -> list[str]:
        """Return the keys that a name or a pattern such as ``obs_*`` stands for."""
        return [pattern] if pattern in self.keys else [key for key in self.keys if fnmatchcase(key, pattern)]


def in_natural_order(names: Sequence[str] | dict[str, Any]) -> list[str]:
    """Return names sorted such that numbers in them count: demo_2 before demo_10."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
