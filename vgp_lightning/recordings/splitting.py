"""The rows of a source -> episodes of n steps with n + 1 observations.

Shapes: N rows of a piece, n steps of an episode, O observation and A action dimensions, as the source has them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vgp_lightning.data.plain import PlainEpisode
from vgp_lightning.data.reading import check_finite
from vgp_lightning.recordings.roles import Roles
from vgp_lightning.recordings.source import Piece, Source

LastObservation = Literal["drop", "repeat"]

# Relative to the size of the numbers: next observations that were rounded to float32 are still the same.
_SAME = 1e-4


@dataclass
class Losses:
    """What splitting changed, to be said.

    Attributes:
        without_final: Episodes whose final observation the source does not have.
        empty: Names of episodes without a step.
        going_on: Names of episodes with steps after a terminal one.
        rewards: Sum of the absolute rewards of the steps that were dropped.
        uneven: Episodes whose times of steps differ by more than a tenth.
        intervals: Median time of a step, of each episode that has times.
    """

    without_final: int = 0
    empty: list[str] = field(default_factory=list)
    going_on: list[str] = field(default_factory=list)
    rewards: float = 0.0
    uneven: int = 0
    intervals: list[float] = field(default_factory=list)


def split(
    source: Source, roles: Roles, no_rewards: bool, last_observation: LastObservation, losses: Losses
) -> Iterator[PlainEpisode]:
    """Yield the episodes of a source.

    Args:
        source: What was found.
        roles: Which keys hold what.
        no_rewards: Whether rewards are 0 although, or because, the source has none.
        last_observation: For sources that have n observations for n actions and no next observations: ``drop`` the
            last step of each episode, whose outcome is not known, or ``repeat`` its observation.
        losses: Filled while episodes are yielded.

    Raises:
        ValueError: If numbers are missing or not finite, arrays do not fit each other, or an episode is divided.
    """
    if not roles.rewards and not no_rewards:
        raise ValueError(
            f"{source.path}: no key holds rewards. Name it: --rewards KEY; or --no_rewards true sets all of them to 0: "
            "a denoiser can be trained on that, a value function cannot"
        )
    if not roles.next_observations and last_observation not in ("drop", "repeat"):
        raise ValueError(f"last_observation is {last_observation!r}: choose drop or repeat")
    seen: set[Any] = set()
    for piece in source.pieces:
        yield from _split_piece(source, piece, roles, no_rewards, last_observation, losses, seen)


def _split_piece(
    source: Source,
    piece: Piece,
    roles: Roles,
    no_rewards: bool,
    last_observation: LastObservation,
    losses: Losses,
    seen: set[Any],
) -> Iterator[PlainEpisode]:
    where = f"{source.path.name}, {piece.name}" if source.is_episode else source.path.name
    actions = _matrix(piece, roles.actions, where, "actions")
    observations = _matrix(piece, roles.observations, where, "observations")
    count = len(actions)
    following = _matrix(piece, roles.next_observations, where, "next_observations") if roles.next_observations else None
    rewards = np.zeros(count) if no_rewards else _vector(piece, roles.rewards, where, "rewards", count)
    terminals = _flags(piece, roles.terminals, where, "terminals", count)
    if roles.terminals == ["masks"] and source.format == "ogbench":  # where they are: 0 where nothing follows
        terminals = ~terminals
    timeouts = _flags(piece, roles.timeouts, where, "timeouts", count)
    times = _vector(piece, roles.time, where, "times", count) if roles.time else None
    if following is not None:
        _check_count(following, where, "next_observations", count)
    if following is not None and following.shape[1] != observations.shape[1]:
        raise ValueError(
            f"{where}: next_observations have {following.shape[1]} numbers, observations {observations.shape[1]}: give "
            "both the same keys, or --next_observations none"
        )
    whole = source.is_episode and not roles.episode
    if len(observations) != count and not (whole and len(observations) == count + 1):
        more = " (n + 1 observations for n actions are understood where each episode is a file of its own)"
        raise ValueError(
            f"{where}: {len(observations)} observations for {count} actions: as many are needed{more * (not whole)}. "
            "Write the episodes one by one with vgp_lightning.data.write_episodes"
        )
    if whole:
        bounds = [0, count]
    else:
        numbers = _vector(piece, roles.episode, where, "numbers of the episode", count) if roles.episode else None
        # OGBench's masks may be 0 before the end of a trajectory, where it comes to a goal and goes on.
        ends = timeouts if source.ends_in_observation else terminals | timeouts
        bounds = _bounds(where, roles, ends, numbers, seen)
    for start, stop in pairwise(bounds):
        if start == stop:
            losses.empty.append(where)
            continue
        name = where if whole else f"{where}, rows {start} to {stop - 1}"
        rows = slice(start, stop)
        for key, values in (("actions", actions), ("observations", observations), ("rewards", rewards)):
            check_finite(name, key, values[rows])
        shown = observations[start : stop + (len(observations) - count)]
        steps = stop - start
        ended = terminals[rows]
        if len(shown) == steps:
            if following is not None:
                _check_following(name, shown, following[rows])
                shown = np.concatenate([shown, following[stop - 1 : stop]])
            elif last_observation == "repeat" and not source.ends_in_observation:
                losses.without_final += 1
                shown = np.concatenate([shown, shown[-1:]])
            else:
                losses.without_final += 1
                losses.rewards += float(np.abs(rewards[stop - 1]))
                steps -= 1
        if steps == 0:
            losses.empty.append(name)
            continue
        last = steps - 1 if source.ends_in_observation else len(ended) - 1
        if ended[:last].any():
            losses.going_on.append(name)
        if times is not None:
            _measure_time(name, times[start : start + steps], losses)
        yield PlainEpisode(
            name, shown, actions[start : start + steps], rewards[start : start + steps], bool(ended[last])
        )


def _bounds(
    where: str, roles: Roles, ends: NDArray[np.bool_], numbers: NDArray[Any] | None, seen: set[Any]
) -> list[int]:
    """Return where episodes begin in a piece, and its number of rows.

    Raises:
        ValueError: If rows of an episode are not together, or the whole piece would be one episode by its flags.
    """
    count = len(ends)
    if numbers is None:
        if not ends.any():
            raise ValueError(
                f"{where}: {' and '.join(roles.terminals + roles.timeouts)} are false in all {count} rows, so that "
                "they do not say where episodes end. Name other keys: --timeouts KEY (true where an episode is cut) or "
                "--episode KEY (its number)"
            )
        begins = np.flatnonzero(ends) + 1
    else:
        changes = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        for first in [0, *changes.tolist()] if count else []:
            if (number := numbers[first]) in seen:
                raise ValueError(
                    f"{where}: the rows of episode {number} are not together, a second part begins in row {first}: "
                    "sort the rows by episode and step"
                )
            seen.add(number)
        begins = changes
    return [0, *[int(begin) for begin in begins if begin < count], count]


def _check_following(name: str, shown: NDArray[Any], following: NDArray[Any]) -> None:
    """Check that what a step leads to is what the next one begins with.

    Raises:
        ValueError: If not: the rows were shuffled, or one of the two was normalised.
    """
    check_finite(name, "next_observations", following)
    size = np.maximum(np.abs(shown[1:]), np.abs(following[:-1]))
    differs = (np.abs(shown[1:] - following[:-1]) > _SAME * np.maximum(size, 1)).any(axis=1)
    if differs.any():
        step = int(differs.argmax())
        raise ValueError(
            f"{name}: the next observation of step {step} is not the observation of step {step + 1}, and so in "
            f"{int(differs.sum())} of {len(differs)} steps: the rows are shuffled, an end of an episode is not marked, "
            "or one of the two was changed. Name the key that marks the ends (--timeouts, --episode), or leave the "
            "next observations out (--next_observations none)"
        )


def _measure_time(name: str, times: NDArray[Any], losses: Losses) -> None:
    intervals = np.diff(times)
    if not len(intervals):
        return
    if intervals.min() <= 0:
        step = int(intervals.argmin())
        raise ValueError(
            f"{name}: the time of step {step + 1} is {times[step + 1]}, that of the step before it {times[step]}: sort "
            "the rows by time, or name another --episode"
        )
    median = float(np.median(intervals))
    losses.intervals.append(median)
    losses.uneven += bool((np.abs(intervals - median) > 0.1 * median).any())


def _matrix(piece: Piece, keys: Sequence[str], where: str, role: str) -> NDArray[np.number[Any]]:
    """Return the numbers of several keys, beside each other: (N, sum of their dimensions)."""
    parts = [_column(piece, key, where, role) for key in keys]
    if len({len(part) for part in parts}) > 1:
        lengths = ", ".join(f"{key} {len(part)}" for key, part in zip(keys, parts, strict=True))
        raise ValueError(f"{where}: the {role} have different numbers of rows: {lengths}")
    return np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)


def _vector(piece: Piece, keys: Sequence[str], where: str, role: str, count: int) -> NDArray[Any]:
    """Return the values of one key: (N,), of which N is the count of actions."""
    values = _column(piece, keys[0], where, role)
    if values.ndim == 0:
        cure = ". Or leave it out: --episode none" if "episode" in role else ""
        raise ValueError(f"{where}: {keys[0]} is a single number: the {role} are one a step{cure}")
    if values.size != len(values):
        raise ValueError(f"{where}: {keys[0]} has the shape {values.shape}: the {role} are one number a step")
    _check_count(values, where, role, count)
    return values.reshape(-1)


def _check_count(values: NDArray[Any], where: str, role: str, count: int) -> None:
    if len(values) != count:
        raise ValueError(f"{where}: {len(values)} {role} for {count} actions: as many are needed")


def _flags(piece: Piece, keys: Sequence[str], where: str, role: str, count: int) -> NDArray[np.bool_]:
    """Return the flags of one key, or false where there is none: (N,)."""
    if not keys:
        return np.zeros(count, dtype=bool)
    values = _vector(piece, keys, where, role, count)
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{where}: {keys[0]} is {values[row]} in row {row}: the {role} are true or false, or 0 and 1")
    return values.astype(bool)


def _column(piece: Piece, key: str, where: str, role: str) -> NDArray[Any]:
    if key not in piece.columns:
        raise ValueError(f"{where} has no {key}, which holds the {role} elsewhere: it has {', '.join(piece.columns)}")
    return piece.columns[key].read()
