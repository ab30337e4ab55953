"""MinariDataModule: Minari datasets -> loaders of windows with their returns, and the normaliser's statistics.

Shapes: H steps, A action and O observation dimensions, T = A + O, all in physical units.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import minari
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from vgp_lightning.data.building import built
from vgp_lightning.data.cache import Episodes, appended, cache_folder, cached, load, metadata, open_dataset
from vgp_lightning.data.normalizer import (
    CHUNK,
    NormalizerKind,
    Statistics,
    is_constant,
    measure,
    measure_rows,
    shift_and_scale,
)
from vgp_lightning.data.options import check_options
from vgp_lightning.data.order import DrawOrder, WindowLoader
from vgp_lightning.data.resident import OnDevice, ResidentWindows, can_reside, copy_to
from vgp_lightning.data.returns import Truncation, returns_by_row
from vgp_lightning.data.spaces import action_bounds, check_spaces, one_line
from vgp_lightning.data.windows import Padding, WindowDataset

_LARGEST_BATCH = 4 * 10**9  # bytes; the activations of the networks take about a hundred times as much
_LONG = 1024  # steps; windows of more may not be longer than all episodes


class MinariDataModule(pl.LightningDataModule):
    """Windows of one or several Minari datasets; some episodes are held out for validation.

    Attributes:
        action_dim: A.
        observation_dim: O.
        transition_dim: T = A + O.
        task: Environment, datasets, discount and reference scores, as they are stored in an exported folder.
        normalization: After ``setup``: the statistics that the modules normalise by. Those of actions and observations
            are of all rows in the cache: held-out episodes are counted, and so is the final row of each episode with
            its zero action. Those of the returns are of the training windows.
    """

    def __init__(
        self,
        dataset_id: str | list[str],
        weights: list[float] | None = None,
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
        on_device: OnDevice = "auto",
        download: bool = False,
        cache_dir: str | None = None,
    ) -> None:
        """Read the datasets' metadata. Episodes are not read before training starts.

        Args:
            dataset_id: A Minari dataset, or several that are mixed.
            weights: Share of each dataset in the training windows, in proportion to the weights; default: in
                proportion to its number of windows, so that each window is drawn equally often.
            horizon: H, the steps of a window.
            discount: Discount of the return.
            termination_penalty: Added to the reward of a terminating step; the paper uses -100 where that is a fall.
            truncation: The return of a truncated episode: ``cut`` at its end, or as if its mean reward would
                ``continue``.
            padding: Windows may run past the end of these episodes. A terminated episode stays in its final
                observation; a truncated one would have gone on, so it is not padded by default. Use ``all`` where
                episodes are shorter than the horizon.
            normalizer: ``gaussian`` (mean 0, standard deviation 1) or ``limits`` (-1..1), per dimension.
            batch_size: Windows in a batch, of all processes together. It decides what is learned; the number of
                processes only decides how fast.
            validation_share: Share of the episodes that is held out.
            validation_windows: Largest number of windows of the held-out episodes to validate on, evenly spread.
            split_seed: Decides which episodes are held out.
            num_workers: Processes that gather batches; 0 is usually best, since a batch is a single gather.
            on_device: Keep the rows of all episodes on the device that trains, so that a batch is one gather there and
                no copy: ``true``; ``auto``: on a GPU, if they take at most a quarter of its free memory and there are
                no workers; ``false``: batches are gathered on the host. Batches are the same. On a CPU it has no
                effect. Of several processes each has a copy.
            download: Download missing datasets from Minari's remote; processes with the same ``cache_dir`` wait for
                each other.
            cache_dir: Folder of the flat arrays; default ``$XDG_CACHE_HOME/vgp_lightning`` or
                ``~/.cache/vgp_lightning``.

        Raises:
            ValueError: If an argument is out of range, or a dataset is missing, is empty, has actions or observations
                that are not supported, or has other spaces than the first one.
        """
        super().__init__()
        self.dataset_ids = list(dataset_id) if isinstance(dataset_id, list | tuple) else [dataset_id]
        check_options(
            self.dataset_ids,
            weights,
            horizon=horizon,
            discount=discount,
            termination_penalty=termination_penalty,
            truncation=truncation,
            padding=padding,
            normalizer=normalizer,
            batch_size=batch_size,
            validation_share=validation_share,
            validation_windows=validation_windows,
            split_seed=split_seed,
            num_workers=num_workers,
            on_device=on_device,
        )
        self.weights = weights
        self.horizon, self.discount, self.termination_penalty = horizon, discount, termination_penalty
        self.truncation, self.padding, self.normalizer = truncation, padding, normalizer
        self.batch_size, self.num_workers, self.on_device = batch_size, num_workers, on_device
        self._resident: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}  # rows and returns
        self.validation_share, self._validation_limit = validation_share, validation_windows
        self.split_seed = split_seed
        self._cache_dir = cache_folder(cache_dir)
        self._datasets = self._open(download)
        first = self._datasets[0]
        self.action_dim = spaces.flatdim(first.action_space)
        self.observation_dim = spaces.flatdim(first.observation_space)
        self.transition_dim = self.action_dim + self.observation_dim
        self._check_size_of_batches()
        self._bounds = action_bounds(first.action_space)
        self.task = self._describe(first)

    @property
    def total_episodes(self) -> int:
        """Episodes of all datasets, the held-out ones included."""
        return sum(int(dataset.total_episodes) for dataset in self._datasets)

    def _open(self, download: bool) -> list[minari.MinariDataset]:
        """Open the datasets.

        Raises:
            ValueError: If one is missing or empty, or its spaces are not supported or differ from the first one's.
        """
        lock = self._cache_dir / "download.lock" if download else None
        datasets = [open_dataset(name, lock) for name in self.dataset_ids]
        first = datasets[0]
        for dataset, name in zip(datasets, self.dataset_ids, strict=True):
            check_spaces(dataset, name)
            if dataset.total_episodes == 0:
                raise ValueError(
                    f"dataset {name} has no episodes; perhaps its collection was interrupted. Remove it by "
                    f"`minari delete {name}`, and collect or download it again"
                )
            if (dataset.observation_space, dataset.action_space) != (first.observation_space, first.action_space):
                raise ValueError(
                    f"datasets cannot be mixed: {self.dataset_ids[0]} has observations "
                    f"{one_line(first.observation_space)} and actions {one_line(first.action_space)}, {name} has "
                    f"{one_line(dataset.observation_space)} and {one_line(dataset.action_space)}"
                )
        return datasets

    def _describe(self, dataset: minari.MinariDataset) -> dict[str, Any]:
        """Return the task as plain values that JSON and checkpoints can hold."""
        described = metadata(dataset)
        # Where a dataset names an environment for evaluation, it is that one.
        spec = described.get("eval_env_spec") or described.get("env_spec")
        references = (described.get("ref_min_score"), described.get("ref_max_score"))
        reference = {"name": f"dataset {self.dataset_ids[0]}", "min": references[0], "max": references[1]}
        return {
            "env_id": json.loads(spec)["id"] if spec else None,
            "env_spec": json.loads(spec) if spec else None,
            "dataset_id": self.dataset_ids,
            "discount": self.discount,
            "termination_penalty": self.termination_penalty,
            "reference_scores": None if None in references else reference,
        }

    def _check_size_of_batches(self) -> None:
        """Refuse batches that no device could train on, before anything of that size is allocated.

        Raises:
            ValueError: If a batch would take more than 4 GB.
        """
        windows = min(int(self.batch_size), sum(dataset.total_steps for dataset in self._datasets))
        size = windows * int(self.horizon) * self.transition_dim * np.dtype(np.float32).itemsize
        if size > _LARGEST_BATCH:
            raise ValueError(
                f"a batch of {windows} windows of data.horizon {self.horizon} with {self.transition_dim} numbers "
                f"a step would take {size // 10**9} GB, and the networks a multiple of it: set data.horizon or "
                "data.batch_size lower"
            )

    def prepare_data(self) -> None:
        """Build what is missing in the cache. Lightning calls this in one process of each machine."""
        self._cached()

    def setup(self, stage: str) -> None:
        """Map the cache, split the episodes, and compute the statistics of the training windows' returns.

        Warns:
            UserWarning: If all training windows have the same return.

        Raises:
            ValueError: If no window fits, windows would be mostly padding, or there are too few episodes to hold some
                out.
        """
        del stage
        if hasattr(self, "normalization"):
            return
        episodes, statistics, returns = self._cached()
        longest = int(episodes.lengths.max())
        if self.horizon > max(longest, _LONG):
            raise ValueError(
                f"data.horizon is {self.horizon}, but the longest episode of {self.dataset_ids} has {longest} "
                f"steps, so that the rest of each window would be padding: set it to at most {max(longest, _LONG)}"
            )
        held_out, chosen = self._split(len(episodes.lengths))
        self.train_windows = WindowDataset(episodes, returns, chosen, self.horizon, self.padding)
        held_out_windows = WindowDataset(episodes, returns, held_out, self.horizon, self.padding)
        self.validation_windows = held_out_windows.limited(self._validation_limit)
        for name, windows, members in (
            ("training", self.train_windows, chosen),
            ("held-out", self.validation_windows, held_out),
        ):
            if windows.total == 0 and len(members):
                raise ValueError(
                    f"no window of {self.horizon} steps fits the {name} episodes of {self.dataset_ids}, whose longest "
                    f"has {episodes.lengths[members].max()} steps: set data.padding to 'all', or set data.horizon lower"
                )
        shift, scale = shift_and_scale(statistics, self.normalizer)
        windows = self.train_windows
        return_statistics = measure(
            returns[windows.first_rows(i, i + CHUNK), None] for i in range(0, windows.total, CHUNK)
        )
        if is_constant(return_statistics).all():
            warnings.warn(
                f"all {windows.total} training windows of {self.dataset_ids} have the return "
                f"{return_statistics.mean[0]:g}: a value function cannot learn anything from them. Check the rewards "
                f"of the datasets, and data.discount, which is {self.discount}",
                stacklevel=2,
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

    def train_dataloader(self) -> WindowLoader:
        """Return a loader of the training windows, in a new order each epoch.

        Raises:
            ValueError: If a process would have no window of some batch, or ``trainer.overfit_batches`` is a fraction.
        """
        windows, weights, seed = self.train_windows, self.weights, torch.initial_seed()
        if self.trainer is not None:
            seed = self.trainer.strategy.broadcast(seed)
            # Lightning stops each epoch after that many batches; that they are the same windows is done here.
            if batches := self.trainer.overfit_batches:  # type: ignore[attr-defined]
                if isinstance(batches, float):
                    raise ValueError(f"trainer.overfit_batches is {batches}: give a whole number of batches")
                windows, weights = windows.limited(batches * self.batch_size), None
        return self._loader(windows, shuffle=True, weights=weights, seed=seed)

    def val_dataloader(self) -> WindowLoader | list[Any]:
        """Return a loader of the held-out windows, or no loader if no episode is held out."""
        return self._loader(self.validation_windows) if len(self.validation_windows) else []

    def _loader(self, windows: WindowDataset, **options: Any) -> WindowLoader:
        part, parts, device = 0, 1, torch.device("cpu")
        if self.trainer is not None:
            part, parts = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        order = DrawOrder(windows, self.batch_size, part, parts, **options)
        size = windows.rows.nbytes + windows.returns.nbytes
        if device not in self._resident and can_reside(self.on_device, device, size, self.num_workers):
            self._resident[device] = copy_to(device, windows.rows), copy_to(device, windows.returns)
        if device in self._resident:
            return WindowLoader(ResidentWindows(windows, *self._resident[device]), order)
        # That the machine has a GPU is not enough: pinning would open a CUDA context in a run on the CPU.
        return WindowLoader(windows, order, self.num_workers, pin_memory=device.type == "cuda")

    def _split(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices of the held-out episodes and of the others, ascending; the split's seed draws them."""
        share = max(round(self.validation_share * count), 1) if self.validation_share > 0 else 0
        if share >= count:
            raise ValueError(
                f"{self.dataset_ids} has {count} episodes, too few to hold out a share of {self.validation_share} for "
                "validation: set data.validation_share to 0"
            )
        order = np.random.default_rng(self.split_seed).permutation(count)
        return np.sort(order[:share]), np.sort(order[share:])

    def _cached(self) -> tuple[Episodes, Statistics, NDArray[np.float32]]:
        """Map episodes and returns, and read the rows' statistics. One process builds what is missing."""
        folder = cached(self._datasets, self._cache_dir)
        episodes = load(folder)
        statistics = folder / "statistics.npz"
        built(statistics, folder, lambda target: np.savez(target, **vars(measure_rows(episodes.rows))))
        settings = (float(self.discount), float(self.termination_penalty), self.truncation)
        returns = folder / "returns_{}_{}_{}.npy".format(*settings)
        built(returns, folder, lambda target: self._write_returns(episodes, target))
        with np.load(statistics) as found:
            return episodes, Statistics(**found), np.load(returns, mmap_mode="r")

    def _write_returns(self, episodes: Episodes, path: Path) -> None:
        """Write the discounted return from each row."""
        settings = (self.discount, self.termination_penalty, self.truncation)
        with appended(path, len(episodes.rows)) as file, np.errstate(over="ignore"):
            rewards = np.asarray(episodes.rewards)
            every = returns_by_row(rewards, episodes.lengths, episodes.terminated, *settings)
            for number, returns in enumerate(every):
                if not np.isfinite(returns).all():
                    raise ValueError(
                        f"the returns of episode {number} of {self.dataset_ids} are too large for float32: scale the "
                        f"rewards of the dataset down, or set data.discount (which is {self.discount}) or "
                        f"data.termination_penalty ({self.termination_penalty}) lower"
                    )
                file.write(returns.tobytes())
