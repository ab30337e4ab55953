"""Episodes -> windows of H steps with their returns, in batches.

Shapes: B windows, H steps, A action and O observation dimensions, T = A + O, all in physical units.

A window that runs over the end of its episode stays in the episode's last row: final observation, action of rest.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import lightning.pytorch as pl
import minari
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch.utils.data import DataLoader, Dataset

from vgp_lightning.episodes import Episodes, cached, check_spaces, load, open_dataset
from vgp_lightning.normalizer import NormalizerKind, measure, shift_and_scale

Padding = Literal["none", "terminated", "all"]
Truncation = Literal["cut", "continue"]

_CHUNK = 1 << 18  # rows that statistics are taken of at a time


class Batch(NamedTuple):
    """B windows."""

    trajectories: torch.Tensor  # (B, H, T), raw, action first
    returns: torch.Tensor  # (B,), discounted, from the window's first step to the episode's end


def discounted_returns(
    rewards: NDArray[np.floating],
    terminated: bool,
    discount: float,
    termination_penalty: float = 0.0,
    truncation: Truncation = "cut",
) -> NDArray[np.float32]:
    """Return the discounted sum of one episode's rewards (n,) from each step to its end (n,).

    A terminated episode is worth nothing after its end; ``termination_penalty`` is added to its last reward. A
    truncated one would have gone on, so its recorded sum falls short: ``cut`` takes it as it is, as the paper does
    (all windows fall short alike, whatever their quality, so the ranking suffers little); ``continue`` adds what the
    episode's mean reward would bring for ever after.
    """
    rewards = rewards.astype(np.float64)
    tail = 0.0
    if terminated:
        rewards[-1] += termination_penalty
    elif truncation == "continue":
        tail = float(rewards.mean()) / (1 - discount)
    summed, _ = lfilter([1.0], [1.0, -discount], rewards[::-1], zi=[discount * tail])
    return np.asarray(summed[::-1], dtype=np.float32)


class WindowDataset(Dataset[Batch]):
    """All windows of some episodes; any set of them is one gather from the memory-mapped rows."""

    def __init__(
        self,
        episodes: Episodes,
        returns: NDArray[np.float32],
        chosen: NDArray[np.int64],
        horizon: int,
        padding: Padding,
        limit: int | None = None,
    ) -> None:
        """Count the windows of the chosen episodes.

        Args:
            episodes: All episodes.
            returns: The return from each row.
            chosen: Indices of the episodes whose windows these are.
            horizon: H.
            padding: Whose end a window may run over: ``none``, ``terminated`` or ``all`` episodes'.
            limit: Keep at most so many windows, evenly spread.
        """
        self.horizon = horizon
        self._episodes, self._returns = episodes, returns
        last_rows = np.cumsum(episodes.lengths + 1) - 1
        lengths = episodes.lengths[chosen]
        self._last_rows = last_rows[chosen]
        self._first_rows = self._last_rows - lengths
        padded = np.full(len(chosen), padding == "all") | (episodes.terminated[chosen] & (padding == "terminated"))
        windows = np.where(padded, lengths, np.maximum(lengths - horizon + 1, 0))
        self._ends = np.cumsum(windows)  # windows of the chosen episodes up to and including each
        self.total = int(self._ends[-1]) if len(self._ends) else 0
        self._length = self.total if limit is None else min(limit, self.total)

    def __len__(self) -> int:
        return self._length

    def first_rows(self) -> NDArray[np.int64]:
        """Return the row that each window starts in, of all windows."""
        return self._first(np.arange(self.total))[0]

    def __getitem__(self, index: int) -> Batch:
        """Return one window, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the windows as one batch: one gather, whatever their number."""
        index = np.asarray(indices, dtype=np.int64) * self.total // max(self._length, 1)
        first, last = self._first(index)
        rows = np.minimum(first[:, None] + np.arange(self.horizon), last[:, None])
        return Batch(torch.from_numpy(self._episodes.rows[rows]), torch.from_numpy(self._returns[first]))

    def _first(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row of each window, and the last row of its episode."""
        episode = np.searchsorted(self._ends, index, side="right")
        before = np.where(episode > 0, self._ends[episode - 1], 0)
        return self._first_rows[episode] + index - before, self._last_rows[episode]


def count_windows(batch: Batch) -> int:
    """Return B, for Lightning's ThroughputMonitor."""
    return len(batch.trajectories)


class MinariDataModule(pl.LightningDataModule):
    """Windows of one or several Minari datasets, some episodes held out for validation.

    Attributes:
        action_dim: A.
        observation_dim: O.
        transition_dim: T = A + O.
        task: Environment, datasets, discount and reference scores, as an exported folder tells them.
    """

    def __init__(
        self,
        dataset_id: str | list[str],
        horizon: int = 32,
        discount: float = 0.997,
        termination_penalty: float = 0.0,
        truncation: Truncation = "cut",
        padding: Padding = "terminated",
        normalizer: NormalizerKind = "gaussian",
        batch_size: int = 64,
        validation_share: float = 0.05,
        validation_windows: int = 2048,
        split_seed: int = 0,
        num_workers: int = 0,
        download: bool = False,
        cache_dir: str | None = None,
    ) -> None:
        """Read the datasets' metadata; nothing else is read before training starts.

        Args:
            dataset_id: A Minari dataset, or several that are mixed.
            horizon: H, the steps of a window.
            discount: Of the return.
            termination_penalty: Added to the reward of a terminating step; the paper has -100 where it is a fall.
            truncation: What a truncated episode's return is: ``cut`` at its end, or as if it would ``continue``.
            padding: Whose end a window may run over. A terminated episode stays where it ended, a truncated one would
                have gone on: hence the default. Use ``all`` where episodes are shorter than the horizon.
            normalizer: ``gaussian`` (mean 0, deviation 1) or ``limits`` (-1..1), per dimension.
            batch_size: Windows in a batch, of each process.
            validation_share: Share of the episodes that is held out.
            validation_windows: At most so many windows of the held-out episodes, evenly spread.
            split_seed: Decides which episodes are held out.
            num_workers: Of the loaders; 0 is usually best, since a batch is a single gather.
            download: Fetch missing datasets from Minari's remote.
            cache_dir: Of the flat arrays; default ``$XDG_CACHE_HOME/vgp_lightning`` or ``~/.cache/vgp_lightning``.

        Raises:
            ValueError: If an argument is out of range, or a dataset is missing or does not fit the others.
        """
        super().__init__()
        for name, value, low, high in (
            ("horizon", horizon, 1, None),
            ("discount", discount, 0, 1),
            ("batch_size", batch_size, 1, None),
            ("validation_windows", validation_windows, 1, None),
        ):
            if not (low <= value and (high is None or value <= high)):  # so that NaN is refused
                raise ValueError(
                    f"data.{name} is {value}: it must be at least {low}" + (f", at most {high}" * bool(high))
                )
        for name, choice, choices in (
            ("truncation", truncation, get_args(Truncation)),
            ("padding", padding, get_args(Padding)),
            ("normalizer", normalizer, get_args(NormalizerKind)),
        ):
            if choice not in choices:
                raise ValueError(f"data.{name} is {choice!r}: choose from {choices}")
        if not 0 <= validation_share < 1:
            raise ValueError(f"data.validation_share is {validation_share}: it must lie in [0, 1)")
        if truncation == "continue" and discount == 1:
            raise ValueError("data.truncation is 'continue': it needs a discount below 1, since the tail never ends")
        self.dataset_ids = [dataset_id] if isinstance(dataset_id, str) else list(dataset_id)
        if not self.dataset_ids:
            raise ValueError("data.dataset_id is empty: name at least one Minari dataset")
        self.horizon, self.discount, self.termination_penalty = horizon, discount, termination_penalty
        self.truncation, self.padding, self.normalizer = truncation, padding, normalizer
        self.batch_size, self.num_workers = batch_size, num_workers
        self.validation_share, self._validation_limit, self.split_seed = (
            validation_share,
            validation_windows,
            split_seed,
        )
        self._cache_dir = Path(
            cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vgp_lightning"
        ).expanduser()

        self._datasets = [open_dataset(name, download) for name in self.dataset_ids]
        first = self._datasets[0]
        for dataset, name in zip(self._datasets, self.dataset_ids, strict=True):
            check_spaces(dataset, name)
            if (dataset.observation_space, dataset.action_space) != (first.observation_space, first.action_space):
                raise ValueError(
                    f"datasets cannot be mixed: {self.dataset_ids[0]} has observations {first.observation_space} and "
                    f"actions {first.action_space}, {name} has {dataset.observation_space} and {dataset.action_space}"
                )
        action_space = first.action_space
        self.action_dim = spaces.flatdim(action_space)
        self.observation_dim = spaces.flatdim(first.observation_space)
        self.transition_dim = self.action_dim + self.observation_dim
        self._bounds = {"action_low": _bound(action_space.low), "action_high": _bound(action_space.high)}
        self.task = self._describe(first)

    def _describe(self, dataset: minari.MinariDataset) -> dict[str, Any]:
        metadata = dataset.storage.metadata
        # The environment that is meant for evaluation, where the dataset names one.
        spec = metadata.get("eval_env_spec") or metadata.get("env_spec")
        references = (metadata.get("ref_min_score"), metadata.get("ref_max_score"))
        reference = {"name": f"dataset {self.dataset_ids[0]}", "min": references[0], "max": references[1]}
        return {
            "env_id": json.loads(spec)["id"] if spec else None,
            "env_spec": json.loads(spec) if spec else None,
            "dataset_id": self.dataset_ids,
            "discount": self.discount,
            "termination_penalty": self.termination_penalty,
            "reference_scores": None if None in references else reference,
        }

    def prepare_data(self) -> None:
        """Build the cache if it is missing; Lightning calls this in one process of each machine."""
        cached(self._datasets, self._cache_dir)

    def setup(self, stage: str) -> None:
        """Open the cache, split the episodes and take the statistics: of all rows, and of the training returns.

        Raises:
            ValueError: If no window fits, or too few episodes are there to hold some out.
        """
        del stage
        if hasattr(self, "normalization"):
            return
        episodes = load(cached(self._datasets, self._cache_dir))
        held_out, chosen = self._split(len(episodes.lengths))
        returns = self._returns(episodes)
        self.train_windows = WindowDataset(episodes, returns, chosen, self.horizon, self.padding)
        self.validation_windows = WindowDataset(
            episodes, returns, held_out, self.horizon, self.padding, self._validation_limit
        )
        for name, windows in (("training", self.train_windows), ("held-out", self.validation_windows)):
            if windows.total == 0 and (windows is self.train_windows or len(held_out)):
                raise ValueError(
                    f"no window of {self.horizon} steps fits the {name} episodes of {self.dataset_ids}, whose longest "
                    f"has {episodes.lengths.max()} steps: set data.padding to 'all', or data.horizon lower"
                )
        statistics = measure(episodes.rows[i : i + _CHUNK] for i in range(0, len(episodes.rows), _CHUNK))
        shift, scale = shift_and_scale(statistics, self.normalizer)
        first_rows = self.train_windows.first_rows()
        return_statistics = measure(
            returns[first_rows[i : i + _CHUNK], None] for i in range(0, len(first_rows), _CHUNK)
        )
        return_shift, return_scale = shift_and_scale(return_statistics, "gaussian")
        self.normalization = {
            "action_dim": self.action_dim,
            "shift": shift.tolist(),
            "scale": scale.tolist(),
            "return_shift": float(return_shift[0]),
            "return_scale": float(return_scale[0]),
            **self._bounds,
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled windows; a last batch that would be smaller is left out, unless it is the only one."""
        return self._loader(self.train_windows, shuffle=True, drop_last=len(self.train_windows) >= self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Return the held-out windows, or no loader where no episode is held out."""
        return self._loader(self.validation_windows) if len(self.validation_windows) else []

    def _loader(self, windows: WindowDataset, **options: Any) -> DataLoader[Batch]:
        return DataLoader(
            windows,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_whole,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            **options,
        )

    def _split(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the held-out episodes and the others, drawn by the split's seed."""
        share = max(round(self.validation_share * count), 1) if self.validation_share > 0 else 0
        if share >= count:
            raise ValueError(
                f"{self.dataset_ids} has {count} episodes, too few to hold out a share of {self.validation_share}: "
                "set data.validation_share to 0"
            )
        order = np.random.default_rng(self.split_seed).permutation(count)
        return np.sort(order[:share]), np.sort(order[share:])

    def _returns(self, episodes: Episodes) -> NDArray[np.float32]:
        """Return the discounted return from each row; the last row of an episode, its end, has none (0)."""
        returns = np.zeros(len(episodes.rows), dtype=np.float32)
        first = 0
        for length, terminated in zip(episodes.lengths, episodes.terminated, strict=True):
            returns[first : first + length] = discounted_returns(
                episodes.rewards[first : first + length],
                bool(terminated),
                self.discount,
                self.termination_penalty,
                self.truncation,
            )
            first += length + 1
        return returns


def _whole(batch: Any) -> Any:
    """Collate what is a batch already."""
    return batch


def _bound(limits: NDArray[np.floating]) -> list[float | None]:
    """Return action limits as JSON can hold them: None where there is none."""
    return [float(limit) if np.isfinite(limit) else None for limit in limits.ravel()]
