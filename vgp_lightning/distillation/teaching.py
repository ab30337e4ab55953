"""What the planner would do in a state: the first actions of its candidates, averaged by their scores.

Shapes: S states, K candidates for each, C actions of an answer, A action and O observation dimensions, in the
environment's units.
"""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from vgp_lightning.pipeline.plan import Plan
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings

_PLANS = 1024  # in one call of the planner: with more a plan takes no less time


class Teacher:
    """A planner that is asked what it would do; it remembers the states and what a habit shall answer in them.

    Plans begin from noise, also those of a planner that would start warm: a state has no plan before it.
    """

    def __init__(
        self, pipeline: ValueGuidedPlannerPipeline, chunk: int, temperature: float, seed: int, settings: Settings
    ) -> None:
        """Take the planner.

        Args:
            pipeline: The planner.
            chunk: C.
            temperature: The ``choice_temperature`` of what it answers.
            seed: Of the planner's noise.
            settings: All settings of planning.
        """
        self._pipeline, self._chunk, self._temperature, self._settings = pipeline, chunk, temperature, settings
        self._generator = torch.Generator(pipeline.device).manual_seed(seed)
        self._states: list[torch.Tensor] = []
        self._answers: list[torch.Tensor] = []

    def __len__(self) -> int:
        """Return in how many states it was asked."""
        return sum(map(len, self._states))

    @property
    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The states (S, O) in which it was asked, and what a habit shall answer, (S, C, A)."""
        return torch.cat(self._states), torch.cat(self._answers)

    def ask(self, states: NDArray[np.float32]) -> None:
        """Ask what it would do in states (S, O)."""
        size = max(1, _PLANS // self._settings["batch_size"])
        console = Console(stderr=True)
        beginnings = range(0, len(states), size)
        for begin in track(beginnings, "Planning", console=console, disable=not console.is_terminal, transient=True):
            self.answer(torch.from_numpy(states[begin : begin + size]))

    def answer(self, states: torch.Tensor) -> torch.Tensor:
        """Ask in states (n, O), and return the actions (n, C, A) with which the planner itself would begin.

        If it takes the mean of its candidates, that is the one which a habit learns, at the teacher's temperature.
        """
        mixing: Settings = {**self._settings, "choice_temperature": self._temperature}
        plan = self._pipeline(states, generator=self._generator, return_candidates=True, **mixing)
        self._states.append(states.to(torch.float32))
        self._answers.append(plan.actions[:, : self._chunk].cpu())
        if self._settings["choice_temperature"] == 0:
            return cast(Plan, plan.candidates).actions[:, 0, : self._chunk].cpu()
        return self._answers[-1]
