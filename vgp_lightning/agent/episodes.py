"""Episodes: what was observed, done and paid at each step, and the plans that were made.

Shapes: N environments, L steps of an episode, P plans made in it, H steps of a plan, O observation and A action
dimensions, T = A + O; all in the environment's units, plans have the action first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from vgp_lightning.agent.environments import Agent, Step, rollout
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.pipeline.planner import Plan
from vgp_lightning.report.film import Recorder

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
class Played:
    """Episodes in the order of their seeds, and the time that the agent took.

    Attributes:
        episodes: The episodes.
        act_seconds: Seconds of each call of the agent.
        ages: For each call, the number of steps that each unfinished episode already had.
    """

    episodes: list[Episode]
    act_seconds: list[float]
    ages: list[NDArray[np.int64]]


@dataclass
class _Log:
    """The steps and plans of an episode so far."""

    observations: list[NDArray[np.floating]] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    succeeded: bool = False
    plan_steps: list[int] = field(default_factory=list)
    plans: list[NDArray[np.float32]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: Step, row: int) -> None:
        """Note the step of the environment in a row."""
        if not self.observations:
            self.observations.append(step.observations[row].copy())
        self.observations.append(step.next_observations[row].copy())
        self.actions.append(step.actions[row].copy())
        self.rewards.append(float(step.rewards[row]))
        self.terminated, self.truncated = bool(step.terminated[row]), bool(step.truncated[row])
        self.succeeded |= any(_reported(step, name)[row] and bool(step.infos[name][row]) for name in _SUCCESS)

    def add_plan(self, trajectory: NDArray[np.float32], value: float) -> None:
        """Note a plan that was made for the next step."""
        self.plan_steps.append(len(self.rewards))
        self.plans.append(trajectory)
        self.values.append(value)

    def to_episode(self, seed: int, agent_seed: int, reports_success: bool) -> Episode:
        """Return the episode; if it has not ended, it is truncated here."""
        return Episode(
            seed=seed,
            agent_seed=agent_seed,
            observations=np.stack(self.observations),
            actions=np.stack(self.actions),
            rewards=np.array(self.rewards),
            terminated=self.terminated,
            truncated=self.truncated or not self.terminated,
            success=self.succeeded if reports_success else None,
            plan_steps=np.array(self.plan_steps, dtype=np.int64),
            plans=np.stack(self.plans) if self.plans else np.zeros((0, 0, 0), np.float32),
            values=np.array(self.values, dtype=np.float32),
        )


def _reported(step: Step, name: str) -> NDArray[np.bool_]:
    """Return which environments (N,) have an entry of that name in their infos."""
    reported: NDArray[np.bool_] = np.asarray(step.infos.get(f"_{name}", np.zeros(len(step.episode), dtype=bool)))
    return reported


def play(
    agent: Agent,
    environments: VectorEnv,
    seeds: Sequence[int],
    *,
    agent_seeds: Sequence[int] | None = None,
    most_steps: int | None = None,
    keep_plans: bool = False,
    description: str = "Playing",
    recorder: Recorder | None = None,
) -> Played:
    """Play one episode per seed and return them in the order of the seeds; a progress bar shows on a terminal only.

    Args:
        agent: What acts.
        environments: From ``make_environments``.
        seeds: Seeds of the environment, one for each episode.
        agent_seeds: Seeds of the agent, as many; by default the same.
        most_steps: Maximum number of steps of all episodes together; None: no limit.
        keep_plans: Keep the plans of a PlanningAgent in the episodes; this uses its ``on_plan``.
        description: Text of the progress bar.
        recorder: Records the first episode, if given.
    """
    agent_seeds = seeds if agent_seeds is None else agent_seeds
    logs: dict[int, _Log] = {}
    made: list[tuple[NDArray[np.int64], Plan]] = []  # since the last step
    act_seconds: list[float] = []
    ages: list[NDArray[np.int64]] = []
    reports_success, steps, ended = False, 0, 0
    planner = agent if keep_plans and isinstance(agent, PlanningAgent) else None
    if planner is not None:
        planner.on_plan = lambda rows, plan: made.append((rows, plan))
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(description, total=len(seeds) if most_steps is None else most_steps)
            for step in rollout(agent, environments, seeds, agent_seeds):
                rows = np.flatnonzero(step.episode >= 0)
                of_row = {int(row): logs.setdefault(int(step.episode[row]), _Log()) for row in rows}
                act_seconds.append(step.seconds)
                ages.append(np.array([len(log.rewards) for log in of_row.values()]))
                kept = rows if most_steps is None else rows[: most_steps - steps]
                for planned, plan in made:
                    plans, values = plan.trajectories.cpu().numpy(), plan.values.tolist()
                    for row, trajectory, value in zip(planned, plans, values, strict=True):
                        if row in kept:
                            of_row[int(row)].add_plan(trajectory, value)
                made.clear()
                for row in kept:
                    of_row[int(row)].add(step, int(row))
                steps += len(kept)
                ended += int((step.terminated | step.truncated)[kept].sum())
                reports_success |= any(bool(_reported(step, name)[rows].any()) for name in _SUCCESS)
                # The first seed is always played in the first environment.
                if recorder is not None and step.episode[0] == 0:
                    recorder.record(step.observations[0], step.actions[0])
                progress.update(
                    task,
                    completed=ended if most_steps is None else steps,
                    description=f"{description}: {steps} steps, {ended} episodes",
                )
                if steps == most_steps:
                    break
    finally:
        if planner is not None:
            planner.on_plan = None
    episodes = [
        log.to_episode(seeds[i], agent_seeds[i], reports_success) for i, log in sorted(logs.items()) if log.rewards
    ]
    return Played(episodes, act_seconds, ages)
