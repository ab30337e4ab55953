"""The order in which windows are drawn: a batch depends only on the seed and its index.

Shapes: G windows in a global batch, B of them for this process.

The only state is the number of batches drawn so far: a resumed run continues where it stopped, and several processes
together draw the same batches as one.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from vgp_lightning.data.windows import Batch, Draw, WindowDataset

_ROUNDS = 8  # of the Feistel network; four make it a pseudo-random permutation (Luby & Rackoff 1988)
# Ends the keys of the orders within a dataset. SeedSequence takes (seed, n) and (seed, n, 0) for the same key: without
# it, dataset n's first round would have the key of epoch n.
_WITHIN = 1
_AHEAD = 64  # batches whose windows are computed at a time


def shuffled(index: NDArray[np.int64], total: int, *key: int) -> NDArray[np.int64]:
    """Return the positions of indices in a pseudo-random permutation of 0..total - 1, without storing the permutation.

    A balanced Feistel network permutes the numbers below the next power of four; it is applied again to every result
    that is not below ``total`` (cycle walking; Black & Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        index: (n,), each in 0..total - 1.
        total: How many numbers are permuted.
        key: Integers that choose the permutation. Trailing zeros of a key do not matter.

    Returns:
        (n,), each in 0..total - 1; different indices have different positions.
    """
    half = max(math.ceil(math.log2(max(total, 2)) / 2), 1)
    keys = _keys(key)
    found = index.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        found[outside] = _feistel(found[outside], half, keys)
        outside = outside[found[outside] >= total]
    return found.astype(np.int64)


@lru_cache(maxsize=64)
def _keys(key: tuple[int, ...]) -> NDArray[np.uint64]:
    return np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64).astype(np.uint64)


def _feistel(index: NDArray[np.uint64], half: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    width, mask = np.uint64(half), np.uint64(2**half - 1)
    left, right = index >> width, index & mask
    for key in keys:
        # The finaliser of splitmix64 (Steele, Lea & Flood 2014); its products overflow by design.
        mixed = right + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & mask)
    return (left << width) | right


class DrawOrder(Sampler[Draw]):
    """The draws of one process. Each iteration yields one epoch's number of them, starting at number ``drawn``.

    In an epoch every window is drawn once, by one of the processes, in a new order. With weights an epoch has the same
    number of windows, of which each dataset gets its share; a dataset draws all of its windows once before it draws any
    of them again.
    """

    def __init__(
        self,
        windows: WindowDataset,
        batch_size: int,
        part: int = 0,
        parts: int = 1,
        *,
        shuffle: bool = False,
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        """Divide an epoch into batches.

        Args:
            windows: The windows to draw from.
            batch_size: G, windows in a global batch. The last batch of an epoch is smaller if windows are left over,
                and so is the one before it if they are less than half a batch.
            part: Number of this process.
            parts: Number of processes.
            shuffle: Whether each epoch has a new order; otherwise the order is that of the windows.
            weights: Each dataset's share of the draws, in proportion to the weights; used only with ``shuffle``.
            seed: Seed of order and noise.

        Raises:
            ValueError: If a process would have no window of some batch, or a dataset with a weight has no window.
        """
        total = len(windows)
        if total < parts:
            raise ValueError(
                f"{total} windows cannot be divided among {parts} processes: each needs one. Use fewer processes "
                "(trainer.devices, trainer.num_nodes)"
            )
        if batch_size < parts:
            raise ValueError(f"data.batch_size is {batch_size}: it must be at least {parts}, one for each process")
        # How an epoch is divided must not depend on the number of processes, or what is learned would. Windows that are
        # left over are a batch of their own; if they are less than half a batch, they and the batch before are divided
        # evenly: so no optimizer step is taken on a few windows, and no batch needs more memory than the others.
        self._batches = math.ceil(total / batch_size)
        rest = total - (self._batches - 1) * batch_size
        self._last = (rest + batch_size) // 2 if self._batches > 1 and 2 * rest < batch_size else rest
        if self._last < parts:
            raise ValueError(
                f"the last batch of an epoch has {self._last} of {total} windows, fewer than the {parts} processes: "
                f"use fewer processes (trainer.devices), or set data.batch_size to {2 * parts} or more"
            )
        self._total, self._batch_size, self._part, self._parts = total, batch_size, part, parts
        self._shuffle, self.seed = shuffle, seed
        self.drawn = 0
        self._sizes = windows.per_dataset if weights else np.array([total])
        shares = np.array(weights or [1.0])
        ends = np.round(np.cumsum(shares / shares.sum()) * total).astype(np.int64)
        self._draws = np.diff(ends, prepend=0)
        if (self._sizes[self._draws > 0] == 0).any():
            raise ValueError(
                f"data.weights is {weights}, but the datasets have {self._sizes.tolist()} windows to train on: a "
                "dataset with a weight has no window. Give it the weight 0, set data.padding to 'all', or set "
                "data.horizon lower"
            )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[Draw]:
        number = self.drawn if self._shuffle else 0
        stop, noise = number + self._batches, int(_keys((self.seed,))[0])
        while number < stop:
            epoch, begin = divmod(number, self._batches)
            ends = self._ends(np.arange(begin, min(begin + _AHEAD, begin + stop - number, self._batches) + 1))
            ahead = self._windows(epoch, np.arange(ends[0], ends[-1]))
            for first, last in pairwise(ends):
                share = ahead[first - ends[0] : last - ends[0]][self._part :: self._parts]
                # Seeds are counted, not hashed: a generator on the CPU uses 32 bits of its seed, and no two batches may
                # have the same.
                yield Draw(share, int(last - first), self._part, self._parts, (noise + number) % 2**64)
                number += 1

    def _ends(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of windows of an epoch that come before each batch."""
        before = batch * self._batch_size
        return np.select(
            [batch == self._batches, batch == self._batches - 1], [self._total, self._total - self._last], before
        )

    def _windows(self, epoch: int, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the windows at these places of an epoch's order."""
        if not self._shuffle:
            return place
        place = shuffled(place, self._total, self.seed, epoch)
        if len(self._sizes) == 1:
            return place
        # The datasets own consecutive ranges of places. A dataset counts its draws over all epochs.
        ends = np.cumsum(self._draws)
        dataset = np.searchsorted(ends, place, side="right")
        count = epoch * self._draws[dataset] + place - (ends - self._draws)[dataset]
        rounds, index = np.divmod(count, self._sizes[dataset])
        before = np.cumsum(self._sizes) - self._sizes
        for number, size in enumerate(self._sizes):
            for turn in np.unique(rounds[dataset == number]):
                chosen = (dataset == number) & (rounds == turn)
                index[chosen] = (
                    shuffled(index[chosen], int(size), self.seed, number, int(turn), _WITHIN) + before[number]
                )
        return index


class WindowLoader:
    """Batches in the given order. Iterating again continues after the last batch taken, also in a resumed run.

    It contains a DataLoader but is not one: Lightning would replace the sampler of a DataLoader by its own.
    """

    def __init__(
        self, windows: Dataset[Batch], order: DrawOrder, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        """Make the DataLoader.

        Args:
            windows: The windows to draw from: a WindowDataset, or ResidentWindows.
            order: The draws, one for each batch; its ``drawn`` is the position.
            num_workers: Processes that gather batches; 0: this process does.
            pin_memory: Put batches into page-locked memory, from which they are copied to a GPU without blocking.
        """
        self._order = order
        self._loader = DataLoader(
            windows,
            sampler=order,
            batch_size=None,  # a draw is a whole batch
            collate_fn=_as_it_is,  # the default would convert the draw to tensors, which go to the device
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            self._order.drawn += 1  # here, not where it is fetched: workers fetch ahead
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position, for Lightning's checkpoint."""
        return {"drawn": self._order.drawn, "seed": self._order.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        self._order.drawn, self._order.seed = state["drawn"], state["seed"]


def _as_it_is(batch: Any) -> Any:
    return batch
