"""What the planner would do in a state: the first actions of its candidates, averaged by their values.

Shapes: S states, K candidates for each, C actions of an answer, A action and O observation dimensions, in the
environment's units.
"""

import math
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
            temperature: That of ``weigh``.
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
        """Ask in states (n, O), and return the best plan's actions (n, C, A)."""
        plan = self._pipeline(states, generator=self._generator, return_candidates=True, **self._settings)
        candidates = cast(Plan, plan.candidates)
        weights = weigh(candidates.values, self._temperature)
        self._states.append(states.to(torch.float32))
        self._answers.append((weights[:, :, None, None] * candidates.actions[:, :, : self._chunk]).sum(1).cpu())
        return plan.actions[:, : self._chunk].cpu()


def weigh(values: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the weights (S, K) of candidates by their values (S, K): a softmax of their standard scores.

    The scores are relative to the other candidates of the state, so that one temperature suits all tasks. A candidate
    without a finite value counts nothing; where none has one, because the planner has no value function, all count
    alike.

    Args:
        values: (S, K).
        temperature: 0: the best candidate alone; infinity: all alike.
    """
    finite = values.isfinite()
    known = values.where(finite, 0).double()
    number = finite.sum(1, keepdim=True).clamp(min=1)
    centred = (known - known.sum(1, keepdim=True) / number).where(finite, 0)
    deviation = (centred.square().sum(1, keepdim=True) / number).sqrt()
    scores = (centred / deviation.clamp(min=1e-300)).where(finite | ~finite.any(1, keepdim=True), -math.inf)
    best = scores.amax(1, keepdim=True)
    weights = torch.softmax((scores - best) / max(temperature, 1e-9), dim=1)
    return weights.float()
