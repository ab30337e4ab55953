"""``vgp collect``: let a behaviour policy act in environments, and write its episodes as a Minari dataset."""

from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from vgp_lightning.agent.behaviours import make_behaviour
from vgp_lightning.agent.environments import check_seed, make_environments
from vgp_lightning.agent.episodes import Episode, play
from vgp_lightning.data.writing import free_path, write_dataset


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
    """Collect a Minari dataset of exactly ``steps`` transitions by a behaviour policy.

    Episode e has the seed ``seed + e``, for the environment and the behaviour policy; the dataset is ordered by the
    seeds and stores them. Episodes that are unfinished when the last transition is collected are marked as truncated
    there. All episodes are kept in memory and written at the end: a collection that fails or is interrupted leaves no
    dataset.

    Args:
        env_id: The environment, such as ``Hopper-v5``.
        behaviour: The behaviour policy, by a name that ``make_behaviour`` knows.
        steps: Transitions to collect.
        dataset_id: Id of the new dataset, such as ``demo/hopper-v0``; it must not exist.
        seed: The first episode's seed.
        environments: Number of environments that are stepped together.
        weight_noise: See ``make_behaviour``.
        action_noise: See ``make_behaviour``.
        max_episode_steps: Time limit of an episode; default: the environment's own.
        env_kwargs: Passed to the environment, such as ``{"continuing_task": False}``.
        ref_min_score: The return that is a normalised score of 0; to be given with ``ref_max_score``.
        ref_max_score: The return that is a normalised score of 1.

    Returns:
        The new dataset.

    Raises:
        ValueError: If the dataset exists, its id is malformed, or an argument is wrong. Nothing is collected then.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least 1 transition is needed")
    check_seed(seed)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"max_episode_steps is {max_episode_steps}: at least 1 is needed")
    if (ref_min_score is None) != (ref_max_score is None):
        raise ValueError(f"ref_min_score {ref_min_score} and ref_max_score {ref_max_score}: give both or neither")
    free_path(dataset_id)  # fail before a long collection, not after it
    kwargs = dict(env_kwargs or {})
    if max_episode_steps is not None:
        kwargs["max_episode_steps"] = max_episode_steps

    vector = make_environments(env_id, environments, **kwargs)
    try:
        agent = make_behaviour(behaviour, vector, weight_noise=weight_noise, action_noise=action_noise)
        # More seeds are not needed: an episode has at least one step.
        episodes = play(agent, vector, range(seed, seed + steps), most_steps=steps, description="Collecting").episodes
    finally:
        vector.close()

    plain = gymnasium.make(env_id, **kwargs)  # not flattened: its specification and spaces describe the dataset
    try:
        dataset = write_dataset(
            dataset_id,
            [_to_buffer(episode) for episode in episodes],
            plain,
            algorithm_name=Path(behaviour).name,
            description=f"{steps} steps of {env_id} by vgp collect: behaviour {behaviour}, seed {seed}, "
            f"weight_noise {weight_noise}, action_noise {action_noise}",
            ref_min_score=ref_min_score,
            ref_max_score=ref_max_score,
        )
    finally:
        plain.close()

    returns = np.array([episode.total_reward for episode in episodes])
    print(
        f"{dataset_id}: {len(returns)} episodes, {steps} steps, return {returns.mean():.1f} mean, "
        f"{returns.std():.1f} standard deviation, {returns.min():.1f} to {returns.max():.1f}"
    )
    return dataset


def _to_buffer(episode: Episode) -> EpisodeBuffer:
    """Return the episode as Minari writes it: one that was cut short by the end of the collection is truncated."""
    last = np.arange(episode.length) == episode.length - 1
    return EpisodeBuffer(
        seed=episode.seed,
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards.tolist(),
        terminations=last & episode.terminated,
        truncations=last & episode.truncated,
    )
