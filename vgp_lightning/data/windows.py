"""Windows of H steps: any batch of them is one gather from the cached rows.

Shapes: G windows in a global batch, B of them for this process, H steps, T = A + O dimensions, in physical units.

A window that runs past the end of its episode repeats the episode's final row: final observation, zero action.
"""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from vgp_lightning.data.cache import Episodes

Padding = Literal["none", "terminated", "all"]


class Draw(NamedTuple):
    """The windows of a process's share of a global batch, and the seed of the global batch's noise."""

    windows: NDArray[np.int64]  # (B,), indices: every ``parts``-th of the global batch's G, starting at the ``part``-th
    total: int  # G
    part: int  # number of this process
    parts: int  # number of processes
    seed: int  # of the global batch, the same in all processes


class Batch(NamedTuple):
    """B windows."""

    trajectories: torch.Tensor  # (B, H, T), in physical units, action first
    returns: torch.Tensor  # (B,), discounted, from the window's first step to the end of the episode
    draw: Draw


class WindowDataset(Dataset[Batch]):
    """All windows of some episodes. Any batch of them is one gather from the memory-mapped rows."""

    def __init__(
        self,
        episodes: Episodes,
        returns: NDArray[np.float32],
        chosen: NDArray[np.int64],
        horizon: int,
        padding: Padding,
    ) -> None:
        """Count the windows of the chosen episodes.

        Args:
            episodes: All episodes.
            returns: (sum of n + 1,), the return from each row.
            chosen: Indices of the episodes to take windows from, ascending.
            horizon: H.
            padding: Windows may run past the end of which episodes: ``none``, ``terminated`` ones or ``all``.
        """
        self.horizon = horizon
        self.rows, self.returns = episodes.rows, returns
        last_rows = np.cumsum(episodes.lengths + 1) - 1
        lengths = episodes.lengths[chosen]
        self._last_rows = last_rows[chosen]
        self._first_rows = self._last_rows - lengths
        padded = np.full(len(chosen), padding == "all") | (episodes.terminated[chosen] & (padding == "terminated"))
        windows = np.where(padded, lengths, np.maximum(lengths - horizon + 1, 0))
        self._ends = np.cumsum(windows)  # number of windows up to and including each chosen episode
        self.per_dataset = np.bincount(
            np.repeat(np.arange(len(episodes.per_dataset)), episodes.per_dataset)[chosen],
            weights=windows,
            minlength=len(episodes.per_dataset),
        ).astype(np.int64)
        self.total = int(self._ends[-1]) if len(self._ends) else 0
        self._length = self.total

    def __getstate__(self) -> dict[str, Any]:
        """Replace memory-mapped files by their paths, so that a worker that is spawned gets no copy of them."""
        return {k: Path(v.filename) if isinstance(v, np.memmap) else v for k, v in vars(self).items()}  # type: ignore[arg-type]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files again."""
        vars(self).update({k: np.load(v, mmap_mode="r") if isinstance(v, Path) else v for k, v in state.items()})

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, draw: Draw) -> Batch:
        """Return the drawn windows as one batch."""
        first, last = self.bounds(draw)
        rows = np.minimum(first[:, None] + np.arange(self.horizon), last[:, None])
        return Batch(torch.from_numpy(self.rows[rows]), torch.from_numpy(self.returns[first]), draw)

    def bounds(self, draw: Draw) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row (B,) of each drawn window, and the last row (B,) of its episode."""
        return self._first(draw.windows * self.total // max(self._length, 1))

    def bounds_of_all(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row of each window, and the last row of its episode, for all windows in order."""
        return self._first(np.arange(self.total))

    def limited(self, limit: int) -> "WindowDataset":
        """Return a dataset of at most ``limit`` of these windows, evenly spread."""
        fewer = copy(self)
        fewer._length = min(limit, self.total)
        return fewer

    def batch(self, windows: Sequence[int]) -> Batch:
        """Return the windows with these indices."""
        return self[Draw(np.asarray(windows, dtype=np.int64), len(windows), 0, 1, 0)]

    def first_rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the row in which each window starts, for the windows ``start`` to ``stop - 1`` of all."""
        return self._first(np.arange(start, min(stop, self.total)))[0]

    def _first(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row of each window, and the last row of its episode."""
        episode = np.searchsorted(self._ends, index, side="right")
        before = np.where(episode > 0, self._ends[episode - 1], 0)
        return self._first_rows[episode] + index - before, self._last_rows[episode]
