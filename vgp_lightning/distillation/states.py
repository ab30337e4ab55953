"""The states that a planner is asked in: those of its training data, and those that it or a habit comes to by acting.

Shapes: S states, N environments, C actions of an answer, A action and O observation dimensions, all in the
environment's units.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count as count_from

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from vgp_lightning.agent.environments import step_episodes
from vgp_lightning.agent.playing import play
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.pipeline.frame import Frame

Answer = Callable[[torch.Tensor], torch.Tensor]


def draw_recorded(dataset_ids: Sequence[str], count: int, seed: int) -> NDArray[np.float32]:
    """Return states (S, O) of the datasets' episodes, without repetition: all of them if there are fewer.

    Args:
        dataset_ids: The planner's datasets.
        count: S.
        seed: Decides which.

    Raises:
        ValueError: If a dataset is missing or damaged.
    """
    data = MinariDataModule(list(dataset_ids), horizon=1, validation_share=0.0)
    data.prepare_data()
    data.setup("fit")
    windows = data.train_windows
    chosen = np.random.default_rng(seed).choice(windows.total, min(count, windows.total), replace=False)
    trajectories = windows.batch(np.sort(chosen).tolist()).trajectories  # (S, 1, T), read in the order of the file
    return trajectories[:, 0, data.action_dim :].numpy()


def visit(
    answer: Answer, frame: Frame, environments: VectorEnv, count: int, replan_every: int, noise: float, seed: int
) -> NDArray[np.float32]:
    """Return the states (S, O) in which a habit or its teacher is asked when it acts.

    Args:
        answer: What acts: observations (n, O) -> chunks of actions (n, C, A).
        frame: Of the training data.
        environments: From ``make_environments``.
        count: S at least: all environments take as many steps.
        replan_every: Actions of an answer that are executed.
        noise: Standard deviation of the noise on the actions, in those of the training data.
        seed: Seed of the first episode; the others follow.
    """
    seeds: Iterator[int] = count_from(seed)
    actor = _Actor(answer, frame, replan_every, noise)

    def take() -> tuple[int, int]:
        begin = next(seeds)
        return begin, begin

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Acting", total=count)
        for _ in step_episodes(actor, environments, take):
            met = sum(map(len, actor.asked))
            progress.update(task, completed=met)
            if met >= count:
                break
    return np.concatenate(actor.asked)


def play_episodes(
    answer: Answer, frame: Frame, environments: VectorEnv, count: int, replan_every: int, seed: int
) -> list[float]:
    """Return the undiscounted returns of so many episodes in which a habit acts, without noise.

    Args:
        answer: What acts: observations (n, O) -> chunks of actions (n, C, A).
        frame: Of the training data.
        environments: From ``make_environments``.
        count: Number of episodes.
        replan_every: Actions of an answer that are executed.
        seed: Seed of the first episode; the others follow.

    Raises:
        ValueError: If the habit cannot answer in one of them.
    """
    actor = _Actor(answer, frame, replan_every, 0.0)
    played = play(actor, environments, range(seed, seed + count), description="Trying the habit")
    if played.failures:
        raise ValueError(str(played.failures[0]))
    return [result.total_reward for result in played.results]


def thin(states: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Return so many of the states, drawn at random: consecutive ones are nearly the same."""
    chosen = np.random.default_rng(seed).choice(len(states), count, replace=False)
    kept: NDArray[np.float32] = states[chosen]
    return kept


class _Actor:
    """A habit or a planner that acts with noise, each episode's from a generator of its own.

    Attributes:
        asked: The states in which it was asked, (n, O) each time.
    """

    def __init__(self, answer: Answer, frame: Frame, replan_every: int, noise: float) -> None:
        self._answer, self._every, self._actions = answer, replan_every, frame.action_dim
        self._deviation = noise * frame.scale[: frame.action_dim].numpy()
        self._bounds = frame.action_low.numpy(), frame.action_high.numpy()
        self._ages: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.asked: list[NDArray[np.float32]] = []

    def reset(self, seeds: Sequence[int | None]) -> None:
        if len(self._ages) != len(seeds):
            self._ages = np.zeros(len(seeds), dtype=np.int64)
            self._chunks = np.zeros((len(seeds), self._every, self._actions), dtype=np.float32)
            self._generators = [np.random.default_rng(0) for _ in seeds]
        for row, seed in enumerate(seeds):
            if seed is not None:
                self._ages[row], self._generators[row] = 0, np.random.default_rng(seed)

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        del active  # what idle environments are given is not executed
        due = self._ages % self._every == 0
        if due.any():
            self.asked.append(observations[due].astype(np.float32))
            self._chunks[due] = self._answer(torch.from_numpy(observations[due]))[:, : self._every].numpy()
        actions = self._chunks[np.arange(len(due)), self._ages % self._every]
        self._ages += 1
        noise = np.stack([generator.standard_normal(actions.shape[1]) for generator in self._generators])
        noisy: NDArray[np.float32] = np.clip(actions + self._deviation * noise, *self._bounds).astype(np.float32)
        return noisy
