"""Receding-horizon control: an agent that plans, executes a few steps, and plans again.

Shapes: N environments, O observation and A action dimensions, both flat, in physical units.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from vgp_lightning.pipeline.guidance import Weighted
from vgp_lightning.pipeline.planner import Plan, ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings

# Makes the inpainting conditions of plans from the observations (N, O): {step: (N, O)}, as the pipeline's
# ``conditions``.
Conditions = Callable[[NDArray[np.floating]], Mapping[int, NDArray[np.floating]]]
# Follows a plan: (observations (N, O), the plan's next observations (N, O)) -> actions (N, A).
Controller = Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.floating]]


@dataclass(frozen=True)
class PositionController:
    """A proportional-derivative controller that follows the positions and velocities of a plan, not its actions.

    ``action = position_gain * (planned - position) + velocity_gain * (planned - velocity)``, one action for each
    position; the agent clips it to the action bounds. Results with a controller are not results of the plan's own
    actions: always report which of the two acted.

    Attributes:
        positions: Indices of the positions among the O observation dimensions.
        velocities: Indices of the velocities, as many.
        position_gain: Gain of the position error.
        velocity_gain: Gain of the velocity error.
    """

    positions: Sequence[int]
    velocities: Sequence[int]
    position_gain: float
    velocity_gain: float

    def __call__(self, observations: NDArray[np.floating], planned: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the actions (N, A) that lead from the observations (N, O) to the planned next observations (N, O)."""
        error = planned - observations
        actions: NDArray[np.floating] = (
            self.position_gain * error[:, list(self.positions)] + self.velocity_gain * error[:, list(self.velocities)]
        )
        return actions


class PlanningAgent:
    """Receding-horizon control: plan, act, plan again, with one random generator per environment.

    In your own loop::

        agent = PlanningAgent(pipeline)
        agent.reset([seed])
        action = agent.act(observation[None])[0]

    Attributes:
        on_plan: Called with the indices of the environments (n,) and their Plan after each planning call; None: not
            used.
    """

    def __init__(
        self,
        pipeline: ValueGuidedPlannerPipeline,
        *,
        conditions: Conditions | None = None,
        controller: Controller | None = None,
        objectives: Weighted | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        """Make an agent.

        With a ``warm_start_strength`` below 1 a plan begins from the previous one, shifted by the executed steps, with
        its last step repeated; an episode's first plan begins from noise. With a ``replan_every`` of 0 the agent stays
        at the plan's last step after the end of the plan.

        Args:
            pipeline: The planner.
            conditions: Makes the inpainting conditions of plans, such as a goal, from the observations.
            controller: Follows the plan's observations; None: the plan's own actions are executed.
            objectives: What guidance climbs and candidates are ranked by, as the pipeline's ``objectives``.
            settings: Those of ``Settings``; the folder's defaults hold for what is not given.

        Raises:
            ValueError: If a setting is wrong.
        """
        resolved = pipeline.resolve_settings(objectives=objectives, **settings)
        self._horizon: int = resolved["planning_horizon"]
        self.pipeline = pipeline
        self.replan_every: int = resolved["replan_every"]
        self.conditions = conditions
        self.controller = controller
        self.objectives = objectives
        self.settings = settings
        self.on_plan: Callable[[NDArray[np.int64], Plan], None] | None = None
        self._warm = resolved["warm_start_strength"] < 1
        self._generators: list[torch.Generator] = []
        self._make_room(0)

    def _make_room(self, count: int) -> None:
        """Prepare for so many environments, none of which has a plan."""
        dimensions = self.pipeline.action_dim + self.pipeline.observation_dim
        self._plans: NDArray[np.float32] = np.zeros((count, self._horizon, dimensions), dtype=np.float32)  # (N, H, T)
        self._age: NDArray[np.int64] = np.full(count, -1)  # executed steps of each plan; -1: there is no plan

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Begin episodes: for each seed that is not None, forget the environment's plan and seed its generator."""
        if len(seeds) != len(self._generators):
            self._generators = [torch.Generator(self.pipeline.device) for _ in seeds]
            self._make_room(len(seeds))
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._generators[i].manual_seed(seed)
                self._age[i] = -1

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Plan for the active environments that need a new plan, in one batch, and return the actions (N, A).

        Args:
            observations: (N, O), as many as the seeds given to ``reset``.
            active: (N,), which environments are in use; None: all.

        Raises:
            ValueError: If the number of observations is not that of the seeds given to ``reset``.
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
        # At most two batches, because cold starts take more denoising steps.
        for rows, start in ((due & ~warm, None), (warm, self._shifted(warm))):
            if rows.any():
                self._plan(np.flatnonzero(rows), observations, start)
        steps = np.minimum(self._age, self._horizon - 1)
        now, later = self._row(steps), self._row(np.minimum(steps + 1, self._horizon - 1))
        self._age[active] += 1
        actions = now[:, : self.pipeline.action_dim]
        if self.controller is not None:
            planned = later[:, self.pipeline.action_dim :]
            followed = torch.as_tensor(self.controller(observations, planned))
            actions = self.pipeline.frame.clip_actions(followed).numpy()
        return actions.astype(np.float32)

    def _row(self, steps: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each environment's plan at its own step, (N, T)."""
        row: NDArray[np.float32] = self._plans[np.arange(len(steps)), steps]
        return row

    def _shifted(self, rows: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return these environments' plans (n, H, T) from the next step on, with the last step repeated."""
        steps = np.minimum(np.arange(self._horizon) + self._age[rows, None], self._horizon - 1)  # (n, H)
        shifted: NDArray[np.float32] = np.take_along_axis(self._plans[rows], steps[:, :, None], axis=1)
        return shifted

    def _plan(
        self, due: NDArray[np.int64], observations: NDArray[np.floating], start: NDArray[np.float32] | None
    ) -> None:
        """Make plans for these environments."""
        plan = self.pipeline(
            observations[due],
            generator=[self._generators[i] for i in due],
            conditions=None if self.conditions is None else self.conditions(observations[due]),
            warm_start=start,
            objectives=self.objectives,
            **self.settings,
        )
        self._plans[due] = plan.trajectories.cpu().numpy()
        self._age[due] = 0
        if self.on_plan is not None:
            self.on_plan(due, plan)
