"""Episodes -> a Minari dataset; a failure leaves none.

Shapes: n steps of an episode, O observation and A action dimensions, both flat, in physical units.
"""

import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from vgp_lightning.data.cache import dataset_path
from vgp_lightning.data.spaces import unflatten

# Minari finds out that an id is malformed after it has made a folder of that name, so it is checked here.
_DATASET_ID = re.compile(r"([-\w][-\w/]*[-\w]/)?[-\w]+-v\d+")


def free_path(dataset_id: str) -> Path:
    """Return the folder in which a new dataset will be stored.

    Args:
        dataset_id: ``(namespace/)name-vN``.

    Raises:
        ValueError: If the id is malformed, or the folder exists.
    """
    if not _DATASET_ID.fullmatch(dataset_id):
        raise ValueError(
            f"dataset id {dataset_id!r} is malformed: it must be (namespace/)name-vN, such as demo/hopper-v0, "
            "of letters, digits, - and _; a namespace has at least 2 of them"
        )
    path = dataset_path(dataset_id)
    if path.exists():
        raise ValueError(
            f"dataset {dataset_id!r} already exists in {path}: choose another id, "
            f"or remove it by: minari delete {dataset_id}"
        )
    return path


def write_dataset(
    dataset_id: str,
    episodes: Sequence[EpisodeBuffer],
    environment: gymnasium.Env[Any, Any],
    *,
    algorithm_name: str,
    description: str,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
) -> minari.MinariDataset:
    """Write episodes as a new Minari dataset. If that fails or is interrupted, the dataset's folder is removed.

    Args:
        dataset_id: ``(namespace/)name-vN``; the dataset must not exist.
        episodes: Flat observations (n + 1, O), flat actions (n, A), and n rewards, terminations and truncations each.
        environment: Its specification is stored, and its spaces give observations and actions their structure.
        algorithm_name: Name of the behaviour policy.
        description: How the dataset was made.
        ref_min_score: The return that is a normalised score of 0.
        ref_max_score: The return that is a normalised score of 1.

    Raises:
        ValueError: If the id is malformed, or the dataset exists.
    """
    path = free_path(dataset_id)
    try:
        with warnings.catch_warnings():
            # Minari asks for author, e-mail and a link to code; a user's own collection needs none of them.
            warnings.filterwarnings("ignore", message="`(author|author_email|code_permalink)` is set to None")
            return minari.create_dataset_from_buffers(
                dataset_id,
                [_unflatten_episode(episode, environment) for episode in episodes],
                env=environment,
                eval_env=environment,
                algorithm_name=algorithm_name,
                description=description,
                ref_min_score=ref_min_score,
                ref_max_score=ref_max_score,
            )
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # half a dataset would break `minari list local`
        raise


def _unflatten_episode(episode: EpisodeBuffer, environment: gymnasium.Env[Any, Any]) -> EpisodeBuffer:
    """Return the episode with the environment's own structure of observations and actions."""
    return replace(
        episode,
        observations=unflatten(environment.observation_space, np.stack(episode.observations)),
        actions=unflatten(environment.action_space, np.stack(episode.actions)),
    )
