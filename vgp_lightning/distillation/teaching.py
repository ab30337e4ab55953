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


def ask(
    pipeline: ValueGuidedPlannerPipeline,
    states: NDArray[np.float32],
    chunk: int,
    temperature: float,
    seed: int,
    settings: Settings,
) -> torch.Tensor:
    """Return what a habit shall answer in each state, (S, C, A).

    Plans begin from noise, also those of a planner that would start warm: a state has no plan before it.

    Args:
        pipeline: The planner.
        states: (S, O).
        chunk: C.
        temperature: That of ``weigh``.
        seed: Of the planner's noise.
        settings: All settings of planning.
    """
    generator = torch.Generator(pipeline.device).manual_seed(seed)
    size = max(1, _PLANS // settings["batch_size"])
    console, answers = Console(stderr=True), []
    beginnings = range(0, len(states), size)
    for begin in track(beginnings, "Planning", console=console, disable=not console.is_terminal, transient=True):
        rows = states[begin : begin + size]
        candidates = cast(Plan, pipeline(rows, generator=generator, return_candidates=True, **settings).candidates)
        weights = weigh(candidates.values, temperature)
        answers.append((weights[:, :, None, None] * candidates.actions[:, :, :chunk]).sum(1).cpu())
    return torch.cat(answers)


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
