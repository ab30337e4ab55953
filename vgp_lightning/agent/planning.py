"""Receding-horizon control: an agent that plans, executes a few steps, and plans again.

Shapes: N environments, O observation and A action dimensions, both flat, in physical units.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from vgp_lightning.agent.controllers import Controller, follow
from vgp_lightning.agent.habit import choose_habit
from vgp_lightning.agent.pending import PendingPlans, check_delay
from vgp_lightning.pipeline.commitment import Committed, commitment_weights
from vgp_lightning.pipeline.guidance import Weighted
from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.inputs import as_floats, as_number, shorten
from vgp_lightning.pipeline.plan import Plan
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings

# Makes the inpainting conditions of plans from the observations (N, O): {step: (N, O)}, as the pipeline's
# ``conditions``.
Conditions = Callable[[NDArray[np.floating]], Mapping[int, NDArray[np.floating]]]


class PlanningAgent:
    """Receding-horizon control: plan, act, plan again, with one random generator per environment.

    With a ``delay`` of d steps a plan is executed from the d-th step after its observation on, and the previous plan
    until then; with ``asynchronous`` a background thread makes it meanwhile. The new plan is committed to the actions
    of these d steps, and drawn towards the previous plan's actions after them, so that the actions do not jump. The
    delay decides the actions; the thread and the machine's speed do not.

    In your own loop::

        agent = PlanningAgent(pipeline)
        agent.reset([seed])
        action = agent.act(observation[None])[0]

    Attributes:
        resolved: All settings of planning that hold.
        on_plan: Called with the indices of the environments (n,) and their Plan when the agent begins to execute it:
            ``delay`` steps after its observation, except for an episode's first plan; None: not used.
        keep_candidates: Ask the pipeline for all candidates, which are then in the ``candidates`` of the plans that
            ``on_plan`` is given. The plans are the same to the last bit.
        delay: Steps between the observation that a plan is made from and the first step at which it is executed.
    """

    def __init__(
        self,
        pipeline: ValueGuidedPlannerPipeline,
        *,
        conditions: Conditions | None = None,
        controller: Controller | None = None,
        objectives: Weighted | None = None,
        asynchronous: bool = False,
        delay: int | None = None,
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
            objectives: What guidance climbs and candidates are ranked by, as the pipeline's ``objectives``; evaluated
                in the background thread if there is one.
            asynchronous: Make plans in a background thread while the previous one is executed. ``act`` waits for an
                episode's first plan, and for a plan that is not ready ``delay`` steps after its observation.
            delay: Steps between the observation that a plan is made from and the first step at which it is executed, at
                most ``replan_every``; None: 1 if asynchronous, else 0.
            habit: Answer by the habit in the planner's folder, in place of planning: a chunk of actions, of which
                ``replan_every`` are executed. There are no plans, so ``on_plan`` is not called.
            settings: Those of ``Settings``; the folder's defaults hold for what is not given. With a habit those of
                its teacher hold, and only ``replan_every`` may be another.

        Raises:
            ValueError: If a setting or the delay is wrong, or the conditions or the controller cannot be called; or if
                there is no habit or critic, or a habit is given what only a planner can use.
        """
        for name, function in (("conditions", conditions), ("controller", controller)):
            if function is not None and not callable(function):
                raise ValueError(f"{name} is {shorten(function)}: a function of observations is needed")
        self._habit: Habit | None = None
        if habit:
            unused: dict[str, Any] = {"conditions": conditions, "controller": controller, "objectives": objectives}
            unused |= {"asynchronous": asynchronous or None, "delay": delay or None}
            self._habit, resolved = choose_habit(pipeline, unused, settings)
        else:
            resolved = pipeline.resolve_settings(objectives=objectives, **settings)
        by_critic = self._habit is None and resolved["rank_by"] == "critic" and objectives is None
        if by_critic:
            pipeline.load_critic()  # whether there is one shows before anything is played
        self._horizon: int = resolved["planning_horizon"] if self._habit is None else self._habit.chunk
        self.resolved: Settings = resolved
        self.pipeline = pipeline
        self.replan_every: int = resolved["replan_every"]
        self.delay = check_delay(asynchronous, delay, self.replan_every, self._horizon)
        if by_critic and self.delay and resolved["batch_size"] > 1:
            raise ValueError(
                f"rank_by is critic, with a delay of {self.delay}: a critic judges a plan's first action, which "
                "the delay has fixed before. Rank by value"
            )
        self._pending = PendingPlans(self.delay, asynchronous=asynchronous)
        self.conditions = conditions
        self.controller = controller
        self.objectives = objectives
        self.settings = settings
        self.on_plan: Callable[[NDArray[np.int64], Plan], None] | None = None
        self.keep_candidates = False
        self._warm = self._habit is None and resolved["warm_start_strength"] < 1
        self._generators: list[torch.Generator] | None = None  # until the first reset

    def _make_room(self, count: int) -> None:
        """Prepare for so many environments, none of which has a plan."""
        dimensions = self.pipeline.action_dim + self.pipeline.observation_dim
        self._plans: NDArray[np.float32] = np.zeros((count, self._horizon, dimensions), dtype=np.float32)  # (N, H, T)
        # Steps since the observation of each plan, which are the row to execute; -1: there is no plan.
        self._age: NDArray[np.int64] = np.full(count, -1)
        self._pending.resize(count)

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
                # A new one: a plan that is being made for the episode before draws from the old one.
                self._generators[i] = torch.Generator(self._device).manual_seed(seed)
                self._age[i] = -1
                self._pending.drop(i)

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Plan for the active environments that need a new plan, in one batch, and return the actions (N, A).

        Args:
            observations: (N, O), as many as the seeds given to ``reset``.
            active: (N,), which environments are in use; None: all.

        Raises:
            ValueError: If ``reset`` was not called, the observations are not (N, O) numbers for its N seeds, ``active``
                is not (N,) booleans, no finite plan can be made, or the controller returns no finite action for an
                active environment. What goes wrong in the background is raised when the plan is due; the next call
                plans anew.
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
        for rows, plan in self._pending.arrivals(active):
            self._take(rows, plan, self.delay)
        self._plan(observations, active)
        steps = np.minimum(self._age, self._horizon - 1)
        now, later = self._row(steps), self._row(np.minimum(steps + 1, self._horizon - 1))
        actions = now[:, : self.pipeline.action_dim]
        if self.controller is not None:
            planned = later[:, self.pipeline.action_dim :]
            actions = follow(self.controller, observations, planned, active, self.pipeline.frame, self._device)
        self._age[active] += 1
        self._pending.advance(active)
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

    def _row(self, steps: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each environment's plan at its own step, (N, T)."""
        row: NDArray[np.float32] = self._plans[np.arange(len(steps)), steps]
        return row

    def _shifted(self, rows: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return these environments' plans (n, H, T) from the next step on, with the last step repeated."""
        steps = np.minimum(np.arange(self._horizon) + self._age[rows, None], self._horizon - 1)  # (n, H)
        shifted: NDArray[np.float32] = np.take_along_axis(self._plans[rows], steps[:, :, None], axis=1)
        return shifted

    def _plan(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> None:
        """Make the plans that the active environments need now, and start those that they need after the delay.

        A habit's answers stand in the place of plans.
        """
        missing = self._age < 0
        ending = np.zeros_like(missing)
        if self.replan_every:
            missing |= self._age >= self.replan_every + self.delay  # after an error, or without a delay
            ending = (self._age >= self.replan_every) & ~missing & ~self._pending.started
        missing, ending = active & missing, active & ending
        warm = missing & (self._age >= 0) if self._warm else np.zeros_like(missing)
        # At most two batches, because cold starts take more denoising steps.
        for rows, start in ((missing & ~warm, None), (warm, self._shifted(warm))):
            if rows.any():
                due = np.flatnonzero(rows)
                if self._habit is not None:
                    answers = self._habit.answer(observations[due])
                    self._plans[due, :, : self.pipeline.action_dim] = answers.cpu().numpy()
                    self._age[due] = 0
                else:
                    self._take(due, self._request(due, observations, start)(), 0)
        if ending.any():
            due, previous = np.flatnonzero(ending), self._shifted(ending)
            start = previous if self._warm else None
            self._pending.start(due, self._request(due, observations, start, self._commit(previous)))

    def _commit(self, previous: NDArray[np.float32]) -> Committed:
        """Return the commitment to what is executed of previous plans (n, H, T): their actions."""
        committed, horizon = previous.copy(), self._horizon
        # As far as the new plan is executed: further weights, as real-time chunking has, made a Hopper that plans at
        # every step slow to react, and it fell.
        executed, overlap = self.delay + self.replan_every, horizon - self.replan_every
        if self.controller is None:
            committed[..., self.pipeline.action_dim :] = np.nan
            return committed, np.array(commitment_weights(horizon, self.delay, min(executed, overlap)), np.float32)
        # A controller follows the next observation instead.
        committed[..., : self.pipeline.action_dim] = np.nan
        weights = [0.0, *commitment_weights(horizon - 1, self.delay, min(executed, overlap - 1))]
        return committed, np.array(weights, np.float32)

    def _request(
        self,
        due: NDArray[np.int64],
        observations: NDArray[np.floating],
        start: NDArray[np.float32] | None,
        committed: Committed | None = None,
    ) -> Callable[[], Plan]:
        """Return the function that makes plans for these environments from what they observe now."""
        everyone = len(due) == len(observations)
        present, generators = observations[due], [self._generators[i] for i in due]  # type: ignore[index]
        conditions = None if self.conditions is None else self.conditions(present)
        options: dict[str, Any] = {}
        if self.keep_candidates:
            options["return_candidates"] = True
        if committed is not None:
            options["committed"] = committed
            conditions = deepcopy(conditions)  # the user's arrays may change while the plans are made

        def make() -> Plan:
            try:
                return self.pipeline(
                    present,
                    generator=generators,
                    conditions=conditions,
                    warm_start=start,
                    objectives=self.objectives,
                    **options,
                    **self.settings,
                )
            except ValueError as error:
                if everyone:
                    raise
                raise ValueError(f"planning for environments {due.tolist()}, as rows from 0 on: {error}") from error

        return make

    def _take(self, rows: NDArray[np.int64], plan: Plan, age: int) -> None:
        """Follow new plans from the step of this number on."""
        self._plans[rows] = plan.trajectories.cpu().numpy()
        self._age[rows] = age
        if self.on_plan is not None:
            self.on_plan(rows, plan)


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
