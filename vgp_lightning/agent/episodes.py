"""Episodes: what was observed, done and paid at each step, and the plans that were made.

Shapes: N environments, L steps of an episode, P plans made in it, H steps of a plan, O observation and A action
dimensions, T = A + O; all in the environment's units, plans have the action first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgp_lightning.agent.environments import Step

_SUCCESS = ("success", "is_success")  # names of success in the infos of environments


@dataclass(frozen=True)
class Episode:
    """One episode.

    Attributes:
        seed: Seed of the environment.
        agent_seed: Seed of the agent.
        observations: (L + 1, O), the final one included.
        actions: (L, A), as they were executed.
        rewards: (L,).
        terminated: Whether the environment ended the episode, such as after a fall.
        truncated: Whether the time limit ended it, or the maximum number of steps to play.
        success: Whether any step reported success; None: the environment reports neither success nor failure.
        plan_steps: (P,), the steps at which plans were made.
        plans: (P, H, T).
        values: (P,), the predicted values of the plans; NaN without a value function.
    """

    seed: int
    agent_seed: int
    observations: NDArray[np.floating]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminated: bool
    truncated: bool
    success: bool | None = None
    plan_steps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    plans: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def length(self) -> int:
        """L."""
        return len(self.rewards)

    @property
    def total_reward(self) -> float:
        """The undiscounted return: the sum of all rewards, added in the order of the steps."""
        return float(np.cumsum(self.rewards)[-1])


@dataclass(frozen=True)
class Result:
    """What an episode came to, without its steps.

    Attributes:
        seed: Seed of the environment.
        agent_seed: Seed of the agent.
        total_reward: The undiscounted return.
        length: Number of steps.
        terminated: Whether the environment ended the episode.
        truncated: Whether the time limit ended it.
        success: Whether any step reported success; None: no episode of those that were asked for reports it.
        first_success: The first step that did, counted from 1; None: none did.
    """

    seed: int
    agent_seed: int
    total_reward: float
    length: int
    terminated: bool
    truncated: bool
    success: bool | None
    first_success: int | None


@dataclass(frozen=True)
class Failure:
    """An episode that could not be played to its end.

    Attributes:
        seed: Seed of the environment.
        agent_seed: Seed of the agent.
        step: Number of the step at which it failed, from 0 on.
        reason: Why.
    """

    seed: int
    agent_seed: int
    step: int
    reason: str

    def __str__(self) -> str:
        return f"seed {self.seed}, step {self.step}: {self.reason}"


@dataclass
class Log:
    """The steps and plans of an episode so far."""

    observations: list[NDArray[np.floating]] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    total_reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    first_success: int | None = None
    reports_success: bool = False
    plan_steps: list[int] = field(default_factory=list)
    plans: list[NDArray[np.float32]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether the environment or its time limit has ended the episode."""
        return self.terminated or self.truncated

    def add(self, step: Step, row: int) -> None:
        """Note the step of the environment in a row.

        Raises:
            ValueError: If the environment reports a success that is neither true nor false.
        """
        if not self.observations:
            self.observations.append(step.observations[row].copy())
        self.observations.append(step.next_observations[row].copy())
        self.actions.append(step.actions[row].copy())
        self.rewards.append(float(step.rewards[row]))
        self.total_reward += self.rewards[-1]
        self.terminated, self.truncated = bool(step.terminated[row]), bool(step.truncated[row])
        for name in _SUCCESS:
            if (success := _read_success(step, name, row)) is not None:
                self.reports_success = True
                if success and self.first_success is None:
                    self.first_success = len(self.rewards)

    def drop_last(self) -> None:
        """Forget the last step, and what was planned for it."""
        del self.observations[-1], self.actions[-1], self.rewards[-1]
        self.terminated = self.truncated = False
        if self.plan_steps and self.plan_steps[-1] == len(self.rewards):
            del self.plan_steps[-1], self.plans[-1], self.values[-1]

    def add_plan(self, trajectory: NDArray[np.float32], value: float) -> None:
        """Note a plan that was made for the next step."""
        self.plan_steps.append(len(self.rewards))
        self.plans.append(trajectory)
        self.values.append(value)

    def find_fault(self, whole: bool) -> str | None:
        """Return what is wrong with the last step; None: nothing.

        Args:
            whole: Whether the observation after the episode's last step is needed as well.
        """
        if not np.isfinite(self.rewards[-1]):
            return f"the environment's reward is {self.rewards[-1]}"
        if not np.isfinite(self.total_reward):
            return f"the sum of the environment's rewards is {self.total_reward}"
        seen = self.observations[-2:] if whole or not self.ended else self.observations[-2:-1]
        for observation in seen:
            if not np.isfinite(observation).all():
                return f"the environment's observation is not finite: {observation.tolist()}"
        return None

    def to_record(self, steps: bool) -> dict[str, Any]:
        """Return the episode as a store keeps it; if it has not ended, it is truncated here.

        Args:
            steps: Keep observations, actions, rewards and plans too.
        """
        record: dict[str, Any] = {
            "return": float(np.cumsum(self.rewards)[-1]),
            "length": len(self.rewards),
            "terminated": self.terminated,
            "truncated": self.truncated or not self.terminated,
            "success": self.first_success is not None if self.reports_success else None,
            "first_success": self.first_success,
        }
        if steps:
            record["steps"] = {
                "observations": np.stack(self.observations),
                "actions": np.stack(self.actions),
                "rewards": np.array(self.rewards),
                "plan_steps": np.array(self.plan_steps, dtype=np.int64),
                "plans": np.stack(self.plans) if self.plans else np.zeros((0, 0, 0), np.float32),
                "values": np.array(self.values, dtype=np.float32),
            }
        return record


def to_result(seed: int, agent_seed: int, record: Mapping[str, Any], success: bool | None) -> Result:
    """Return the result of an episode of a store."""
    return Result(
        seed=seed,
        agent_seed=agent_seed,
        total_reward=record["return"],
        length=record["length"],
        terminated=record["terminated"],
        truncated=record["truncated"],
        success=success,
        first_success=record.get("first_success"),  # which earlier versions did not keep
    )


def to_episode(seed: int, agent_seed: int, record: Mapping[str, Any], success: bool | None) -> Episode:
    """Return an episode of a store that keeps steps."""
    ends = {name: record[name] for name in ("terminated", "truncated")}
    return Episode(seed=seed, agent_seed=agent_seed, **record["steps"], **ends, success=success)


def _read_success(step: Step, name: str, row: int) -> bool | None:
    """Return what the environment in a row reports under that name; None: nothing.

    Raises:
        ValueError: If it is neither a boolean nor 0 or 1.
    """
    if name not in step.infos:
        return None
    try:
        if not step.infos.get(f"_{name}", np.zeros(len(step.episode), dtype=bool))[row]:
            return None
        value = step.infos[name][row]
        if isinstance(value, bool | np.bool_ | int | float | np.number) and value in (0, 1):
            return bool(value)
    except (IndexError, KeyError, TypeError, ValueError):
        value = step.infos[name]
    raise ValueError(f"the environment reports {name} as {value!r} in its info: a boolean, or 0 or 1, is needed")
