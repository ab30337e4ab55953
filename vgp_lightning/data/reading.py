"""The episodes of a Minari dataset, each checked before memory is taken for it and again when it has been read.

Shapes: n steps of an episode, A action and O observation dimensions, in physical units.

Minari checks little when it writes, and a dataset may come from a stranger. HDF5 files are therefore read here by h5py:
an array whose numbers lie in another file, or that is far larger than what is stored, is refused before it is read, and
``infos``, which training does not use, are not read at all. Datasets in other formats are read by Minari.
"""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py  # type: ignore[import-untyped]
import minari
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vgp_lightning.data.hdf5 import CURE, check_memory, is_too_large, member, readable
from vgp_lightning.data.spaces import one_line
from vgp_lightning.data.wording import say_first

_FILE = "main_data.hdf5"
_OPEN = 100  # episodes read before the file is opened again: until then HDF5 keeps 28 kB for each
_VECTORS = ("rewards", "terminations", "truncations")
# Share of the range of an action by which it may exceed its bounds: some public datasets do so by rounding.
_OVERSHOOT = 1e-3


class Recording(NamedTuple):
    """One recorded episode of finite numbers."""

    name: str  # number and dataset, for messages
    actions: NDArray[np.floating]  # (n, A)
    observations: NDArray[np.floating]  # (n + 1, O)
    rewards: NDArray[np.floating]  # (n,)
    terminated: bool  # False: the episode was truncated
    goes_on: bool  # whether steps follow one that terminates


def data_folder(dataset: minari.MinariDataset) -> Path:
    """Return the folder in which the files of a dataset lie."""
    return Path(dataset.storage.data_path)


def check_files(dataset: minari.MinariDataset) -> None:
    """Check that the files of a dataset could hold what its metadata say.

    Raises:
        ValueError: If the steps would take far more space than the files, or a file has another number of episodes.
    """
    size = sum(file.stat().st_size for file in data_folder(dataset).rglob("*") if file.is_file())
    dimensions = spaces.flatdim(dataset.action_space) + spaces.flatdim(dataset.observation_space)
    declared = dataset.total_steps * dimensions * np.dtype(np.float32).itemsize
    if is_too_large(declared, size):
        raise ValueError(
            f"dataset {dataset.id} has {dataset.total_steps} steps by its metadata.json, which would take "
            f"{declared / 1e9:.1f} GB, but its files have {size / 1e6:.3f} MB. Collect or download the dataset again"
        )
    if dataset.storage.FORMAT == "hdf5":
        _check_number_of_episodes(dataset)


def _check_number_of_episodes(dataset: minari.MinariDataset) -> None:
    with _opened(dataset) as file, readable(f"{_FILE} of dataset {dataset.id}"):
        found = sum(re.fullmatch(r"episode_\d+", key) is not None for key in file)
    if found != dataset.total_episodes:
        raise ValueError(
            f"dataset {dataset.id} has {found} episodes in {_FILE}, but {dataset.total_episodes} by its metadata.json; "
            "perhaps its collection was interrupted. Collect or download the dataset again"
        )


def read(dataset: minari.MinariDataset) -> Iterator[Recording]:
    """Yield the episodes of a dataset.

    Warns:
        UserWarning: If episodes have steps after one that terminates.

    Raises:
        ValueError: If an episode is invalid; the message has its number and the array.
    """
    going_on = []
    for number, arrays in _in_hdf5(dataset) if dataset.storage.FORMAT == "hdf5" else _by_minari(dataset):
        recording = _checked(f"episode {number} of {dataset.id}", arrays, dataset)
        if recording.goes_on:
            going_on.append(number)
        yield recording
    if going_on:
        warnings.warn(
            f"{len(going_on)} of {dataset.total_episodes} episodes of dataset {dataset.id} have steps after one that "
            f"terminates, first episode {going_on[0]}: their returns add up the rewards of all steps. Divide them if "
            "several episodes were joined",
            stacklevel=2,
        )


def _in_hdf5(dataset: minari.MinariDataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and arrays of each episode, as objects of h5py that have not been read."""
    indices = dataset.episode_indices.tolist()
    for first in range(0, len(indices), _OPEN):
        with _opened(dataset) as file:
            for index in indices[first : first + _OPEN]:
                name = f"episode {index} of {dataset.id}"
                group = member(file, f"episode_{index}", name)
                if group is None:
                    raise ValueError(
                        f"{name} is missing: {_FILE} has no group episode_{index}. Collect or download the dataset "
                        "again, or correct total_episodes in its metadata.json"
                    )
                keys = ("observations", "actions", *_VECTORS)
                if not isinstance(group, h5py.Group):
                    raise ValueError(f"{name} is one array: a group of {', '.join(keys)} is needed. {CURE}")
                yield index, {key: member(group, key, name) for key in keys}


def _by_minari(dataset: minari.MinariDataset) -> Iterator[tuple[int, dict[str, Any]]]:
    indices = dataset.episode_indices.tolist()
    for first in range(0, len(indices), _OPEN):
        few = indices[first : first + _OPEN]
        with readable(f"episode {few[0]} of {dataset.id}"):
            episodes = dataset.iterate_episodes(few)
        for index in few:
            with readable(f"episode {index} of {dataset.id}"):
                episode = next(episodes)
            yield index, vars(episode)


@contextmanager
def _opened(dataset: minari.MinariDataset) -> Iterator[h5py.File]:
    path = data_folder(dataset) / _FILE
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"dataset {dataset.id} has no file {path}. Collect or download the dataset again")
    with readable(f"{_FILE} of dataset {dataset.id}"):
        file = h5py.File(path, "r")
    with file:
        yield file


def _parts(stored: Any, name: str) -> dict[str, Any] | None:
    """Return the parts of something that is no array, by Minari's names; None: it is an array."""
    if isinstance(stored, h5py.Group):
        with readable(f"{name}: {stored.name}"):
            keys = list(stored)
        return {key: member(stored, key, name) for key in keys}
    if isinstance(stored, tuple):
        return {f"_index_{number}": part for number, part in enumerate(stored)}
    return stored if isinstance(stored, dict) else None


def _boxes(space: spaces.Space[Any], stored: Any, key: str, name: str) -> Iterator[tuple[str, spaces.Space[Any], Any]]:
    """Yield name, space and array of each Box in a space, in the order of ``gymnasium.spaces.flatten``."""
    parts = _parts(stored, name)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        expected = space.spaces if isinstance(space, spaces.Dict) else _parts(space.spaces, name) or {}
        if parts is None:
            raise ValueError(f"{name}: {key} is one array, but its space has the parts {say_first(expected)}. {CURE}")
        for problem, keys in (("lacks", expected.keys() - parts.keys()), ("has also", parts.keys() - expected.keys())):
            if keys:
                raise ValueError(
                    f"{name}: {key} {problem} {say_first(sorted(keys))}; "
                    f"its space has the parts {say_first(expected)}. {CURE}"
                )
        for part, box in expected.items():
            yield from _boxes(box, parts[part], f"{key}/{part}", name)
    elif parts is not None:
        raise ValueError(
            f"{name}: {key} is a group of {say_first(parts)}, but its space is {one_line(space)}, one array. {CURE}"
        )
    else:
        yield key, space, stored


def _checked(name: str, arrays: dict[str, Any], dataset: minari.MinariDataset) -> Recording:
    """Check the shapes and types of an episode's arrays, read them, and check the numbers."""
    for key in ("actions", "observations", *_VECTORS):
        if arrays.get(key) is None:
            raise ValueError(f"{name} has no {key}. {CURE}")
    actions = list(_boxes(dataset.action_space, arrays["actions"], "actions", name))
    observations = list(_boxes(dataset.observation_space, arrays["observations"], "observations", name))
    shape, _ = _shape_and_type(actions[0][2], f"{name}: actions")
    steps = (shape or (0,))[0]
    if steps == 0:
        raise ValueError(f"{name} has no steps: remove it from the dataset")
    if steps > dataset.total_steps:
        raise ValueError(
            f"{name} has {steps} steps, but the whole dataset has {dataset.total_steps} by its metadata.json. {CURE}"
        )
    for key, space, array in actions + observations:
        _check_array(name, key, array, steps, steps + key.startswith("observations"), space)
    for key in _VECTORS:
        if _parts(arrays[key], name) is not None:
            raise ValueError(f"{name}: {key} is a group: one array of shape ({steps},) is needed. {CURE}")
        _check_array(name, key, arrays[key], steps, steps, None)
    check_memory(name, [array for *_, array in actions + observations] + [arrays[key] for key in _VECTORS])

    flat = {}
    for key, found in (("actions", actions), ("observations", observations)):
        parts = [_numbers(array, f"{name}: {part}") for part, _, array in found]
        flat[key] = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    vectors = {key: _numbers(arrays[key], f"{name}: {key}") for key in _VECTORS}
    for key, values in (*flat.items(), ("rewards", vectors["rewards"])):
        check_finite(name, key, values)
    for key in ("terminations", "truncations"):
        wrong = ~np.isin(vectors[key], (0, 1))
        if wrong.any():
            step = int(wrong.argmax())
            raise ValueError(
                f"{name} has {key} that are neither true nor false, first at step {step}: {vectors[key][step]}. "
                f"Booleans, or the numbers 0 and 1, are needed. {CURE}"
            )
    check_bounds(name, flat["actions"], dataset.action_space)
    ended = vectors["terminations"].astype(bool)
    return Recording(
        name, flat["actions"], flat["observations"], vectors["rewards"], bool(ended[-1]), bool(ended[:-1].any())
    )


def _shape_and_type(array: Any, what: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with readable(what):  # h5py interprets both only here
        shape = getattr(array, "shape", None) or ()  # None: an array of h5py without a size
        return shape, getattr(array, "dtype", np.dtype(object))


def _check_array(name: str, key: str, array: Any, steps: int, length: int, box: Any) -> None:
    """Check length, shape and type of an array; without a Box it is one number for each step."""
    shape, kind = _shape_and_type(array, f"{name}: {key}")
    if shape and shape[0] != length:
        raise ValueError(f"{name} has {shape[0]} {key} for {steps} actions: {length} are needed. {CURE}")
    if not shape or (shape != (length,) if box is None else math.prod(shape[1:]) != math.prod(box.shape)):
        expected = (length,) if box is None else (length, *box.shape)
        space = "" if box is None else f", by its space {one_line(box)}"
        raise ValueError(f"{name} has {key} of shape {shape}: {expected} is needed{space}. {CURE}")
    if kind.kind not in "biuf":
        raise ValueError(f"{name} has {key} of type {kind}: real numbers or booleans are needed. {CURE}")


def _numbers(array: Any, what: str) -> NDArray[Any]:
    with readable(what):
        return np.asarray(array[()])


def check_finite(name: str, key: str, values: NDArray[Any]) -> None:
    """Refuse numbers that are not finite in float32, naming the first."""
    with np.errstate(over="ignore"):  # a number that is too large for float32 would be infinite in the cache
        finite = np.isfinite(values.astype(np.float32))
    if not finite.all():
        first = tuple(np.argwhere(~finite)[0])
        where = f"step {first[0]}" + (f", dimension {first[1]}" if len(first) > 1 else "")
        raise ValueError(
            f"{name} has {key} that are not finite in float32, first at {where}: {values[first]}. Correct the episode, "
            "or remove it from the dataset"
        )


def check_bounds(name: str, actions: NDArray[Any], space: spaces.Box) -> None:
    """Check the actions against the bounds of their space: a planner's actions will be clipped to these."""
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    size = np.maximum(np.where(np.isfinite(low), np.abs(low), 0), np.where(np.isfinite(high), np.abs(high), 0))
    with np.errstate(invalid="ignore"):
        margin = _OVERSHOOT * np.where(np.isfinite(high - low), high - low, np.maximum(size, 1))
    outside = (actions < low - margin) | (actions > high + margin)
    if outside.any():
        step, dimension = np.argwhere(outside)[0]
        raise ValueError(
            f"{name} has actions outside the bounds of the dataset's action space in {int(outside.any(axis=1).sum())} "
            f"of {len(actions)} steps, first at step {step}, dimension {dimension}: {actions[step, dimension]}, bounds "
            f"{low[dimension]} to {high[dimension]}. Store the actions as the environment takes them "
            "(numpy.clip(action, low, high)), or correct the action space"
        )
