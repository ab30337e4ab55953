"""``vgp describe``: what a dataset is like, and a config of the settings that suit it."""

from pathlib import Path

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vgp_lightning.data.cache import cache_folder, cached, load, open_dataset
from vgp_lightning.data.measuring import Measures, measure_episodes
from vgp_lightning.data.recommending import is_sparse, recommend, write_config
from vgp_lightning.data.spaces import check_spaces
from vgp_lightning.data.wording import say_first, say_spread


def describe(dataset_id: str, *, output: str | None = None, cache_dir: str | None = None) -> None:
    """Print what a dataset is like, and a config of settings that suit it, each line with its reason.

    Args:
        dataset_id: A Minari dataset.
        output: Write the config to this file, for ``vgp fit -c planner.yaml -c FILE``; it must not exist.
        cache_dir: Folder of the flat arrays, as for training.

    Raises:
        ValueError: If the dataset is missing or invalid, or the file exists.
    """
    path = None if output is None else Path(output)
    if path is not None and path.exists():
        raise ValueError(f"--output {path} exists: choose another, or remove it first")
    if path is not None and path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--output {path} is the name of a config: it must end in .yaml")
    dataset = open_dataset(dataset_id)
    check_spaces(dataset, dataset_id)
    if dataset.total_episodes == 0:
        raise ValueError(f"dataset {dataset_id} has no episodes: collect or import it again")
    measures = measure_episodes(
        load(cached([dataset], cache_folder(cache_dir))), int(spaces.flatdim(dataset.action_space))
    )
    print(f"{dataset_id}: {len(measures.lengths)} episodes, {measures.lengths.sum()} steps")
    for name, value in _lines(measures, dataset.action_space):
        print(f"  {name:<24}{value}")
    config = write_config(dataset_id, recommend(measures))
    print(f"\n{config}", end="")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(config)
        print(
            f"\nwritten to {path}. Next: vgp fit -c planner.yaml -c {path}\n"
            "without a GPU add -c hardware/cpu.yaml: smaller networks, trained in minutes"
        )


def _lines(measures: Measures, space: spaces.Box) -> list[tuple[str, str]]:
    """Return name and value of each measure, as text."""
    count, terminated = len(measures.lengths), int(measures.terminated.sum())
    lags = measures.observation_lags
    low, high = space.low.ravel(), space.high.ravel()
    bounded = np.isfinite(low) & np.isfinite(high)
    size = np.where(bounded, high - low, 1.0)
    near = [
        bool(measures.actions.minimum[i] <= low[i] + 0.01 * size[i])
        and bool(measures.actions.maximum[i] >= high[i] - 0.01 * size[i])
        for i in range(len(low))
    ]
    ranges = [f"{a:.3g} to {b:.3g}" for a, b in zip(measures.actions.minimum, measures.actions.maximum, strict=True)]
    reward = (
        f"all {measures.last_rewards[0]:g}"
        if measures.equal_rewards
        else f"{measures.reward_mean:.4g} mean, not 0 in {measures.rewarded:.1%} of steps"
        + " (rare: they mark events)" * is_sparse(measures)
    )
    return [
        ("lengths", say_spread(measures.lengths)),
        ("ends", f"{terminated} terminated, {count - terminated} truncated"),
        ("returns", say_spread(measures.returns)),
        ("rewards", reward),
        ("correlation lengths", f"observations {_lags(lags)}; rewards {_lags(np.array([measures.reward_lag]))}"),
        ("constant observations", say_first([str(i) for i in measures.constant_observations]) or "none"),
        ("constant actions", say_first([str(i) for i in measures.constant_actions]) or "none"),
        ("actions", say_first(ranges)),
        ("at their bounds", f"{sum(near)} of {len(near)} actions reach both of their bounds"),
    ]


def _lags(lags: NDArray[np.float64]) -> str:
    found = lags[np.isfinite(lags)]
    if not len(found):
        return "none (constant, or longer than half an episode)"
    if len(lags) == 1:
        return f"{found[0]:.1f} steps"
    slow = len(lags) - len(found)
    return f"{found.min():.1f} to {found.max():.1f}, median {np.median(found):.1f} steps" + (
        f" ({slow} constant or slower)" if slow else ""
    )
