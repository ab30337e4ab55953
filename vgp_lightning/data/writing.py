"""Episodes -> a Minari dataset, written elsewhere and renamed: a failure or a kill leaves none.

Shapes: n steps of an episode, O observation and A action dimensions, both flat, in physical units.
"""

import errno
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium.spaces import Space
from minari.data_collector import EpisodeBuffer
from minari.namespace import create_namespace, list_local_namespaces

from vgp_lightning.data.cache import dataset_path
from vgp_lightning.data.spaces import unflatten

# What HDF5 adds to the numbers, at most: in all, and for each episode, whose arrays have headers and whole chunks.
_FILE_BYTES, _EPISODE_BYTES = 1 << 18, 1 << 14
# Minari finds out that an id is malformed after it has made a folder of that name, so it is checked here.
_DATASET_ID = re.compile(r"([-\w][-\w/]*[-\w]/)?[-\w]+-v\d+")


def free_path(dataset_id: str) -> Path:
    """Return the folder in which a new dataset will be stored.

    Args:
        dataset_id: ``(namespace/)name-vN``.

    Raises:
        ValueError: If the id is malformed, or the folder exists.
    """
    if not _DATASET_ID.fullmatch(dataset_id):
        raise ValueError(
            f"dataset id {dataset_id!r} is malformed: it must be (namespace/)name-vN, such as demo/hopper-v0, "
            "of letters, digits, - and _; a namespace has at least 2 of them"
        )
    path = dataset_path(dataset_id)
    if path.exists():
        raise ValueError(
            f"dataset {dataset_id!r} already exists in {path}: choose another id, "
            f"or remove it by: minari delete {dataset_id}"
        )
    return path


def write_dataset(
    dataset_id: str,
    episodes: Sequence[EpisodeBuffer],
    environment: gymnasium.Env[Any, Any] | None,
    *,
    spaces: tuple[Space[Any], Space[Any]] | None = None,
    algorithm_name: str,
    description: str,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
    building: Path | None = None,
) -> minari.MinariDataset:
    """Write episodes as a new Minari dataset. It is written in another folder, and moved when it is complete.

    Args:
        dataset_id: ``(namespace/)name-vN``; the dataset must not exist.
        episodes: Flat observations (n + 1, O), flat actions (n, A), and n rewards, terminations and truncations each.
        environment: Its specification is stored, and its spaces give observations and actions their structure. None:
            no environment is named.
        spaces: Spaces of observations and actions; default: those of the environment.
        algorithm_name: Name of the behaviour policy.
        description: How the dataset was made.
        ref_min_score: The return that is a normalised score of 0.
        ref_max_score: The return that is a normalised score of 100.
        building: Folder to write in, on the same disk; it is emptied before and removed afterwards. None: a new one
            beside the dataset.

    Raises:
        ValueError: If the id is malformed, or the dataset exists, also where another process has written it meanwhile.
        OSError: If the disk has too little space.
    """
    path = free_path(dataset_id)
    if spaces is None:
        if environment is None:
            raise ValueError("neither an environment nor spaces: one of them is needed")
        spaces = environment.observation_space, environment.action_space
    if building is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{path.name}.building-", dir=path.parent))
    else:
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
        building.mkdir(parents=True)
    try:
        _reserve(building, episodes)
        with _datasets_in(building), warnings.catch_warnings():
            # Minari asks for author, e-mail and a link to code; a user's own collection needs none of them.
            warnings.filterwarnings("ignore", message="`(author|author_email|code_permalink|eval_env)` is set to None")
            warnings.filterwarnings("ignore", message="env_spec is None")
            minari.create_dataset_from_buffers(
                dataset_id,
                [_unflatten_episode(episode, *spaces) for episode in episodes],
                env=environment,
                eval_env=environment,
                observation_space=spaces[0],
                action_space=spaces[1],
                algorithm_name=algorithm_name,
                description=description,
                ref_min_score=ref_min_score,
                ref_max_score=ref_max_score,
            )
        _move(dataset_id, building / dataset_id, path)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return minari.load_dataset(dataset_id)


@contextmanager
def _datasets_in(folder: Path) -> Iterator[None]:
    """Let Minari write into a folder in place of the one for all datasets."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _reserve(folder: Path, episodes: Sequence[EpisodeBuffer]) -> None:
    """Check that the disk, and the limits on a file's size, have room for the dataset.

    HDF5 ends the whole process (SIGSEGV) where it cannot write. So a file of at least the dataset's size is made by
    the operating system first, which says what is wrong, and removed again.

    Raises:
        OSError: If there is no room.
    """
    size = _FILE_BYTES
    for episode in episodes:
        arrays = (episode.observations, episode.actions, episode.rewards, episode.terminations, episode.truncations)
        size += _EPISODE_BYTES + sum(np.asarray(array).nbytes for array in arrays)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            free = shutil.disk_usage(folder).free
            raise OSError(
                error.errno,
                f"{error.strerror}: the dataset needs up to {size / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free; no "
                "dataset is written",
                str(folder),
            ) from error


def _move(dataset_id: str, built: Path, path: Path) -> None:
    """Move a complete dataset to its place, where Minari finds it.

    Raises:
        ValueError: If there is one by now.
    """
    namespace = dataset_id.rpartition("/")[0]
    if namespace and namespace not in list_local_namespaces():
        with suppress(ValueError):  # another process has made it meanwhile
            create_namespace(namespace)
    try:
        built.rename(path)  # fails where there is a folder that is not empty
    except OSError:
        free_path(dataset_id)
        raise


def _unflatten_episode(
    episode: EpisodeBuffer, observation_space: Space[Any], action_space: Space[Any]
) -> EpisodeBuffer:
    """Return the episode with the structure of observations and actions that their spaces have."""
    return replace(
        episode,
        observations=unflatten(observation_space, np.stack(episode.observations)),
        actions=unflatten(action_space, np.stack(episode.actions)),
    )
