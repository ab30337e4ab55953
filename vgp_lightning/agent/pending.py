"""Pending plans: those that have been started and are not executed yet, because they are made while others are.

Shapes: N environments.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vgp_lightning.pipeline.inputs import as_number, shorten
from vgp_lightning.pipeline.plan import Plan


@dataclass
class _Job:
    """Plans that are made in one batch.

    Attributes:
        rows: (n,), the environments.
        wanted: (n,), whether the environment still waits for its plan.
        plan: The plans, or what went wrong.
    """

    rows: NDArray[np.int64]
    wanted: NDArray[np.bool_]
    plan: "Future[Plan]"


class PendingPlans:
    """Plans that have been started, each of which arrives a fixed number of its environment's steps later.

    The numbers do not depend on the thread: whoever takes a plan that is not ready waits for it.

    Attributes:
        delay: Number of steps between the start of a plan and its arrival.
    """

    def __init__(self, delay: int, *, asynchronous: bool) -> None:
        """Make room for no environment.

        Args:
            delay: Number of steps between the start of a plan and its arrival.
            asynchronous: Make plans in a thread of their own, one batch after the other; else at once. The thread ends
                with this object, or with the process.
        """
        self.delay = delay
        # The executor ends its thread when nobody refers to the executor any more.
        self._executor = ThreadPoolExecutor(1, "vgp-planning") if asynchronous else None
        self._jobs: list[_Job] = []
        self.resize(0)

    def resize(self, count: int) -> None:
        """Prepare for so many environments, none of which waits for a plan."""
        for job in self._jobs:
            job.plan.cancel()
        self._jobs = []
        self._steps: NDArray[np.int64] = np.full(count, -1)  # of each environment since its plan's start; -1: no plan

    @property
    def started(self) -> NDArray[np.bool_]:
        """(N,), which environments wait for a plan."""
        started: NDArray[np.bool_] = self._steps >= 0
        return started

    def start(self, rows: NDArray[np.int64], make: Callable[[], Plan]) -> None:
        """Start plans.

        Args:
            rows: (n,), the environments; none of them waits for a plan.
            make: Makes the plans. What it uses must not change any more.
        """
        if self._executor is not None:
            plan = self._executor.submit(make)
        else:
            plan = Future()
            try:
                plan.set_result(make())
            except Exception as error:  # raised at the arrival, as with the thread
                plan.set_exception(error)
        self._jobs.append(_Job(rows, np.ones(len(rows), dtype=bool), plan))
        self._steps[rows] = 0

    def advance(self, active: NDArray[np.bool_]) -> None:
        """Count a step of the active environments (N,)."""
        self._steps[active & self.started] += 1

    def drop(self, row: int) -> None:
        """Forget an environment's plan. A batch is not begun any more if no environment wants its plan."""
        self._steps[row] = -1
        for job in self._jobs:
            job.wanted &= job.rows != row
            if not job.wanted.any():
                job.plan.cancel()

    def arrivals(self, active: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], Plan]]:
        """Yield the plans that arrive now for active environments (N,), and wait for those that are not ready.

        Yields:
            Environments (n,) and their plans.

        Raises:
            Exception: What the making of the plans raised; the environments do not wait for a plan any more.
        """
        for job in list(self._jobs):
            arrived = job.wanted & active[job.rows] & (self._steps[job.rows] >= self.delay)
            if arrived.any():
                try:
                    plan = job.plan.result()
                except Exception:
                    arrived = job.wanted
                    raise
                finally:
                    self._steps[job.rows[arrived]] = -1
                    job.wanted = job.wanted & ~arrived
                yield job.rows[arrived], _select(plan, arrived)
        self._jobs = [job for job in self._jobs if job.wanted.any()]


def _select(plan: Plan, rows: NDArray[np.bool_]) -> Plan:
    """Return some rows of plans; the same object if all are wanted."""
    if rows.all():
        return plan
    kept = torch.from_numpy(np.flatnonzero(rows)).to(plan.actions.device)
    actions, observations, values = (part[kept] for part in (plan.actions, plan.observations, plan.values))
    candidates = None if plan.candidates is None else _select(plan.candidates, rows)
    return replace(plan, actions=actions, observations=observations, values=values, candidates=candidates)


def check_delay(asynchronous: Any, delay: Any, replan_every: int, horizon: int) -> int:
    """Return the delay in steps.

    Args:
        asynchronous: Whether plans are made in the background.
        delay: What the user gave; None: 1 if plans are made in the background, else 0.
        replan_every: Steps of a plan that are executed; 0: the whole plan.
        horizon: Steps of a plan.

    Raises:
        ValueError: If it is no whole number of steps, or a plan would end before the next one is there.
    """
    if not isinstance(asynchronous, bool):
        raise ValueError(f"asynchronous is {shorten(asynchronous)}: True or False is needed")
    steps = int(asynchronous) if delay is None else as_number(delay, whole=True)
    if steps is None or steps < 0:
        raise ValueError(f"delay is {shorten(delay)}: a whole number of steps from 0 on is needed")
    if steps and not replan_every:
        raise ValueError(
            f"delay is {steps}, but replan_every is 0: an agent that plans once per episode waits for its plan. Use "
            "delay=0, or replan_every=1 or more"
        )
    if steps > replan_every:
        raise ValueError(
            f"delay is {steps}, but replan_every is {replan_every}: the next plan would be started before this one is "
            f"there. Use replan_every={steps} or more"
        )
    if steps and steps + replan_every > horizon:
        raise ValueError(
            f"delay is {steps} and replan_every is {replan_every}: their sum is at most planning_horizon, which is "
            f"{horizon}, because a plan is executed until the next one is there"
        )
    return int(steps)
