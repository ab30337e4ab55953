"""Act in N environments: the agent's contract, receding-horizon planning, and the loop that steps.

Shapes: N environments, O observation and A action dimensions, both flat, in physical units.
"""

import importlib
import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

from vgp_lightning.pipeline import ValueGuidedPlannerPipeline

_MAZES = ("PointMaze", "AntMaze")  # environments of gymnasium_robotics


class Agent(Protocol):
    """What acts in N environments at once: a planner, a behaviour, a user's policy."""

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Begin an episode in environment i for each seed that is not None; the others go on undisturbed.

        All randomness of the new episode's actions comes from its seed.
        """

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the actions (N, A) for the observations (N, O); rows that are not active may hold anything finite."""


class PlanningAgent:
    """Plan, execute the first actions, plan again: receding-horizon control with one generator per environment."""

    def __init__(self, pipeline: ValueGuidedPlannerPipeline, replan_every: int = 1, **settings: Any) -> None:
        """Remember the settings; the folder's own defaults hold for those that are not given.

        Args:
            pipeline: The planner.
            replan_every: Actions that are executed from one plan before the next is made.
            settings: Keyword arguments of the pipeline's call, such as ``scale`` or ``batch_size``.

        Raises:
            ValueError: If ``replan_every`` does not fit the planning horizon, or a setting is wrong.
        """
        horizon = pipeline.resolve_settings(**settings)["planning_horizon"]
        if not 1 <= replan_every <= horizon:
            raise ValueError(f"replan_every is {replan_every}: it must lie between 1 and the plan's {horizon} steps")
        self.pipeline = pipeline
        self.replan_every = replan_every
        self.settings = settings
        self._generators: list[torch.Generator] = []
        self._actions: NDArray[np.float32] = np.zeros((0, horizon, pipeline.action_dim), dtype=np.float32)  # (N, H, A)
        self._age: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # steps executed of each environment's plan

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Forget the plans of the environments that begin again and seed their generators."""
        if len(seeds) != len(self._generators):
            self._generators = [torch.Generator(self.pipeline.device) for _ in seeds]
            self._actions = np.zeros((len(seeds), *self._actions.shape[1:]), dtype=np.float32)
            self._age = np.zeros(len(seeds), dtype=np.int64)
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._generators[i].manual_seed(seed)
                self._age[i] = self.replan_every

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Plan for the active environments whose plan is used up, in one batch, and return every plan's next action."""
        (due,) = np.nonzero(active & (self._age >= self.replan_every))
        if len(due):
            plan = self.pipeline(observations[due], generator=[self._generators[i] for i in due], **self.settings)
            self._actions[due] = plan.actions.cpu().numpy()
            self._age[due] = 0
        steps = np.minimum(self._age, self._actions.shape[1] - 1)  # rows that are not active may be past their plan
        actions: NDArray[np.float32] = self._actions[np.arange(len(steps)), steps]
        self._age[active] += 1
        return actions


@dataclass(frozen=True)
class Step:
    """One step of N environments. Row i belongs to episode ``episode[i]`` of the seeds; -1: idle, to be ignored."""

    episode: NDArray[np.int64]  # (N,)
    observations: NDArray[np.floating]  # (N, O), before the actions
    actions: NDArray[np.float32]  # (N, A), as handed to the environments
    rewards: NDArray[np.float64]  # (N,)
    terminated: NDArray[np.bool_]  # (N,)
    truncated: NDArray[np.bool_]  # (N,)
    next_observations: NDArray[np.floating]  # (N, O), the final one where an episode ended
    seconds: float  # that the agent took to act for all environments


def make_environments(environment: str | EnvSpec, count: int, **kwargs: Any) -> VectorEnv:
    """Make ``count`` environments that are stepped in turn, with flat observations and no automatic reset.

    Args:
        environment: An id (``Hopper-v5``, or ``module:Id``), or a full specification as datasets carry it.
        count: Number of environments.
        kwargs: Passed to the environment, such as ``render_mode``.

    Raises:
        ValueError: If the environment is unknown or has other than Box actions.
    """
    if count < 1:
        raise ValueError(f"{count} environments: at least 1 is needed")
    name = environment if isinstance(environment, str) else environment.id
    # The mazes are an extra, and gymnasium has no plug-ins that would register them by themselves.
    if name.startswith(_MAZES) and importlib.util.find_spec("gymnasium_robotics") is not None:
        gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))
    try:
        environments = gymnasium.make_vec(
            environment,
            num_envs=count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
            wrappers=[FlattenObservation],
            **kwargs,
        )
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(
            f"environment {name!r} cannot be made: {error}. Environments of another package are named "
            "'package:Id'; the mazes need: pip install 'vgp_lightning[maze]'"
        ) from error
    if not isinstance(environments.single_action_space, gymnasium.spaces.Box):
        raise ValueError(f"environment {name!r} has actions {environments.single_action_space}: only Box is supported")
    return environments


def rollout(agent: Agent, environments: VectorEnv, seeds: Sequence[int]) -> Iterator[Step]:
    """Play exactly one episode per seed, several at a time, and yield every step.

    An environment whose episode ended takes the next seed; when none is left it idles. The seed is both the
    environment's and the agent's, so an episode does not depend on which others are played.
    """
    count = environments.num_envs
    queue = list(enumerate(seeds))[::-1]
    episode = np.full(count, -1)
    observations: NDArray[np.floating] = np.zeros((count, 0))
    done = np.ones(count, dtype=bool)
    while True:
        if done.any():
            begins: list[int | None] = [None] * count
            for i in np.flatnonzero(done):
                episode[i], begins[i] = queue.pop() if queue else (-1, None)
            if (episode < 0).all():
                return
            # Idle environments are reset as well: gymnasium refuses to step one that has ended.
            observations, _ = environments.reset(seed=begins, options={"reset_mask": done})  # type: ignore[arg-type]
            agent.reset(begins)
        start = time.perf_counter()
        actions = agent.act(observations, episode >= 0)
        seconds = time.perf_counter() - start
        shaped = actions.reshape(environments.action_space.shape)
        next_observations, rewards, terminated, truncated, _ = environments.step(shaped)
        yield Step(episode.copy(), observations, actions, rewards, terminated, truncated, next_observations, seconds)
        observations, done = next_observations, terminated | truncated
