"""A dataset's ``metadata.json``, checked before Minari reads it: somebody else may have written it.

Minari makes the environment of ``env_spec`` if a space is missing, which runs whatever code that names, and allocates
whatever ``total_episodes`` says.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 10_000_000  # bytes of metadata.json
MOST_NUMBERS = 1_000_000  # of one element of a space
_DEEPEST = 20  # levels of nesting of a space
_FORMATS = ("hdf5", "arrow", "parquet")
_DTYPE = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")
_EPISODE_BYTES = 100  # the least that an episode takes in any of the formats


def check_metadata(folder: Path) -> None:
    """Refuse a dataset whose metadata would make Minari run code, read another folder's files, or take much memory.

    Args:
        folder: The dataset's folder, which holds ``data/metadata.json``.

    Raises:
        ValueError: If it does. The message names the file and the key.
    """
    data = folder / "data"
    _refuse_links(folder, data)
    path = data / "metadata.json"
    metadata = _read(path)
    for key, kind in (
        ("total_episodes", int),
        ("total_steps", int),
        ("data_format", str),
        ("observation_space", str),
        ("action_space", str),
        ("dataset_id", str),
        ("minari_version", str),
    ):
        value = metadata.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            named = "has no" if value is None else f"has {value!r} as"
            raise ValueError(
                f"{path} {named} {key}: a {kind.__name__} is needed. Download or collect the dataset again"
            )
    if metadata["data_format"] not in _FORMATS:
        raise ValueError(f"{path} has data_format {metadata['data_format']!r}: it must be one of {', '.join(_FORMATS)}")
    size = sum(file.stat().st_size for file in data.rglob("*") if file.is_file())
    for key, most in (("total_episodes", size // _EPISODE_BYTES), ("total_steps", 10**10)):
        if not 0 <= metadata[key] <= most:
            raise ValueError(
                f"{path} says that {key} is {metadata[key]}: the dataset's files, of {size} bytes, hold at most {most}"
            )
    for key in ("observation_space", "action_space"):
        _check_space(_parse(path, key, metadata[key]), f"{path} has in {key}", 0)
    for key in ("env_spec", "eval_env_spec"):
        if (text := metadata.get(key)) is not None:
            spec = _parse(path, key, text)
            if not isinstance(spec.get("id"), str) or not isinstance(spec.get("additional_wrappers"), list):
                raise ValueError(f"{path} has an {key} without id or additional_wrappers: it is none of gymnasium's")
    for key in ("ref_min_score", "ref_max_score"):
        value = metadata.get(key)
        if value is not None and (not isinstance(value, int | float) or not math.isfinite(value)):
            raise ValueError(f"{path} has {key} {value!r}: it must be a finite number")


def _refuse_links(folder: Path, data: Path) -> None:
    root = Path(os.path.realpath(folder))
    for entry in [data, *data.rglob("*")]:
        if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
            raise ValueError(
                f"{entry} is a link to {os.path.realpath(entry)}, outside of the dataset: such links are not followed. "
                "Put a copy in its place, if you trust it"
            )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: download or collect the dataset again")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: at most {LARGEST} are read")
    try:
        return _parse_object(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON object: {error}") from error


def _parse(path: Path, key: str, text: Any) -> dict[str, Any]:
    """Return the JSON object that is the text of a key."""
    try:
        return _parse_object(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has an {key} that is no JSON object: {error}") from error


def _parse_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _check_space(space: Any, place: str, depth: int) -> None:
    """Refuse a space whose bounds do not fit its shape, or that is too large."""
    if not isinstance(space, dict) or not isinstance(space.get("type"), str) or depth > _DEEPEST:
        raise ValueError(f"{place} no space of gymnasium: {str(space)[:100]}")
    if space["type"] in ("Dict", "Tuple"):
        parts = space.get("subspaces")
        for part in parts.values() if isinstance(parts, dict) else parts if isinstance(parts, list) else [None]:
            _check_space(part, place, depth + 1)
    elif space["type"] == "Box":
        shape = space.get("shape")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"{place} a Box of shape {str(shape)[:100]}: a list of whole numbers is needed")
        if math.prod(shape) > MOST_NUMBERS:
            raise ValueError(f"{place} a Box of shape {shape}: at most {MOST_NUMBERS} numbers are supported")
        if not _DTYPE.fullmatch(str(space.get("dtype"))):
            raise ValueError(f"{place} a Box of dtype {space.get('dtype')!r}: integers or floats are needed")
        for bound in ("low", "high"):
            try:
                found = np.asarray(space.get(bound), dtype=np.float64).shape
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{place} a Box whose {bound} is no array of numbers: {error}") from error
            if found != tuple(shape):
                raise ValueError(f"{place} a Box of shape {shape} whose {bound} has the shape {list(found)}")
    elif space["type"] == "MultiBinary" and not (isinstance(space.get("n"), int) and space["n"] <= MOST_NUMBERS):
        raise ValueError(f"{place} a MultiBinary of {str(space.get('n'))[:100]}")
