"""Snapshots of environments: to come back to a state, and go on from there in more than one way.

An environment's specification says nothing of what its state is. Here it is what all levels of it (wrappers and the
environments in them) hold as numbers, arrays and random generators, and MuJoCo's data. MuJoCo's ``mj_getState`` with
``mjSTATE_FULLPHYSICS`` is not enough to go on to the bit: the solver begins from its last solution
(``qacc_warmstart``), and rewards are taken from positions that are derived from the state. So all of ``MjData`` is
copied.
"""

from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, np.ndarray, np.random.Generator)


@dataclass(frozen=True)
class Snapshot:
    """The state of one environment.

    Attributes:
        plain: Of each level: what it holds as numbers, arrays and generators, by name.
        physics: Of each level: MuJoCo's data, by name.
    """

    plain: list[dict[str, Any]]
    physics: list[dict[str, mujoco.MjData]]


def take_snapshot(environment: gymnasium.Env[Any, Any]) -> Snapshot:
    """Return the environment's state. Later steps do not change it."""
    levels = list(_list_levels(environment))
    return Snapshot(
        [{name: deepcopy(held) for name, held in vars(level).items() if _is_plain(held)} for level in levels],
        [
            {name: copy(held) for name, held in vars(level).items() if isinstance(held, mujoco.MjData)}
            for level in levels
        ],
    )


def restore(environment: gymnasium.Env[Any, Any], snapshot: Snapshot) -> None:
    """Bring an environment into a state: the one that the snapshot was taken of, or another of the same specification.

    Raises:
        ValueError: If the environment has other levels.
    """
    levels = list(_list_levels(environment))
    if len(levels) != len(snapshot.plain):
        raise ValueError(
            f"the environment has {len(levels)} levels and the snapshot {len(snapshot.plain)}: it was taken of another "
            "environment"
        )
    for level, plain, physics in zip(levels, snapshot.plain, snapshot.physics, strict=True):
        vars(level).update(deepcopy(plain))
        for name, data in physics.items():
            mujoco.mj_copyData(vars(level)[name], level.model, data)  # type: ignore[attr-defined]


def _list_levels(environment: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    """Return the environment, and all environments that it holds, such as that of a wrapper."""
    yield environment
    for held in vars(environment).values():
        if isinstance(held, gymnasium.Env):
            yield from _list_levels(held)


def _is_plain(held: Any) -> bool:
    """Return whether an attribute is part of the state: numbers, arrays, generators, and what consists of them."""
    if isinstance(held, dict):
        return all(map(_is_plain, held.values()))
    if isinstance(held, list | tuple | set | frozenset):
        return all(map(_is_plain, held))
    return isinstance(held, _PLAIN)
