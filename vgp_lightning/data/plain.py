"""Plain arrays -> a Minari dataset: ``write_episodes``.

Shapes: n steps of an episode, O observation and A action dimensions, both flat, in the environment's units.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from numpy.typing import ArrayLike, NDArray

from vgp_lightning.data.reading import check_bounds, check_finite
from vgp_lightning.data.registry import make_environment
from vgp_lightning.data.writing import free_path, write_dataset


class PlainEpisode(NamedTuple):
    """One episode as plain arrays."""

    name: str  # where it comes from, for messages
    observations: NDArray[np.number[Any]]  # (n + 1, O)
    actions: NDArray[np.number[Any]]  # (n, A)
    rewards: NDArray[np.number[Any]]  # (n,)
    terminated: bool  # False: the episode was truncated


def write_episodes(
    dataset_id: str,
    episodes: Iterable[Mapping[str, Any] | EpisodeBuffer],
    *,
    env_id: str | None = None,
    action_low: ArrayLike | None = None,
    action_high: ArrayLike | None = None,
    algorithm_name: str = "unknown",
    description: str = "written by vgp_lightning.data.write_episodes",
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
) -> minari.MinariDataset:
    """Write episodes as a new Minari dataset. It is written atomically: a failure leaves nothing.

    Args:
        dataset_id: ``(namespace/)name-vN``, such as ``me/robot/runs-v0``; the dataset must not exist.
        episodes: A mapping for each, or an object with attributes of these names, such as Minari's ``EpisodeBuffer``:
            ``observations`` (n + 1, O), the final one included (an array, or a mapping of arrays, which are
            concatenated in the order of the environment's space, else in their own); ``actions`` (n, A); ``rewards``
            (n,); and ``terminated``, whether the episode ended in a terminal state (a fall, the goal), default false:
            it was cut, and would have gone on. In place of it, ``terminations`` (n,) is understood.
        env_id: The environment, whose specification is stored and whose spaces are used; default: none is named, and
            a planner has to be told it with ``--env_id``.
        action_low: Lowest value of an action, one number or (A,); a planner's actions are clipped to it. Default: the
            environment's, else -1 if all actions lie within -1 and 1, else the lowest in the data.
        action_high: Highest value of an action, as for the lowest.
        algorithm_name: Name of the behaviour policy.
        description: How the dataset was made.
        ref_min_score: The return that is a normalised score of 0.
        ref_max_score: The return that is a normalised score of 100.

    Returns:
        The new dataset.

    Raises:
        ValueError: If the id is malformed or exists, an array is missing, has a wrong shape or holds numbers that are
            not finite, or an action lies outside its bounds. Nothing is written then.
        OSError: If the disk has too little space.
    """
    free_path(dataset_id)
    environment = None if env_id is None else make_environment(env_id)
    try:
        space = None if environment is None else environment.observation_space
        keys = list(space) if isinstance(space, spaces.Dict) else []
        plain = []
        for number, episode in enumerate(episodes):
            values = dict(episode) if isinstance(episode, Mapping) else vars(episode)
            if not keys and isinstance(values.get("observations"), Mapping):
                keys = list(values["observations"])  # of the first episode: an order that all have
            plain.append(_to_plain(f"episode {number}", values, keys))
        return write_plain(
            dataset_id,
            plain,
            environment,
            action_bounds=(action_low, action_high),
            algorithm_name=algorithm_name,
            description=description,
            ref_min_score=ref_min_score,
            ref_max_score=ref_max_score,
        )
    finally:
        if environment is not None:
            environment.close()


def write_plain(
    dataset_id: str,
    episodes: Sequence[PlainEpisode],
    environment: gymnasium.Env[Any, Any] | None,
    *,
    action_bounds: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    **about: Any,
) -> minari.MinariDataset:
    """Check episodes and write them, as ``write_episodes`` does.

    Args:
        dataset_id: As for ``write_episodes``.
        episodes: At least one.
        environment: The environment, or None.
        action_bounds: Lowest and highest value of the actions, as for ``write_episodes``.
        about: Further arguments of ``write_dataset``.

    Raises:
        ValueError: As ``write_episodes``.
    """
    if not episodes:
        raise ValueError(f"there are no episodes to write as {dataset_id}: at least one is needed")
    first = episodes[0]
    for episode in episodes:
        for key, values, like in (
            ("observations", episode.observations, first.observations),
            ("actions", episode.actions, first.actions),
        ):
            if values.shape[1] != like.shape[1]:
                raise ValueError(
                    f"{episode.name} has {key} of {values.shape[1]} numbers, {first.name} of {like.shape[1]}: all "
                    "episodes need the same"
                )
            check_finite(episode.name, key, values)
        check_finite(episode.name, "rewards", episode.rewards)
    found = find_spaces(episodes, environment, action_bounds)
    for episode in episodes:
        check_bounds(episode.name, episode.actions, found[1])
    return write_dataset(dataset_id, [_to_buffer(episode) for episode in episodes], environment, spaces=found, **about)


def find_spaces(
    episodes: Sequence[PlainEpisode],
    environment: gymnasium.Env[Any, Any] | None,
    action_bounds: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
) -> tuple[spaces.Space[Any], spaces.Box]:
    """Return the spaces of observations and actions: the environment's, or those that follow from the numbers.

    Args:
        episodes: At least one.
        environment: The environment, or None.
        action_bounds: Lowest and highest value of the actions; None: the environment's, or those of the data.

    Raises:
        ValueError: If the environment's dimensions are others, or its actions are no Box.
    """
    shapes = {"observations": episodes[0].observations.shape[1], "actions": episodes[0].actions.shape[1]}
    if environment is not None:
        name = environment.spec.id if environment.spec is not None else str(environment)
        if not isinstance(environment.action_space, spaces.Box):
            raise ValueError(f"environment {name} has actions {environment.action_space}: only Box is supported")
        for key, space in (("observations", environment.observation_space), ("actions", environment.action_space)):
            if spaces.flatdim(space) != shapes[key]:
                raise ValueError(
                    f"environment {name} has {key} of {spaces.flatdim(space)} numbers, the episodes have "
                    f"{shapes[key]}: give the environment in which they were recorded, or choose their keys"
                )
    low, high = action_bounds
    if environment is not None:
        own: spaces.Box = environment.action_space  # type: ignore[assignment]
        if low is None and high is None:
            return environment.observation_space, own
        low, high = own.low if low is None else low, own.high if high is None else high
    actions = [episode.actions for episode in episodes]
    dtype = np.result_type(np.float32, *{values.dtype for values in actions})
    least, most = (getattr(np, side)([getattr(v, side)(axis=0) for v in actions], axis=0) for side in ("min", "max"))
    usual = bool((least >= -1).all() and (most <= 1).all())
    bounds = [
        np.broadcast_to(np.asarray(given, dtype=dtype), (shapes["actions"],)).astype(dtype)
        if given is not None
        else np.full(shapes["actions"], one, dtype=dtype)
        if usual
        else np.asarray(seen, dtype=dtype)
        for given, one, seen in ((low, -1, least), (high, 1, most))
    ]
    action_space = spaces.Box(bounds[0], bounds[1], dtype=dtype.type)
    if environment is not None:
        return environment.observation_space, action_space
    kinds = np.result_type(np.float32, *{episode.observations.dtype for episode in episodes})
    return spaces.Box(-np.inf, np.inf, (shapes["observations"],), dtype=kinds.type), action_space


def _to_plain(name: str, found: Mapping[str, Any], keys: Sequence[str]) -> PlainEpisode:
    """Return an episode as arrays of the same number of steps.

    Args:
        name: Where it comes from, for messages.
        found: Its arrays by their names.
        keys: Of the observations, in their order, if they are a dict.

    Raises:
        ValueError: If an array is missing, or has a wrong shape.
    """
    missing = [key for key in ("observations", "actions", "rewards") if found.get(key) is None]
    if missing:
        raise ValueError(f"{name} has no {missing[0]}: give observations (n + 1, O), actions (n, A) and rewards (n,)")
    actions, rewards = _array(name, "actions", found["actions"]), _array(name, "rewards", found["rewards"])
    steps = len(actions)
    if steps == 0:
        raise ValueError(f"{name} has no steps: leave it out")
    if isinstance(found["observations"], Mapping):
        if set(keys) != set(found["observations"]):
            raise ValueError(f"{name} has observations {sorted(found['observations'])}: {sorted(keys)} are needed")
        parts = [_array(name, f"observations/{key}", found["observations"][key]) for key in keys]
    else:
        parts = [_array(name, "observations", found["observations"])]
    for part in parts:
        if len(part) != steps + 1:
            more = (
                ": the observation after the last action is missing. Add it, or drop the last action and its reward"
                if len(part) == steps
                else ""
            )
            raise ValueError(f"{name} has {len(part)} observations for {steps} actions, {steps + 1} are needed{more}")
    if rewards.shape not in ((steps,), (steps, 1)):
        raise ValueError(f"{name} has rewards of shape {rewards.shape}: ({steps},) is needed, one for each action")
    observations = np.concatenate([part.reshape(steps + 1, -1) for part in parts], axis=1)
    terminated = found.get("terminated")
    if terminated is None and found.get("terminations") is not None:
        ends = _array(name, "terminations", found["terminations"])
        if len(ends) != steps or not np.isin(ends, (0, 1)).all():
            raise ValueError(
                f"{name} has terminations of shape {ends.shape}: {steps} of true or false, or 0 and 1, are needed, one "
                "for each action; or terminated, one for the episode"
            )
        if ends[:-1].any():
            step = int(ends.argmax())
            warnings.warn(f"{name} goes on after step {step}, which is marked as its terminal one", stacklevel=4)
        terminated = ends.reshape(-1)[-1]
    return PlainEpisode(name, observations, actions.reshape(steps, -1), rewards.reshape(-1), bool(terminated))


def _array(name: str, key: str, values: Any) -> NDArray[np.number[Any]]:
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name} has {key} that are no array: {error}") from error
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise ValueError(f"{name} has {key} of type {array.dtype} and shape {array.shape}: an array of real numbers")
    return array


def _to_buffer(episode: PlainEpisode) -> EpisodeBuffer:
    last = np.arange(len(episode.actions)) == len(episode.actions) - 1
    return EpisodeBuffer(
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=last & episode.terminated,
        truncations=last & (not episode.terminated),
    )
