"""Receding-horizon control: an agent that plans, executes a few steps, and plans again.

Shapes: N environments, O observation and A action dimensions, both flat, in physical units.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from vgp_lightning.agent.habit import choose_habit
from vgp_lightning.pipeline.guidance import Weighted
from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.inputs import as_floats, as_number, shorten
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

    Raises:
        ValueError: If a gain is not finite, an index is not whole, or there are not as many velocities as positions.
    """

    positions: Sequence[int]
    velocities: Sequence[int]
    position_gain: float
    velocity_gain: float

    def __post_init__(self) -> None:
        """Refuse gains and indices that lead to no action."""
        for name in ("position_gain", "velocity_gain"):
            if as_number(getattr(self, name)) is None:
                raise ValueError(f"{name} is {shorten(getattr(self, name))}: a finite number is needed")
        for name in ("positions", "velocities"):
            indices = getattr(self, name)
            if np.ndim(indices) != 1 or any(as_number(index, whole=True) is None for index in indices):
                raise ValueError(f"{name} is {shorten(indices)}: indices of observation dimensions are needed")
        if len(self.positions) != len(self.velocities):
            raise ValueError(
                f"there are {len(self.positions)} positions and {len(self.velocities)} velocities: as many are needed"
            )

    def __call__(self, observations: NDArray[np.floating], planned: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the actions (N, A) that lead from the observations (N, O) to the planned next observations (N, O).

        Raises:
            ValueError: If an index is not one of the O dimensions.
        """
        error = planned - observations
        dimensions = error.shape[1]
        if outside := [i for i in (*self.positions, *self.velocities) if not -dimensions <= i < dimensions]:
            raise ValueError(f"the controller's indices {outside} are not among the {dimensions} of an observation")
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
        resolved: All settings of planning that hold.
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
        habit: bool = False,
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
            habit: Answer by the habit in the planner's folder, in place of planning: a chunk of actions, of which
                ``replan_every`` are executed. There are no plans, so ``on_plan`` is not called.
            settings: Those of ``Settings``; the folder's defaults hold for what is not given. With a habit those of
                its teacher hold, and only ``replan_every`` may be another.

        Raises:
            ValueError: If a setting is wrong, or the conditions or the controller cannot be called; or if there is no
                habit, or it is given what only a planner can use.
        """
        for name, function in (("conditions", conditions), ("controller", controller)):
            if function is not None and not callable(function):
                raise ValueError(f"{name} is {shorten(function)}: a function of observations is needed")
        self._habit: Habit | None = None
        if habit:
            unused = {"conditions": conditions, "controller": controller, "objectives": objectives}
            self._habit, resolved = choose_habit(pipeline, unused, settings)
        else:
            resolved = pipeline.resolve_settings(objectives=objectives, **settings)
        self._horizon: int = resolved["planning_horizon"] if self._habit is None else self._habit.chunk
        self.resolved: Settings = resolved
        self.pipeline = pipeline
        self.replan_every: int = resolved["replan_every"]
        self.conditions = conditions
        self.controller = controller
        self.objectives = objectives
        self.settings = settings
        self.on_plan: Callable[[NDArray[np.int64], Plan], None] | None = None
        self._warm = self._habit is None and resolved["warm_start_strength"] < 1
        self._generators: list[torch.Generator] | None = None  # until the first reset

    def _make_room(self, count: int) -> None:
        """Prepare for so many environments, none of which has a plan."""
        dimensions = self.pipeline.action_dim + self.pipeline.observation_dim
        self._plans: NDArray[np.float32] = np.zeros((count, self._horizon, dimensions), dtype=np.float32)  # (N, H, T)
        self._age: NDArray[np.int64] = np.full(count, -1)  # executed steps of each plan; -1: there is no plan

    def reset(self, seeds: Sequence[int | None] | NDArray[np.integer]) -> None:
        """Begin episodes: for each seed that is not None, forget the environment's plan and seed its generator.

        Args:
            seeds: One for each environment, whole numbers from 0 on. Another number of them than before: all
                environments begin anew.

        Raises:
            ValueError: If a seed is no such number; no episode has begun then.
        """
        plain = _check_seeds(seeds)
        if self._generators is None or len(plain) != len(self._generators):
            # Asked for here, not at each call of act: diffusers looks through all modules for it.
            self._device = self.pipeline.device
            self._generators = [torch.Generator(self._device) for _ in plain]
            self._make_room(len(plain))
        for i, seed in enumerate(plain):
            if seed is not None:
                self._generators[i].manual_seed(seed)
                self._age[i] = -1

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Plan for the active environments that need a new plan, in one batch, and return the actions (N, A).

        Args:
            observations: (N, O), as many as the seeds given to ``reset``.
            active: (N,), which environments are in use; None: all.

        Raises:
            ValueError: If ``reset`` was not called, the observations are not (N, O) numbers for its N seeds, ``active``
                is not (N,) booleans, no finite plan can be made, or the controller returns no finite action for an
                active environment.
        """
        if self._generators is None:
            raise ValueError("act needs a reset first: reset([seed]), with one seed for each environment")
        observations = self._check_observations(observations, len(self._generators))
        if active is None:
            active = np.ones(len(observations), dtype=bool)
        active = np.asarray(active)
        if active.dtype != bool or active.shape != (len(observations),):
            raise ValueError(
                f"active has shape {active.shape} and type {active.dtype}: ({len(observations)},) booleans are needed"
            )
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
            actions = self._follow(self.controller, observations, later[:, self.pipeline.action_dim :], active)
        return actions.astype(np.float32)

    def _check_observations(self, observations: NDArray[np.floating], count: int) -> NDArray[np.floating]:
        """Return the observations as an array, or refuse them."""
        numbers = as_floats(observations, "observations", self._device)
        if numbers.ndim and len(numbers) != count:
            raise ValueError(
                f"{len(numbers)} observations, but reset was given {count} seeds: one for each environment is needed"
            )
        if numbers.shape != (count, self.pipeline.observation_dim):
            raise ValueError(
                f"observations have shape {tuple(numbers.shape)}: ({count}, {self.pipeline.observation_dim}) is "
                "needed, flat and in the environment's units"
            )
        return numbers.cpu().numpy() if isinstance(observations, torch.Tensor) else np.asarray(observations)

    def _follow(
        self,
        controller: Controller,
        observations: NDArray[np.floating],
        planned: NDArray[np.floating],
        active: NDArray[np.bool_],
    ) -> NDArray[np.floating]:
        """Return a controller's actions (N, A), clipped to their bounds; an idle environment's may be anything."""
        followed = as_floats(controller(observations, planned), "what the controller returned", self._device)
        needed = (len(observations), self.pipeline.action_dim)
        if followed.shape != needed:
            raise ValueError(f"the controller returned actions of shape {tuple(followed.shape)}: {needed} is needed")
        followed = followed.cpu()
        finite = followed.isfinite().all(dim=1)
        if lost := np.flatnonzero(active & ~finite.numpy()).tolist():
            raise ValueError(
                f"the controller returned actions that are not finite for environments {lost}: check its gains and the "
                "observations"
            )
        followed = followed.where(finite[:, None], 0)
        actions: NDArray[np.floating] = self.pipeline.frame.clip_actions(followed).numpy()
        return actions

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
        """Make plans for these environments, or let the habit answer."""
        if self._habit is not None:
            answers = self._habit.answer(observations[due])
            self._plans[due, :, : self.pipeline.action_dim] = answers.cpu().numpy()
            self._age[due] = 0
            return
        generators: Any = self._generators
        conditions = None if self.conditions is None else self.conditions(observations[due])
        try:
            plan = self.pipeline(
                observations[due],
                generator=[generators[i] for i in due],
                conditions=conditions,
                warm_start=start,
                objectives=self.objectives,
                **self.settings,
            )
        except ValueError as error:
            if len(due) == len(observations):
                raise
            raise ValueError(f"planning for environments {due.tolist()}, as rows from 0 on: {error}") from error
        self._plans[due] = plan.trajectories.cpu().numpy()
        self._age[due] = 0
        if self.on_plan is not None:
            self.on_plan(due, plan)


def _check_seeds(seeds: Any) -> list[int | None]:
    """Return seeds as Python's own numbers."""
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence | np.ndarray) or np.ndim(seeds) != 1:
        raise ValueError(f"seeds is {shorten(seeds)}: a list of one seed for each environment is needed")
    plain: list[int | None] = []
    for i, seed in enumerate(seeds):
        number = None if seed is None else as_number(seed, whole=True)
        if seed is not None and (number is None or not 0 <= number < 2**64):
            raise ValueError(
                f"seed {i} is {shorten(seed)}: a whole number between 0 and {2**64 - 1} is needed, or None"
            )
        plain.append(None if number is None else int(number))
    return plain
