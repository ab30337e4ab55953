"""Minari datasets -> flat memory-mapped arrays in a cache.

Shapes: D datasets, E episodes of n steps, A action and O observation dimensions, T = A + O, all in physical units.

An episode of n steps has n + 1 rows (T,): the action and observation of each step, then the final observation with the
zero action (where the bounds exclude zero: the action nearest to it).
"""

import difflib
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import minari
import numpy as np
from filelock import FileLock
from gymnasium import spaces
from minari.storage import get_dataset_path
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from vgp_lightning.data.building import built, explained
from vgp_lightning.data.metadata import check_metadata
from vgp_lightning.data.reading import Recording, check_files, data_folder, read

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
        ValueError: If the dataset is missing, its metadata are damaged or hostile, or a package that its format needs
            is missing.
    """
    try:
        if download_lock is None:
            return _load_checked(dataset_id)
        with explained(download_lock.parent):
            download_lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(download_lock):  # what fails below is not the cache's fault
                pass
        with FileLock(download_lock):
            if not (dataset_path(dataset_id) / "data").exists():
                minari.download_dataset(dataset_id)
            return _load_checked(dataset_id)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(dataset_id, minari.list_local_datasets(), n=3, cutoff=0.4)
        raise ValueError(
            f"dataset {dataset_id!r} is not in {dataset_path()} (set MINARI_DATASETS_PATH to look elsewhere). "
            + (f"Did you mean {', '.join(near)}? " if near else "")
            + f"Download it: minari download {dataset_id} (vgp fit does with --data.download true), or collect one: "
            "vgp collect --help"
        ) from error
    except ImportError as error:
        raise ValueError(
            f"dataset {dataset_id!r} needs another package for its format or its download ({error}): install it, such "
            'as by pip install "minari[arrow]"'
        ) from error


def _load_checked(dataset_id: str) -> minari.MinariDataset:
    """Open a dataset after its metadata have been checked."""
    if (dataset_path(dataset_id) / "data").exists():
        check_metadata(dataset_path(dataset_id))
    return minari.load_dataset(dataset_id)


# The next two functions, and reading.py for MinariDataset.storage, are the only users of two names that Minari's
# documentation does not list (as of 0.5.4): get_dataset_path and MinariDataset.storage. Nothing documented tells where
# a dataset lies, or returns the metadata of an open one. A test says when they are gone.


def dataset_path(dataset_id: str = "") -> Path:
    """Return the folder of a dataset, whether it exists or not, or the folder of all datasets."""
    path: Path = get_dataset_path(dataset_id)
    return path


def metadata(dataset: minari.MinariDataset) -> dict[str, Any]:
    """Return a dataset's metadata, such as the specification of its environment and reference scores."""
    found: dict[str, Any] = dataset.storage.metadata
    return found


def cache_folder(given: str | None) -> Path:
    """Return the folder of all caches.

    Args:
        given: The user's choice; None: ``$XDG_CACHE_HOME/vgp_lightning`` or ``~/.cache/vgp_lightning``.

    Raises:
        ValueError: If there is no home folder.
    """
    try:
        root = given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vgp_lightning"
        return Path(root).expanduser()
    except RuntimeError as error:  # a user without a home folder
        raise ValueError(
            f"there is no place for the datasets' cache ({error}): set XDG_CACHE_HOME=FOLDER, or, for vgp fit, give "
            "--data.cache_dir FOLDER"
        ) from error


def cached(datasets: Sequence[minari.MinariDataset], cache_dir: Path) -> Path:
    """Return the folder of the datasets' flat arrays. Build it if it is missing or damaged.

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
        path = data_folder(dataset)
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            if file.name == "metadata.json":
                key.update(file.read_bytes())
            else:
                state = file.stat()
                key.update(f"{file.relative_to(path)}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    folder = cache_dir / key.hexdigest()
    files = [f"{name}.npy" for name in Episodes._fields]
    built(folder, folder, lambda target: _write_arrays(datasets, target), files)
    return folder


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
    for dataset in datasets:
        check_files(dataset)
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
        for episode, dataset in track(_recordings(datasets), "Caching episodes", int(per_dataset.sum()), disable=quiet):
            written += len(episode.observations)
            if written > count:
                raise ValueError(
                    f"dataset {dataset.id} has more steps than its metadata say ({dataset.total_steps}). "
                    "Collect or download the dataset again"
                )
            actions = np.concatenate([episode.actions, zero_action])
            rows.write(np.concatenate([actions, episode.observations], axis=1, dtype=np.float32).tobytes())
            rewards.write(np.append(episode.rewards, 0).astype(np.float32).tobytes())
            lengths.append(len(episode.rewards))
            terminated.append(episode.terminated)
    if written != count:
        expected = ", ".join(f"{dataset.id} {dataset.total_steps}" for dataset in datasets)
        raise ValueError(
            f"{count - written} steps are missing of those that the datasets' metadata say ({expected}). Collect or "
            "download the dataset again"
        )
    _save(folder / "lengths.npy", np.array(lengths, dtype=np.int64))
    _save(folder / "terminated.npy", np.array(terminated, dtype=bool))
    _save(folder / "per_dataset.npy", per_dataset)


def _save(path: Path, values: NDArray[Any]) -> None:
    """Write a small array. On a full disk np.save raises an error that does not say so."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    path.write_bytes(buffer.getvalue())


def _recordings(datasets: Sequence[minari.MinariDataset]) -> Iterator[tuple[Recording, minari.MinariDataset]]:
    for dataset in datasets:
        for recording in read(dataset):
            yield recording, dataset


def load(folder: Path) -> Episodes:
    """Open the arrays in a folder that ``cached`` has returned."""
    return Episodes(
        np.load(folder / "rows.npy", mmap_mode="r"),
        np.load(folder / "rewards.npy", mmap_mode="r"),
        np.load(folder / "lengths.npy"),
        np.load(folder / "terminated.npy"),
        np.load(folder / "per_dataset.npy"),
    )
