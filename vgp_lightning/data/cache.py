"""Minari datasets -> flat memory-mapped arrays in a cache, checked on the way.

Shapes: D datasets, E episodes of n steps, A action and O observation dimensions, T = A + O, all in physical units.

An episode of n steps fills n + 1 rows (T,): action and observation of each step, then the final observation with the
action of rest (zero).
"""

import difflib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import minari
import numpy as np
from filelock import FileLock, Timeout
from gymnasium import spaces
from minari.storage import get_dataset_path
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

_BUILDING = ".building-"
_OPEN = 100  # episodes read before the file is opened anew: HDF5 keeps 28 kB of each until then
_FORMAT = "2"  # of the cache and of what is derived from it; another number makes other keys


class Episodes(NamedTuple):
    """A dataset's episodes on disk; the arrays are memory-mapped."""

    rows: NDArray[np.float32]  # (sum of n + 1, T)
    rewards: NDArray[np.float32]  # (sum of n + 1,), zero in an episode's last row
    lengths: NDArray[np.int64]  # (E,), steps n of each episode
    terminated: NDArray[np.bool_]  # (E,), False: truncated, the episode could have gone on
    per_dataset: NDArray[np.int64]  # (D,), episodes of each dataset


def open_dataset(dataset_id: str, download_lock: Path | None = None) -> minari.MinariDataset:
    """Open a Minari dataset, whose metadata are read and no episode.

    Args:
        dataset_id: ``(namespace/)name-vN``.
        download_lock: Lock file of the processes that may download the dataset if it is missing: one does, the others
            wait. It must lie in a folder of the user's own: another user's lock file cannot be opened. None: do not
            download.

    Raises:
        ValueError: If the dataset is missing.
    """
    try:
        if download_lock is None:
            return minari.load_dataset(dataset_id)
        download_lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(download_lock):
            return minari.load_dataset(dataset_id, download=True)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(dataset_id, minari.list_local_datasets(), n=3, cutoff=0.4)
        raise ValueError(
            f"dataset {dataset_id!r} is not in {dataset_path()} (set MINARI_DATASETS_PATH to look elsewhere). "
            + (f"Did you mean {', '.join(near)}? " if near else "")
            + f"Fetch it: minari download {dataset_id} (or --data.download true), or collect one: vgp collect --help"
        ) from error


# Two names that Minari's documentation does not list; they are used here alone, as of Minari 0.5.4. Nothing documented
# says where a dataset would be that is not there, or returns the metadata of one that is.


def dataset_path(dataset_id: str = "") -> Path:
    """Return the folder of a dataset, whether it exists or not; or the folder of all datasets."""
    path: Path = get_dataset_path(dataset_id)
    return path


def metadata(dataset: minari.MinariDataset) -> dict[str, Any]:
    """Return a dataset's metadata: specifications of environments, reference scores and so on."""
    found: dict[str, Any] = dataset.storage.metadata
    return found


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

    Its name tells the datasets apart by their metadata and by name, size and time of change of their other files,
    wherever they lie: to read gigabytes at every start would take longer than to start. A copy that does not keep the
    times is another dataset.
    """
    key = hashlib.blake2b(_FORMAT.encode(), digest_size=16)
    for dataset in datasets:
        path = Path(dataset.spec.data_path)
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            if file.name == "metadata.json":
                key.update(file.read_bytes())
            else:
                state = file.stat()
                key.update(f"{file.relative_to(path)}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    folder = cache_dir / key.hexdigest()
    built(folder, folder, lambda target: _write_arrays(datasets, target))
    return folder


def built(path: Path, folder: Path, write: Callable[[Path], None]) -> None:
    """Have a file or a folder written, if it is not there: the cache's folder, or something in it.

    It is written beside the cache's folder and renamed, under a lock: a second process waits, and an interrupted build
    leaves nothing that looks whole. What a killed one left is removed by the next that builds anything.

    Raises:
        ValueError: If the disk is full.
    """
    if path.exists():
        return
    cache_dir = folder.parent
    cache_dir.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(cache_dir)
    with FileLock(f"{folder}.lock"):
        if path.exists():
            return
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}{_BUILDING}", dir=cache_dir))
        try:
            target = building / path.name
            write(target)
            for file in (target, *target.rglob("*")):
                if file.is_file():
                    _sync(file)
            target.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(cache_dir).free / 1e6
            raise ValueError(
                f"no space is left in {cache_dir} to build the datasets' cache, {free:.0f} MB are free: "
                "make room, or name a folder on another disk: --data.cache_dir FOLDER"
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _remove_leftovers(cache_dir: Path) -> None:
    """Remove half-built folders that no living process is building: nobody holds their lock."""
    for building in cache_dir.glob(f"*{_BUILDING}*"):
        lock = FileLock(cache_dir / f"{building.name.split(_BUILDING)[0]}.lock", timeout=0)
        with suppress(Timeout, OSError), lock:
            shutil.rmtree(building, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the disk hold what was written, or a power cut could leave the new name with nothing in it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def appended(path: Path, *shape: int) -> Iterator[BinaryIO]:
    """Open a new npy file of float32, whose numbers are then written one after the other.

    Mapped memory would count as this process's until the disk has it, and a full disk would kill the process.
    """
    with path.open("wb") as file:
        header = {"descr": dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        write_array_header_1_0(file, header)
        yield file


def _write_arrays(datasets: Sequence[minari.MinariDataset], folder: Path) -> None:
    folder.mkdir()
    per_dataset = np.array([dataset.total_episodes for dataset in datasets], dtype=np.int64)
    count = sum(int(dataset.total_steps) for dataset in datasets) + int(per_dataset.sum())
    action_space = datasets[0].action_space
    width = spaces.flatdim(action_space) + spaces.flatdim(datasets[0].observation_space)
    # After the end nothing is done; where the bounds exclude zero, as little as they allow.
    rest = np.clip(np.zeros(action_space.shape), action_space.low, action_space.high).reshape(1, -1)
    lengths, terminated = [], []
    written = 0
    quiet = not Console().is_terminal
    with appended(folder / "rows.npy", count, width) as rows, appended(folder / "rewards.npy", count) as rewards:
        for episode, dataset in track(_episodes(datasets), "Caching episodes", int(per_dataset.sum()), disable=quiet):
            steps = len(episode.actions)
            actions = np.concatenate([_flatten(action_space, episode.actions), rest])
            observations = _flatten(dataset.observation_space, episode.observations)
            _check_episode(f"episode {episode.id} of {dataset.id}", actions[:-1], observations, episode)
            written += steps + 1
            if written > count:
                raise ValueError(
                    f"dataset {dataset.id} holds more steps than its metadata says ({dataset.total_steps})"
                )
            rows.write(np.concatenate([actions, observations], axis=1, dtype=np.float32).tobytes())
            rewards.write(np.append(episode.rewards, 0).astype(np.float32).tobytes())
            lengths.append(steps)
            terminated.append(bool(episode.terminations[-1]))
    if written != count:
        raise ValueError(f"{[d.id for d in datasets]} hold {written} rows, their metadata says {count}")
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int64))
    np.save(folder / "terminated.npy", np.array(terminated, dtype=bool))
    np.save(folder / "per_dataset.npy", per_dataset)


def _episodes(
    datasets: Sequence[minari.MinariDataset],
) -> Iterator[tuple[minari.EpisodeData, minari.MinariDataset]]:
    for dataset in datasets:
        indices = dataset.episode_indices
        for first in range(0, len(indices), _OPEN):
            for episode in dataset.iterate_episodes(indices[first : first + _OPEN]):
                yield episode, dataset


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
        np.load(folder / "per_dataset.npy"),
    )
