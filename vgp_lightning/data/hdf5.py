"""HDF5 from strangers: members of a file that lie in it, and take no more memory than what is stored can stand for."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np

# The arrays of an episode may take 64 MiB, or 200 times the space that they take in the file. The most repetitive
# recordings (constant observations) compress about 100 times.
_FREE_BYTES = 1 << 26
_LARGEST_RATIO = 200
CURE = "Collect or download the dataset again, or remove the episode from it"


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Name what is damaged in errors of h5py and Minari, which are of any type and name neither dataset nor episode."""
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what} cannot be read: {words}. {CURE}") from error


def member(group: h5py.Group, key: str, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a member of a group; None: there is none.

    Args:
        group: The group.
        key: The member's name.
        name: The episode or dataset, for messages.

    Raises:
        ValueError: If it is not stored in this file.
    """
    with readable(f"{name}: {key}"):
        links, link = group.id.links, key.encode()
        if not links.exists(link):
            return None
        # Not group.get(key, getlink=True): that would open the file to which an external link points.
        if links.get_info(link).type == h5py.h5l.TYPE_HARD:
            found, target = group[key], None
            elsewhere = isinstance(found, h5py.Dataset) and (bool(found.external) or found.is_virtual)
        else:
            target = links.get_val(link)
    if target is not None:
        words = ":".join(part.decode(errors="replace") for part in np.atleast_1d(target))
        raise ValueError(f"{name}: {key} is a link to {words}, and links are not followed: copy the data to its place")
    if elsewhere:
        raise ValueError(
            f"{name}: the numbers of {key} lie in other files (external storage or a virtual dataset), which are not "
            "read: copy them into the dataset"
        )
    return found


def check_memory(name: str, arrays: list[Any]) -> None:
    """Check that arrays of h5py are not far larger than what is stored of them, as a bomb is.

    Args:
        name: The episode or dataset, for messages.
        arrays: They have not been read; those of other kinds are passed over.

    Raises:
        ValueError: If they are, or one was never written.
    """
    declared = stored = 0
    for array in arrays:
        if isinstance(array, h5py.Dataset):
            with readable(name):
                space = array.id.get_storage_size()
                numbers = max(array.size, math.prod(array.chunks or ()))  # a chunk is read as a whole
            if space == 0 and array.size:
                raise ValueError(f"{name}: {array.name} was never written. {CURE}")
            declared, stored = declared + numbers * array.dtype.itemsize, stored + space
    if is_too_large(declared, stored):
        raise ValueError(
            f"{name} would take {declared / 1e9:.3f} GB of memory, {declared // max(stored, 1)} times what is stored "
            f"of it, which no recording does: the file may be an attack. {CURE}"
        )


def is_too_large(declared: int, stored: int) -> bool:
    """Return whether so many bytes of memory are more than so many bytes in a file can stand for."""
    return declared > max(_FREE_BYTES, _LARGEST_RATIO * stored)
