"""Minari datasets -> flat memory-mapped arrays in a cache. Episodes are checked on the way.

Shapes: D datasets, E episodes of n steps, A action and O observation dimensions, T = A + O, all in physical units.

An episode of n steps has n + 1 rows (T,): the action and observation of each step, then the final observation with the
zero action (where the bounds exclude zero: the action nearest to it).
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

from vgp_lightning.data.metadata import check_metadata
from vgp_lightning.data.spaces import flatten

_BUILDING = ".building-"
_OPEN = 100  # episodes read before the file is opened again: until then HDF5 keeps 28 kB for each
_FORMAT = "2"  # version of the cached arrays; part of the cache's keys


class Episodes(NamedTuple):
    """A dataset's episodes on disk; the arrays are memory-mapped."""

    rows: NDArray[np.float32]  # (sum of n + 1, T)
    rewards: NDArray[np.float32]  # (sum of n + 1,), zero in an episode's last row
    lengths: NDArray[np.int64]  # (E,), steps n of each episode
    terminated: NDArray[np.bool_]  # (E,), False: the episode was truncated
    per_dataset: NDArray[np.int64]  # (D,), number of episodes of each dataset


def open_dataset(dataset_id: str, download_lock: Path | None = None) -> minari.MinariDataset:
    """Open a Minari dataset, whose metadata are read and no episode.

    Args:
        dataset_id: ``(namespace/)name-vN``.
        download_lock: Download a missing dataset, while holding this lock file: other processes wait. It must lie in a
            folder of this user, since another user's lock file cannot be opened. None: do not download.

    Raises:
        ValueError: If the dataset is missing, or its metadata are damaged or hostile.
    """
    try:
        if download_lock is None:
            return _load_checked(dataset_id)
        download_lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(download_lock):
            if not (dataset_path(dataset_id) / "data").exists():
                minari.download_dataset(dataset_id)
            return _load_checked(dataset_id)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(dataset_id, minari.list_local_datasets(), n=3, cutoff=0.4)
        raise ValueError(
            f"dataset {dataset_id!r} is not in {dataset_path()} (set MINARI_DATASETS_PATH to look elsewhere). "
            + (f"Did you mean {', '.join(near)}? " if near else "")
            + f"Download it: minari download {dataset_id} (or --data.download true), or collect one: vgp collect --help"
        ) from error


def _load_checked(dataset_id: str) -> minari.MinariDataset:
    """Open a dataset after its metadata have been checked."""
    if (dataset_path(dataset_id) / "data").exists():
        check_metadata(dataset_path(dataset_id))
    return minari.load_dataset(dataset_id)


# The next two functions are the only users of two names that Minari's documentation does not list (as of 0.5.4):
# get_dataset_path and MinariDataset.storage. Nothing documented tells where a missing dataset would lie, or returns the
# metadata of an open one. A test says when they are gone.


def dataset_path(dataset_id: str = "") -> Path:
    """Return the folder of a dataset, whether it exists or not, or the folder of all datasets."""
    path: Path = get_dataset_path(dataset_id)
    return path


def metadata(dataset: minari.MinariDataset) -> dict[str, Any]:
    """Return a dataset's metadata, such as the specification of its environment and reference scores."""
    found: dict[str, Any] = dataset.storage.metadata
    return found


def cached(datasets: Sequence[minari.MinariDataset], cache_dir: Path) -> Path:
    """Return the folder of the datasets' flat arrays. Build it if it is missing.

    Its name is a hash of the datasets' metadata and of name, size and modification time of their other files; it does
    not depend on where they lie. Hashing the contents would mean reading gigabytes at every start. A copy with other
    modification times counts as another dataset.

    Args:
        datasets: With the same spaces.
        cache_dir: The folder of all caches.

    Raises:
        ValueError: If an episode is invalid, or the disk is full.
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
    """Build a file or folder of the cache atomically, if it does not exist.

    It is built beside the cache's folder and then renamed. A lock makes other processes wait. What the build of a
    killed process left is removed by the next build.

    Args:
        path: To build: the cache's folder, or a file in it.
        folder: The cache's folder.
        write: Writes the file or folder to the path that it is given.

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
                "free some, or choose a folder on another disk: --data.cache_dir FOLDER"
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _remove_leftovers(cache_dir: Path) -> None:
    """Remove unfinished builds of processes that are gone: nobody holds their lock."""
    for building in cache_dir.glob(f"*{_BUILDING}*"):
        lock = FileLock(cache_dir / f"{building.name.split(_BUILDING)[0]}.lock", timeout=0)
        with suppress(Timeout, OSError), lock:
            shutil.rmtree(building, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file to the disk. Otherwise a power failure after the renaming could leave it empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def appended(path: Path, *shape: int) -> Iterator[BinaryIO]:
    """Open a new npy file of float32 numbers of a known shape, to be written in sequence.

    Writing by a memory map would count as memory of this process until it is on the disk, and a full disk would kill
    the process.
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
    zero_action = np.clip(np.zeros(action_space.shape), action_space.low, action_space.high).reshape(1, -1)
    lengths, terminated = [], []
    written = 0
    quiet = not Console().is_terminal
    with appended(folder / "rows.npy", count, width) as rows, appended(folder / "rewards.npy", count) as rewards:
        for episode, dataset in track(_episodes(datasets), "Caching episodes", int(per_dataset.sum()), disable=quiet):
            steps = len(episode.actions)
            actions = np.concatenate([flatten(action_space, episode.actions), zero_action])
            observations = flatten(dataset.observation_space, episode.observations)
            _check_episode(f"episode {episode.id} of {dataset.id}", actions[:-1], observations, episode)
            written += steps + 1
            if written > count:
                raise ValueError(
                    f"dataset {dataset.id} has more steps than its metadata say ({dataset.total_steps}): "
                    "download or collect it again"
                )
            rows.write(np.concatenate([actions, observations], axis=1, dtype=np.float32).tobytes())
            rewards.write(np.append(episode.rewards, 0).astype(np.float32).tobytes())
            lengths.append(steps)
            terminated.append(bool(episode.terminations[-1]))
    if written != count:
        expected = ", ".join(f"{dataset.id} {dataset.total_steps}" for dataset in datasets)
        raise ValueError(
            f"{count - written} steps are missing of those that the datasets' metadata say ({expected}): download or "
            "collect the dataset again"
        )
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
    """Check what Minari does not check when it writes."""
    steps = len(actions)
    if steps == 0:
        raise ValueError(f"{name} has no steps: remove it from the dataset")
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
        with np.errstate(over="ignore"):  # a number that is too large for float32 would be infinite in the cache
            finite = np.isfinite(values.astype(np.float32))
        if not finite.all():
            step = int(np.argwhere(~finite)[0, 0])
            raise ValueError(
                f"{name} has {part} that are not finite in float32, first at step {step}: {values[step]}. Correct the "
                "episode, or remove it from the dataset"
            )


def load(folder: Path) -> Episodes:
    """Open the arrays in a folder that ``cached`` has returned."""
    return Episodes(
        np.load(folder / "rows.npy", mmap_mode="r"),
        np.load(folder / "rewards.npy", mmap_mode="r"),
        np.load(folder / "lengths.npy"),
        np.load(folder / "terminated.npy"),
        np.load(folder / "per_dataset.npy"),
    )
