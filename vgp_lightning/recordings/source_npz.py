"""Recordings in NumPy's npz: flat arrays of many episodes, one episode a file, or as OGBench writes them.

Nothing is unpickled.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vgp_lightning.recordings.source import Column, Format, Piece, Source

# What OGBench's files hold, and no rewards: these are computed for a goal.
_OF_OGBENCH = {"observations", "actions", "terminals", "masks", "qpos", "qvel", "button_states"}


def recognise_npz(path: Path) -> Format:
    """Return whether a file is one of OGBench's: observations, actions, terminals, and nothing that these lack."""
    keys = set(_columns(path))
    return "ogbench" if {"observations", "actions", "terminals"} <= keys <= _OF_OGBENCH else "npz"


def open_npz(path: Path) -> Source:
    """Find the flat arrays of one file."""
    return Source(path, "npz", [Piece(path.name, _columns(path))])


def open_ogbench(path: Path) -> Source:
    """Find the arrays of one file; ``terminals`` mark the last row of a trajectory, whose action leads nowhere."""
    note = (
        "OGBench's layout: terminals mark the ends of trajectories, which are truncations (--format npz reads them as "
        "terminal states)"
    )
    return Source(path, "ogbench", [Piece(path.name, _columns(path))], ends_in_observation=True, notes=[note])


def open_npz_folder(path: Path, files: Sequence[Path]) -> Source:
    """Find the arrays of files that hold one episode each."""
    return Source(path, "npz", [Piece(file.name, _columns(file)) for file in files], is_episode=True)


def _columns(path: Path) -> dict[str, Column]:
    """Return the arrays of a file by its headers: no numbers are read."""
    columns = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = npy.read_magic(member)
                    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                    shape, _, dtype = header(member)
                key = name.removesuffix(".npy")
                columns[key] = Column(shape, dtype, _reader(path, key))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as npz: {error}. Write it by numpy.savez") from error
    return columns


def _reader(path: Path, key: str) -> Any:
    def read() -> NDArray[Any]:
        with np.load(path, allow_pickle=False) as file:
            numbers: NDArray[Any] = file[key]
            return numbers

    return read
