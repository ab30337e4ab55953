"""Episodes as they were played, with the plans behind them, and what would have come of other actions.

Shapes: L steps of an episode, P plans that were made in it, H steps of a plan, A action and O observation dimensions,
T = A + O; all in physical units, a plan action first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from vgp_lightning.agent.planning import PlanningAgent, rollout
from vgp_lightning.pipeline.planner import Plan
from vgp_lightning.report.film import Recorder


@dataclass(frozen=True)
class Recording:
    """One episode that a planner has played to its end."""

    seed: int  # of the environment and of the agent
    observations: NDArray[np.floating]  # (L + 1, O), the final one included
    actions: NDArray[np.float32]  # (L, A), as they were executed
    rewards: NDArray[np.float64]  # (L,)
    terminated: bool  # by the environment; else the time limit cut it short
    plan_steps: NDArray[np.int64]  # (P,), at which plans were made
    plans: NDArray[np.float32]  # (P, H, T)
    values: NDArray[np.float32]  # (P,), that were predicted; NaN without a value function

    @property
    def length(self) -> int:
        """L."""
        return len(self.rewards)


def record(
    agent: PlanningAgent,
    environments: VectorEnv,
    seeds: Sequence[int],
    *,
    description: str = "Playing",
    recorder: Recorder | None = None,
) -> list[Recording]:
    """Play one episode per seed and keep all of it; the bar shows on a terminal only.

    Args:
        agent: The planner; its ``on_plan`` is taken.
        environments: From ``make_environments``.
        seeds: One for each episode.
        description: What the progress bar says.
        recorder: Draws the first episode, if given.
    """
    steps: list[list[tuple[NDArray[np.floating], NDArray[np.float32], float]]] = [[] for _ in seeds]
    plans: list[list[tuple[int, NDArray[np.float32], float]]] = [[] for _ in seeds]
    ends: list[tuple[NDArray[np.floating], bool]] = [(np.zeros(0), False) for _ in seeds]
    made: list[tuple[NDArray[np.int64], Plan]] = []  # since the last step
    agent.on_plan = lambda rows, plan: made.append((rows, plan))
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(description, total=len(seeds))
            for step in rollout(agent, environments, seeds):
                for rows, plan in made:
                    trajectories = np.concatenate([plan.actions.cpu().numpy(), plan.observations.cpu().numpy()], axis=2)
                    for row, trajectory, value in zip(rows, trajectories, plan.values.tolist(), strict=True):
                        episode = step.episode[row]
                        plans[episode].append((len(steps[episode]), trajectory, value))
                made.clear()
                for row in np.flatnonzero(step.episode >= 0):
                    episode = step.episode[row]
                    steps[episode].append(
                        (step.observations[row].copy(), step.actions[row].copy(), float(step.rewards[row]))
                    )
                    if step.terminated[row] or step.truncated[row]:
                        ends[episode] = step.next_observations[row].copy(), bool(step.terminated[row])
                        progress.update(task, advance=1)
                # The first seed is always played in the first environment.
                if recorder is not None and step.episode[0] == 0:
                    recorder.record(step.observations[0], step.actions[0])
    finally:
        agent.on_plan = None
    return [
        Recording(
            seed=seed,
            observations=np.stack([observation for observation, _, _ in steps[i]] + [ends[i][0]]),
            actions=np.stack([action for _, action, _ in steps[i]]),
            rewards=np.array([reward for _, _, reward in steps[i]]),
            terminated=ends[i][1],
            plan_steps=np.array([t for t, _, _ in plans[i]]),
            plans=np.stack([trajectory for _, trajectory, _ in plans[i]]),
            values=np.array([value for _, _, value in plans[i]], dtype=np.float32),
        )
        for i, seed in enumerate(seeds)
    ]


def replay(
    environment: VectorEnv, recording: Recording, step: int, actions: NDArray[np.floating]
) -> NDArray[np.floating] | None:
    """Repeat an episode up to a step, go on with other actions (n, A), and return what is then observed (m + 1, O).

    The first row is the observation at that step; m is less than n where the episode ends before. None: the environment
    went another way with the same seed and the same actions, so its randomness does not come from its seed alone.

    Args:
        environment: A single one, from ``make_environments``.
        recording: The episode.
        step: Of the episode, at which the other actions begin.
        actions: The other actions.
    """
    observations, _ = environment.reset(seed=recording.seed)
    observed = [observations[0].copy()]
    ended = False
    for action in (*recording.actions[:step], *actions):
        t = len(observed) - 1
        # Simulators are exact on one machine; the tolerance is for those that are not quite.
        if t <= step and (ended or not np.allclose(observed[t], recording.observations[t], rtol=1e-5, atol=1e-6)):
            return None
        if ended:
            break
        observations, _, terminated, truncated, _ = environment.step(action.reshape(environment.action_space.shape))
        observed.append(observations[0].copy())
        ended = bool(terminated[0] or truncated[0])
    return np.stack(observed[step:])
