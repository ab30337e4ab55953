"""Spaces whose elements are flat vectors of numbers, and elements with the structure of their space.

Shapes: n elements, D flat dimensions.
"""

from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

# Dimensions of a state; the largest in gymnasium is Humanoid's with 348. Minari takes 32 x 32 bytes for an image.
_LARGEST = 1000


def check_spaces(dataset: minari.MinariDataset, name: str) -> None:
    """Check that actions and observations can be flattened into one vector of numbers.

    Raises:
        ValueError: If actions are no Box, or observations no Box and no Dict or Tuple of Box, or they have no numbers
            or too many.
    """
    if not isinstance(dataset.action_space, spaces.Box):
        raise ValueError(f"dataset {name} has actions {one_line(dataset.action_space)}: only Box actions are supported")
    if not _is_boxes(dataset.observation_space):
        raise ValueError(
            f"dataset {name} has observations {one_line(dataset.observation_space)}: "
            "only Box, and Dict or Tuple of Box, is supported"
        )
    for what, space in (("actions", dataset.action_space), ("observations", dataset.observation_space)):
        size = spaces.flatdim(space)
        if not 1 <= size <= _LARGEST:
            raise ValueError(
                f"dataset {name} has {what} of {size} numbers: a planner needs 1 to {_LARGEST}. Each of them is a "
                "channel of the networks, so images are not supported: use features of them, or the state"
            )


def one_line(space: spaces.Space[Any]) -> str:
    """Return the text of a space for a message; gymnasium's has lines where bounds are long arrays."""
    return " ".join(str(space).split())


def _is_boxes(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_is_boxes(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return all(_is_boxes(part) for part in space)
    return isinstance(space, spaces.Box)


def unflatten(space: spaces.Space[Any], flat: NDArray[Any]) -> Any:
    """Return rows (n, D) in the structure of the space: arrays in a dict for a Dict, in a tuple for a Tuple."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        members = list(space.values()) if isinstance(space, spaces.Dict) else list(space)
        ends = np.cumsum([spaces.flatdim(member) for member in members])
        columns = np.split(flat, ends[:-1], axis=1)
        parts = [unflatten(member, rows) for member, rows in zip(members, columns, strict=True)]
        return dict(zip(space, parts, strict=True)) if isinstance(space, spaces.Dict) else tuple(parts)
    if isinstance(space, spaces.Box):
        return flat.astype(space.dtype).reshape(len(flat), *space.shape)
    return np.stack([spaces.unflatten(space, row) for row in flat])


def action_bounds(space: spaces.Box) -> dict[str, list[float | None]]:
    """Return ``action_low`` and ``action_high`` (D,) as JSON can hold them: None where there is no bound."""
    return {
        name: [float(bound) if np.isfinite(bound) else None for bound in bounds.ravel()]
        for name, bounds in (("action_low", space.low), ("action_high", space.high))
    }
