"""Minari datasets -> flat memory-mapped arrays in a cache, checked on the way.

Shapes: E episodes of n steps, A action and O observation dimensions, T = A + O, all in physical units.

An episode of n steps fills n + 1 rows (T,): action and observation of each step, then the final observation with the
action of rest (zero).
"""

import difflib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import minari
import numpy as np
from filelock import FileLock
from gymnasium import spaces
from minari.storage import get_dataset_path
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

_FORMAT = "1"  # of the cache; another number makes other keys


class Episodes(NamedTuple):
    """A dataset's episodes on disk; the arrays are memory-mapped."""

    rows: NDArray[np.float32]  # (sum of n + 1, T)
    rewards: NDArray[np.float32]  # (sum of n + 1,), zero in an episode's last row
    lengths: NDArray[np.int64]  # (E,), steps n of each episode
    terminated: NDArray[np.bool_]  # (E,), False: truncated, the episode could have gone on


def open_dataset(dataset_id: str, download: bool) -> minari.MinariDataset:
    """Read a dataset's metadata."""
    try:
        with FileLock(Path(tempfile.gettempdir()) / "vgp_lightning_download.lock") if download else nullcontext():
            return minari.load_dataset(dataset_id, download=download)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(dataset_id, minari.list_local_datasets(), n=3, cutoff=0.4)
        raise ValueError(
            f"dataset {dataset_id!r} is not in {get_dataset_path()} (set MINARI_DATASETS_PATH to look elsewhere). "
            + (f"Did you mean {', '.join(near)}? " if near else "")
            + f"Fetch it: minari download {dataset_id} (or --data.download true), or collect one: vgp collect --help"
        ) from error


def check_spaces(dataset: minari.MinariDataset, name: str) -> None:
    """Refuse spaces that cannot be flattened into one vector of numbers."""
    if not isinstance(dataset.action_space, spaces.Box):
        raise ValueError(f"dataset {name} has actions {dataset.action_space}: only Box actions are supported")
    if not _is_boxes(dataset.observation_space):
        raise ValueError(
            f"dataset {name} has observations {dataset.observation_space}: "
            "only Box, and Dict or Tuple of Box, is supported"
        )


def _is_boxes(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_is_boxes(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return all(_is_boxes(part) for part in space)
    return isinstance(space, spaces.Box)


def _flatten(space: spaces.Space[Any], values: Any) -> NDArray[np.floating]:
    """Return a batch of a space's elements as (n, D), in the order of ``gymnasium.spaces.flatten``."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([_flatten(part, values[key]) for key, part in space.items()], axis=1)
    if isinstance(space, spaces.Tuple):
        return np.concatenate([_flatten(part, value) for part, value in zip(space, values, strict=True)], axis=1)
    return np.asarray(values).reshape(len(values), spaces.flatdim(space))


def cached(datasets: Sequence[minari.MinariDataset], cache_dir: Path) -> Path:
    """Return the folder of the datasets' flat arrays; build it if it is missing.

    Its name is the datasets' content. It is built beside its place and renamed, under a lock: a second process waits,
    and an interrupted build leaves nothing that looks whole.
    """
    key = hashlib.blake2b(_FORMAT.encode(), digest_size=16)
    for dataset in datasets:
        for file in sorted(Path(dataset.storage.data_path).iterdir()):
            with file.open("rb") as stream:
                key.update(hashlib.file_digest(stream, "blake2b").digest())
    folder = cache_dir / key.hexdigest()
    if not folder.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=cache_dir))
                try:
                    _write_arrays(datasets, building)
                    building.chmod(0o755)  # mkdtemp's folders are the owner's alone
                    building.rename(folder)
                finally:
                    shutil.rmtree(building, ignore_errors=True)
    return folder


def _write_arrays(datasets: Sequence[minari.MinariDataset], folder: Path) -> None:
    episodes = sum(int(dataset.total_episodes) for dataset in datasets)
    count = sum(int(dataset.total_steps) for dataset in datasets) + episodes
    action_space = datasets[0].action_space
    width = spaces.flatdim(action_space) + spaces.flatdim(datasets[0].observation_space)
    rows = open_memmap(folder / "rows.npy", mode="w+", dtype=np.float32, shape=(count, width))
    rewards = open_memmap(folder / "rewards.npy", mode="w+", dtype=np.float32, shape=(count,))
    # After the end nothing is done; where the bounds exclude zero, as little as they allow.
    rest = np.clip(np.zeros(action_space.shape), action_space.low, action_space.high).reshape(1, -1)
    lengths, terminated = [], []
    first = 0
    quiet = not Console().is_terminal
    for name, episode, dataset in track(_episodes(datasets), "Caching episodes", episodes, disable=quiet):
        steps = len(episode.actions)
        actions = np.concatenate([_flatten(action_space, episode.actions), rest])
        observations = _flatten(dataset.observation_space, episode.observations)
        _check_episode(f"episode {episode.id} of {name}", actions[:-1], observations, episode)
        if first + steps + 1 > count:
            raise ValueError(f"dataset {name} holds more steps than its metadata says ({dataset.total_steps})")
        rows[first : first + steps + 1] = np.concatenate([actions, observations], axis=1)
        rewards[first : first + steps] = episode.rewards
        lengths.append(steps)
        terminated.append(bool(episode.terminations[-1]))
        first += steps + 1
    if first != count:
        raise ValueError(f"{[d.spec.dataset_id for d in datasets]} hold {first} rows, their metadata says {count}")
    rows.flush()
    rewards.flush()
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int64))
    np.save(folder / "terminated.npy", np.array(terminated, dtype=bool))


def _episodes(
    datasets: Sequence[minari.MinariDataset],
) -> Iterator[tuple[str, minari.EpisodeData, minari.MinariDataset]]:
    for dataset in datasets:
        for episode in dataset.iterate_episodes():
            yield dataset.spec.dataset_id, episode, dataset


def _check_episode(
    name: str, actions: NDArray[np.floating], observations: NDArray[np.floating], episode: minari.EpisodeData
) -> None:
    """Refuse what Minari does not check when it writes."""
    steps = len(actions)
    if steps == 0:
        raise ValueError(f"{name} has no step: delete it from the dataset")
    lengths = {
        "observations": (len(observations), steps + 1),
        "rewards": (len(episode.rewards), steps),
        "terminations": (len(episode.terminations), steps),
        "truncations": (len(episode.truncations), steps),
    }
    for part, (found, expected) in lengths.items():
        if found != expected:
            raise ValueError(f"{name} has {found} {part} for {steps} actions: {expected} are needed")
    for part, values in (
        ("actions", actions),
        ("observations", observations),
        ("rewards", np.asarray(episode.rewards)),
    ):
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in the cache
            finite = np.isfinite(values.astype(np.float32))
        if not finite.all():
            step = int(np.argwhere(~finite)[0, 0])
            raise ValueError(f"{name} has {part} that are not finite, first at step {step}: {values[step]}")


def load(folder: Path) -> Episodes:
    """Open the arrays that ``cached`` has built."""
    return Episodes(
        np.load(folder / "rows.npy", mmap_mode="r"),
        np.load(folder / "rewards.npy", mmap_mode="r"),
        np.load(folder / "lengths.npy"),
        np.load(folder / "terminated.npy"),
    )
