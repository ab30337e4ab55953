"""Let a behaviour act, and write what happens as a Minari dataset.

Shapes: N environments, T steps of an episode, O observation and A action dimensions, both flat, in physical units.
"""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage import get_dataset_path
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from vgp_lightning.agent.behaviours import make_behaviour
from vgp_lightning.agent.environments import Agent, make_environments, rollout


def collect(
    env_id: str,
    behaviour: str,
    steps: int,
    dataset_id: str,
    *,
    seed: int = 0,
    environments: int = 8,
    weight_noise: float = 0.0,
    action_noise: float = 0.0,
    max_episode_steps: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
) -> minari.MinariDataset:
    """Let a behaviour act and write what happens as a Minari dataset of exactly ``steps`` transitions.

    Episode e has the seed ``seed + e``, for the environment and for the behaviour alike; the dataset is ordered by it
    and stores it. The episodes that are under way when the last transition is taken are cut there and marked as
    truncated. Everything is kept in memory and written at the end: a collection that fails leaves no dataset.

    Args:
        env_id: The environment, such as ``Hopper-v5``.
        behaviour: A name for ``make_behaviour``.
        steps: Transitions to collect.
        dataset_id: What the dataset is to be called, such as ``demo/hopper-v0``; it must not exist yet.
        seed: The first episode's seed.
        environments: How many are stepped together.
        weight_noise: See ``make_behaviour``.
        action_noise: See ``make_behaviour``.
        max_episode_steps: The time limit, if not the environment's own.
        env_kwargs: Passed to the environment, such as ``{"continuing_task": False}``.
        ref_min_score: The return that a normalised score calls 0; to be given with ``ref_max_score``.
        ref_max_score: The return that a normalised score calls 1.

    Raises:
        ValueError: If the dataset exists, its id is malformed, or an argument is wrong; nothing was collected then.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least 1 transition is needed")
    if (ref_min_score is None) != (ref_max_score is None):
        raise ValueError(f"ref_min_score {ref_min_score} and ref_max_score {ref_max_score}: give both or neither")
    path = _free_path(dataset_id)
    kwargs = dict(env_kwargs or {})
    if max_episode_steps is not None:
        kwargs["max_episode_steps"] = max_episode_steps

    vector = make_environments(env_id, environments, **kwargs)
    try:
        agent = make_behaviour(behaviour, vector, weight_noise=weight_noise, action_noise=action_noise)
        episodes = _record(agent, vector, steps, seed)
    finally:
        vector.close()

    _free_path(dataset_id)  # again: another process may have been faster
    plain = gymnasium.make(env_id, **kwargs)  # its specification and its unflattened spaces are the dataset's
    try:
        with warnings.catch_warnings():
            # Minari asks for author, e-mail and a link to code, which a collection of one's own does not have.
            warnings.filterwarnings("ignore", message="`(author|author_email|code_permalink)` is set to None")
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                [_unflatten_episode(episode, plain) for episode in episodes],
                env=plain,
                eval_env=plain,
                algorithm_name=Path(behaviour).name,
                description=f"{steps} steps of {env_id} by vgp collect: behaviour {behaviour}, seed {seed}, "
                f"weight_noise {weight_noise}, action_noise {action_noise}",
                ref_min_score=ref_min_score,
                ref_max_score=ref_max_score,
            )
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # half a dataset would break `minari list local`
        raise
    finally:
        plain.close()

    returns = np.array([sum(episode.rewards) for episode in episodes])
    print(
        f"{dataset_id}: {len(returns)} episodes, {steps} steps, return {returns.mean():.1f} mean, "
        f"{returns.std():.1f} standard deviation, {returns.min():.1f} to {returns.max():.1f}"
    )
    return dataset


def _free_path(dataset_id: str) -> Path:
    """Return where the dataset is going to be, if its id is right and free; Minari itself looks too late."""
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # TypeError: the version is missing
        raise ValueError(
            f"dataset id {dataset_id!r} is malformed: it must be (namespace/)name-vN, such as demo/hopper-v0, "
            "of letters, digits, - and _, and a namespace has at least 2 of them"
        ) from error
    path: Path = get_dataset_path(dataset_id)
    if path.exists():
        raise ValueError(
            f"dataset {dataset_id!r} exists already in {path}: choose another id, "
            f"or remove it by: minari delete {dataset_id}"
        )
    return path


def _record(agent: Agent, environments: VectorEnv, steps: int, seed: int) -> list[EpisodeBuffer]:
    """Play until ``steps`` transitions are recorded and return the flat episodes in the order of their seeds."""
    episodes: dict[int, EpisodeBuffer] = {}
    missing = steps
    with Progress(disable=not Console().is_terminal) as progress:
        task = progress.add_task("collecting", total=steps)
        # There cannot be more episodes than steps.
        for step in rollout(agent, environments, range(seed, seed + steps)):
            for i in np.flatnonzero(step.episode >= 0)[:missing]:
                e = int(step.episode[i])
                if e not in episodes:
                    episodes[e] = EpisodeBuffer(seed=seed + e, observations=[step.observations[i]], actions=[])
                episodes[e].observations.append(step.next_observations[i])
                episodes[e].actions.append(step.actions[i])
                episodes[e].rewards.append(float(step.rewards[i]))
                episodes[e].terminations.append(bool(step.terminated[i]))
                episodes[e].truncations.append(bool(step.truncated[i]))
                missing -= 1
            progress.update(task, completed=steps - missing)
            if not missing:
                break
    for episode in episodes.values():
        episode.truncations[-1] |= not episode.terminations[-1]  # those that were under way
    return [episode for _, episode in sorted(episodes.items())]


def _unflatten_episode(episode: EpisodeBuffer, environment: gymnasium.Env[Any, Any]) -> EpisodeBuffer:
    """Return the episode with the environment's own structure of observations and actions."""
    return replace(
        episode,
        observations=_unflatten(environment.observation_space, np.stack(episode.observations)),
        actions=_unflatten(environment.action_space, np.stack(episode.actions)),
    )


def _unflatten(space: spaces.Space[Any], flat: NDArray[Any]) -> Any:
    """Return rows (T, flat) in the structure of the space: a dict of arrays for a Dict, one array otherwise."""
    if isinstance(space, spaces.Dict):
        ends = np.cumsum([spaces.flatdim(part) for part in space.values()])
        parts = np.split(flat, ends[:-1], axis=1)
        return {key: _unflatten(part, rows) for (key, part), rows in zip(space.items(), parts, strict=True)}
    return np.stack([spaces.unflatten(space, row) for row in flat])
