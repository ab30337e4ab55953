"""Act in N environments: the agent's contract, receding-horizon planning, and the loop that steps.

Shapes: N environments, O observation and A action dimensions, both flat, in physical units.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

from vgp_lightning.pipeline.planner import Plan, ValueGuidedPlannerPipeline

_MAZES = ("PointMaze", "AntMaze")  # environments of gymnasium_robotics


class Agent(Protocol):
    """What acts in N environments at once: a planner, a behaviour, a user's policy."""

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Begin an episode in environment i for each seed that is not None; the others go on undisturbed.

        All randomness of the new episode's actions comes from its seed.
        """

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the actions (N, A) for the observations (N, O); rows that are not active may hold anything finite."""


# What the plans must pass through besides the observation, made from the observations (N, O) at the time of planning:
# {step: (N, O)}, as the pipeline's ``conditions``.
Conditions = Callable[[NDArray[np.floating]], Mapping[int, NDArray[np.floating]]]
# What is done to follow a plan: (observations (N, O), the plan's next observations (N, O)) -> actions (N, A).
Controller = Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.floating]]


@dataclass(frozen=True)
class PositionController:
    """A proportional-derivative controller that follows the positions and velocities of a plan, not its actions.

    ``action = position_gain * (planned - position) + velocity_gain * (planned - velocity)``, an action for each
    position; the agent clips it to the action bounds. Results with it are not results of the plan's own actions: always
    say which one acted.
    """

    positions: Sequence[int]  # their places among the O flat observation dimensions
    velocities: Sequence[int]
    position_gain: float
    velocity_gain: float

    def __call__(self, observations: NDArray[np.floating], planned: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the actions (N, A) that lead from the observations (N, O) to the planned next ones (N, O)."""
        error = planned - observations
        actions: NDArray[np.floating] = (
            self.position_gain * error[:, list(self.positions)] + self.velocity_gain * error[:, list(self.velocities)]
        )
        return actions


class PlanningAgent:
    """Plan, act, plan again: receding-horizon control with one generator per environment.

    In a loop of your own::

        agent = PlanningAgent(pipeline)
        agent.reset([seed])
        action = agent.act(observation[None])[0]

    Attributes:
        on_plan: Called with the environments (n,) and their Plan whenever plans were made; None: nobody watches.
    """

    def __init__(
        self,
        pipeline: ValueGuidedPlannerPipeline,
        replan_every: int | None = None,
        *,
        conditions: Conditions | None = None,
        controller: Controller | None = None,
        **settings: Any,
    ) -> None:
        """Remember the settings; the folder's own defaults hold for those that are not given.

        With a ``warm_start_strength`` below 1 a plan begins from the last one, shifted by the steps that were executed
        since, its last step repeated; an episode's first plan begins from noise.

        Args:
            pipeline: The planner.
            replan_every: Steps that are executed from one plan before the next is made; 0: plan once an episode, and
                stay at the plan's last step when it is used up.
            conditions: Makes what the plans must pass through, such as a goal, from the observations.
            controller: Follows the plan's observations; None: the plan's own actions are executed.
            settings: Keyword arguments of the pipeline's call, such as ``scale`` or ``batch_size``.

        Raises:
            ValueError: If a setting is wrong.
        """
        resolved = pipeline.resolve_settings(replan_every=replan_every, **settings)
        self._horizon: int = resolved["planning_horizon"]
        self.pipeline = pipeline
        self.replan_every: int = resolved["replan_every"]
        self.conditions = conditions
        self.controller = controller
        self.settings = settings
        self.on_plan: Callable[[NDArray[np.int64], Plan], None] | None = None
        self._warm = resolved["warm_start_strength"] < 1
        self._generators: list[torch.Generator] = []
        self._make_room(0)

    def _make_room(self, count: int) -> None:
        """Hold no plan for each of so many environments."""
        dimensions = self.pipeline.action_dim + self.pipeline.observation_dim
        self._plans: NDArray[np.float32] = np.zeros((count, self._horizon, dimensions), dtype=np.float32)  # (N, H, T)
        self._age: NDArray[np.int64] = np.full(count, -1)  # steps executed of each environment's plan; -1: has none

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Forget the plans of the environments that begin again and seed their generators."""
        if len(seeds) != len(self._generators):
            self._generators = [torch.Generator(self.pipeline.device) for _ in seeds]
            self._make_room(len(seeds))
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._generators[i].manual_seed(seed)
                self._age[i] = -1

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Plan for the active environments whose plan is used up, in one batch, and return what to do in each (N, A).

        Args:
            observations: (N, O), as many as seeds were given to ``reset``.
            active: (N,), which of them matter; None: all.

        Raises:
            ValueError: If there are more or fewer observations than ``reset`` was given seeds.
        """
        if len(observations) != len(self._generators):
            raise ValueError(
                f"{len(observations)} observations, but reset was given {len(self._generators)} seeds: one for each "
                "environment is needed"
            )
        if active is None:
            active = np.ones(len(observations), dtype=bool)
        used_up = self._age < 0
        if self.replan_every:
            used_up |= self._age >= self.replan_every
        due = active & used_up
        warm = due & (self._age >= 0) if self._warm else np.zeros_like(due)
        # Two batches at most, for plans from noise take more denoising steps.
        for rows, start in ((due & ~warm, None), (warm, self._shifted(warm))):
            if rows.any():
                self._plan(np.flatnonzero(rows), observations, start)
        steps = np.minimum(self._age, self._horizon - 1)
        now, later = self._row(steps), self._row(np.minimum(steps + 1, self._horizon - 1))
        self._age[active] += 1
        actions = now[:, : self.pipeline.action_dim]
        if self.controller is not None:
            planned = later[:, self.pipeline.action_dim :]
            actions = clip_actions(self.controller(observations, planned), self.pipeline)
        return actions.astype(np.float32)

    def _row(self, steps: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each environment's plan at a step of its own, (N, T)."""
        row: NDArray[np.float32] = self._plans[np.arange(len(steps)), steps]
        return row

    def _shifted(self, rows: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return these environments' plans (n, H, T) from the step that comes next on, the last one repeated."""
        steps = np.minimum(np.arange(self._horizon) + self._age[rows, None], self._horizon - 1)  # (n, H)
        shifted: NDArray[np.float32] = np.take_along_axis(self._plans[rows], steps[:, :, None], axis=1)
        return shifted

    def _plan(
        self, due: NDArray[np.int64], observations: NDArray[np.floating], start: NDArray[np.float32] | None
    ) -> None:
        """Make the plans of these environments."""
        plan = self.pipeline(
            observations[due],
            generator=[self._generators[i] for i in due],
            conditions=None if self.conditions is None else self.conditions(observations[due]),
            warm_start=start,
            **self.settings,
        )
        self._plans[due] = torch.cat([plan.actions, plan.observations], dim=-1).cpu().numpy()
        self._age[due] = 0
        if self.on_plan is not None:
            self.on_plan(due, plan)


def clip_actions(actions: NDArray[np.floating], pipeline: ValueGuidedPlannerPipeline) -> NDArray[np.floating]:
    """Return the actions (..., A), in physical units, within the bounds of the pipeline's training."""
    # As floats, None becomes NaN, and that is no bound to fmin and fmax.
    low, high = (np.array(pipeline.normalization[name], dtype=np.float64) for name in ("action_low", "action_high"))
    clipped: NDArray[np.floating] = np.fmin(np.fmax(actions, low), high)
    return clipped


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
    infos: dict[str, Any]  # gymnasium's: {name: (N,), _name: (N,), which of the environments gave it}
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


def rollout(
    agent: Agent, environments: VectorEnv, seeds: Sequence[int], agent_seeds: Sequence[int] | None = None
) -> Iterator[Step]:
    """Play exactly one episode per seed, several at a time, and yield every step.

    An environment whose episode ended takes the next seed; when none is left it idles. Each episode has a seed for the
    environment and one for the agent, so it does not depend on which others are played.

    Args:
        agent: What acts.
        environments: From ``make_environments``.
        seeds: The environment's, one for each episode.
        agent_seeds: The agent's, as many; by default the same.
    """
    count = environments.num_envs
    queue = list(enumerate(zip(seeds, seeds if agent_seeds is None else agent_seeds, strict=True)))[::-1]
    episode = np.full(count, -1)
    observations: NDArray[np.floating] = np.zeros((count, 0))
    done = np.ones(count, dtype=bool)
    while True:
        if done.any():
            begins: list[int | None] = [None] * count
            agent_begins: list[int | None] = [None] * count
            for i in np.flatnonzero(done):
                episode[i], (begins[i], agent_begins[i]) = queue.pop() if queue else (-1, (None, None))
            if (episode < 0).all():
                return
            # Idle environments are reset as well: gymnasium refuses to step one that has ended.
            observations, _ = environments.reset(seed=begins, options={"reset_mask": done})  # type: ignore[arg-type]
            agent.reset(agent_begins)
        start = time.perf_counter()
        actions = agent.act(observations, episode >= 0)
        seconds = time.perf_counter() - start
        shaped = actions.reshape(environments.action_space.shape)
        following, rewards, terminated, truncated, infos = environments.step(shaped)
        yield Step(episode.copy(), observations, actions, rewards, terminated, truncated, following, infos, seconds)
        observations, done = following, terminated | truncated
