"""Recordings in HDF5: files as D4RL writes them (flat arrays), and as robomimic does (a group for each demonstration).

No link out of the file is followed, since the file may come from a stranger.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
from numpy.typing import NDArray

from vgp_lightning.data.hdf5 import check_memory, member
from vgp_lightning.recordings.source import Column, Format, Piece, Source, in_natural_order


def recognise_hdf5(path: Path) -> Format:
    """Return which of the two layouts a file has.

    Raises:
        ValueError: If it is no HDF5 file, or has neither.
    """
    with _opened(path) as file:
        keys = list(file)
        if isinstance(member(file, "data", path.name) if "data" in keys else None, h5py.Group):
            return "robomimic"
        if any(key.startswith("episode_") for key in keys):
            raise ValueError(
                f"{path} has groups {keys[0]}, ...: this is the file of a Minari dataset, which needs no import. Put "
                "its folder into the folder of MINARI_DATASETS_PATH"
            )
        if "actions" not in keys and not any(isinstance(member(file, key, path.name), h5py.Dataset) for key in keys):
            raise ValueError(
                f"{path} has the keys {', '.join(keys[:8]) or 'none'}: neither flat arrays (D4RL) nor data/demo_0, ... "
                "(robomimic). Read it in Python and use vgp_lightning.data.write_episodes"
            )
    return "d4rl"


def open_d4rl(path: Path) -> Source:
    """Find the flat arrays of a file; ``metadata`` and ``infos`` can be named too, such as ``infos/qpos``."""
    with _opened(path) as file:
        columns = dict(_columns(file, path, ""))
    if not columns:
        raise ValueError(f"{path} has no arrays: D4RL's layout has observations, actions, rewards and terminals")
    return Source(path, "d4rl", [Piece(path.name, columns)])


def open_robomimic(path: Path) -> Source:
    """Find the demonstrations of a file, each an episode."""
    with _opened(path) as file:
        data = member(file, "data", path.name)
        if not isinstance(data, h5py.Group):
            raise ValueError(f"{path} has no group data: robomimic's layout has data/demo_0, data/demo_1, ...")
        pieces = []
        for name in in_natural_order(list(data)):
            group = member(data, name, path.name)
            if isinstance(group, h5py.Group):
                columns = dict(_columns(group, path, f"data/{name}/"))
                pieces.append(Piece(name, {key.removeprefix(f"data/{name}/"): columns[key] for key in columns}))
        if not pieces:
            raise ValueError(f"{path} has no groups in data: robomimic's layout has data/demo_0, data/demo_1, ...")
        rate = _control_rate(data.attrs.get("env_args"))
    if not any(key.startswith("obs/") for key in pieces[0].columns):
        raise ValueError(
            f"{path} has no obs in {pieces[0].name}: extract observations by robomimic's dataset_states_to_obs.py"
        )
    return Source(path, "robomimic", pieces, is_episode=True, step_rate=rate)


def _opened(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5: {' '.join(str(error).split())}") from error


def _columns(group: h5py.Group, path: Path, prefix: str) -> Iterator[tuple[str, Column]]:
    """Yield the arrays in a group and its groups, by their paths in the file."""
    for key in group:
        found = member(group, key, path.name)
        if isinstance(found, h5py.Group):
            yield from _columns(found, path, f"{prefix}{key}/")
        elif isinstance(found, h5py.Dataset) and found.shape:
            yield f"{prefix}{key}", Column(tuple(found.shape), found.dtype, _reader(path, f"{prefix}{key}"))


def _reader(path: Path, key: str) -> Any:
    def read() -> NDArray[Any]:
        with _opened(path) as file:
            array = file[key]
            check_memory(f"{path.name}: {key}", [array])
            numbers: NDArray[Any] = array[()]
            return numbers

    return read


def _control_rate(env_args: Any) -> float | None:
    """Return the steps per second that robomimic's description of the environment has, if it has them."""
    try:
        rate = json.loads(env_args)["env_kwargs"]["control_freq"]
    except (TypeError, ValueError, KeyError):
        return None
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None
