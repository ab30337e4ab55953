"""The states that a planner is asked in: those of its training data, and those that the habit comes to.

Shapes: S states, N environments, C actions of an answer, A action and O observation dimensions, all in the
environment's units.
"""

from collections.abc import Iterator, Sequence
from itertools import count as count_from

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from vgp_lightning.agent.environments import step_episodes
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.pipeline.habit import Habit

# Consecutive states are nearly the same, so one of so many is kept, drawn at random.
_SPREAD = 4


def draw_recorded(dataset_ids: Sequence[str], count: int, seed: int) -> NDArray[np.float32]:
    """Return states (S, O) of the training episodes, without repetition: all of them if there are fewer.

    Args:
        dataset_ids: The planner's datasets.
        count: S.
        seed: Decides which.

    Raises:
        ValueError: If a dataset is missing or damaged.
    """
    data = MinariDataModule(list(dataset_ids), horizon=1)
    data.prepare_data()
    data.setup("fit")
    windows = data.train_windows
    chosen = np.random.default_rng(seed).choice(windows.total, min(count, windows.total), replace=False)
    trajectories = windows.batch(np.sort(chosen).tolist()).trajectories  # (S, 1, T), read in the order of the file
    return trajectories[:, 0, data.action_dim :].numpy()


def visit(
    habit: Habit, environments: VectorEnv, count: int, replan_every: int, noise: float, seed: int
) -> NDArray[np.float32]:
    """Return states (S, O) that a habit comes to when it acts.

    Args:
        habit: What acts.
        environments: From ``make_environments``.
        count: S.
        replan_every: Actions of an answer that are executed.
        noise: Standard deviation of the noise on the actions, in those of the training data.
        seed: Seed of the first episode; the others follow.
    """
    seeds: Iterator[int] = count_from(seed)
    student, visited, met = _Student(habit, replan_every, noise), [], 0

    def take() -> tuple[int, int]:
        begin = next(seeds)
        return begin, begin

    for step in step_episodes(student, environments, take):
        visited.append(np.asarray(step.observations, dtype=np.float32))
        met += len(step.observations)
        if met >= _SPREAD * count:
            break
    chosen = np.random.default_rng(seed).choice(met, count, replace=False)
    states: NDArray[np.float32] = np.concatenate(visited)[chosen]
    return states


class _Student:
    """A habit that acts with noise, each episode's from a generator of its own."""

    def __init__(self, habit: Habit, replan_every: int, noise: float) -> None:
        self._habit, self._every = habit, replan_every
        self._deviation = noise * habit.frame.scale[: habit.action_dim].numpy()
        self._bounds = habit.frame.action_low.numpy(), habit.frame.action_high.numpy()
        self._ages: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def reset(self, seeds: Sequence[int | None]) -> None:
        if len(self._ages) != len(seeds):
            self._ages = np.zeros(len(seeds), dtype=np.int64)
            self._chunks = np.zeros((len(seeds), self._habit.chunk, self._habit.action_dim), dtype=np.float32)
            self._generators = [np.random.default_rng(0) for _ in seeds]
        for row, seed in enumerate(seeds):
            if seed is not None:
                self._ages[row], self._generators[row] = 0, np.random.default_rng(seed)

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        del active  # all are: there is no end of seeds
        due = self._ages % self._every == 0
        if due.any():
            self._chunks[due] = self._habit.answer(torch.from_numpy(observations[due])).numpy()
        actions = self._chunks[np.arange(len(due)), self._ages % self._every]
        self._ages += 1
        noise = np.stack([generator.standard_normal(actions.shape[1]) for generator in self._generators])
        noisy: NDArray[np.float32] = np.clip(actions + self._deviation * noise, *self._bounds).astype(np.float32)
        return noisy
