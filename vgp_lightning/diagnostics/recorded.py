"""Recorded states: steps of the planner's training data to which the simulator can be brought back."""

from collections.abc import Mapping
from typing import Any

import minari
import numpy as np

from vgp_lightning.agent.episodes import Episode
from vgp_lightning.data.cache import open_dataset
from vgp_lightning.data.reading import Recording, read


def find_recorded(task: Mapping[str, Any], episodes: int, starts: int) -> list[tuple[Episode, int]]:
    """Return states of the first of the planner's datasets: evenly spaced steps of evenly spaced episodes.

    Args:
        task: The planner's.
        episodes: How many.
        starts: Steps of each.

    Raises:
        ValueError: If there is no such dataset here, or it does not name the seeds of its episodes.
    """
    names = task.get("dataset_id")
    if not names:
        raise ValueError("the folder does not name the data of its training")
    dataset = open_dataset(names[0])
    indices = np.unique(np.linspace(0, dataset.total_episodes - 1, episodes).round().astype(int))
    chosen = minari.MinariDataset(dataset.storage, episode_indices=dataset.episode_indices[indices])
    seeds = [one.get("seed") for one in dataset.storage.get_episode_metadata(chosen.episode_indices.tolist())]
    if any(seed is None for seed in seeds):
        raise ValueError(f"dataset {names[0]} does not name the seeds of its episodes, which cannot be repeated then")
    places = []
    for recording, seed in zip(read(chosen), seeds, strict=True):
        episode = _as_episode(recording, int(seed))
        steps = np.unique(np.linspace(0, episode.length - 1, starts).round().astype(int))
        places += [(episode, int(step)) for step in steps]
    return places


def _as_episode(recording: Recording, seed: int) -> Episode:
    """Return a recording as an episode that was played."""
    return Episode(
        seed=seed,
        agent_seed=0,
        observations=recording.observations,
        actions=np.asarray(recording.actions, np.float32),
        rewards=np.asarray(recording.rewards, np.float64),
        terminated=recording.terminated,
        truncated=not recording.terminated,
    )
