"""Plans, and the choice of the best among candidates.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """The plan for each of N observations, in the environment's units, on the pipeline's device.

    Attributes:
        actions: (N, H, A), within the action bounds.
        observations: (N, H, O); step 0 is the present observation.
        values: (N,), predicted discounted return, or the sum of the objectives; NaN without either.
        candidates: All of them on request, best first: (N, K, H, A), (N, K, H, O), (N, K).
    """

    actions: torch.Tensor
    observations: torch.Tensor
    values: torch.Tensor
    candidates: "Plan | None" = None

    @property
    def trajectories(self) -> torch.Tensor:
        """The plans as trajectories (..., H, T), action first: what a warm start takes."""
        return torch.cat([self.actions, self.observations], dim=-1)


def choose(
    actions: torch.Tensor,
    observations: torch.Tensor,
    values: torch.Tensor,
    scores: torch.Tensor,
    temperature: float,
    keep_all: bool,
) -> Plan:
    """Return one plan for each observation: its best candidate, or the mean of all by weights that their scores give.

    A candidate without a finite score comes last, and has no weight.

    Args:
        actions: (N, K, H, A).
        observations: (N, K, H, O).
        values: (N, K).
        scores: (N, K), by which the candidates are ranked; of equal ones the first is the best.
        temperature: That of ``weigh``; 0: the best candidate alone.
        keep_all: Whether the plan also has all candidates, best first.
    """
    several, mixed = values.shape[1] > 1, temperature > 0
    if several:
        order = scores.where(scores.isfinite(), -math.inf).argsort(dim=1, descending=True, stable=True)
        order = order[:, : None if keep_all or mixed else 1]  # (N, K) or (N, 1)
        values, scores = values.gather(1, order), scores.gather(1, order)
        actions, observations = (
            part.take_along_dim(order[:, :, None, None], dim=1) for part in (actions, observations)
        )
    candidates = Plan(actions, observations, values) if keep_all else None
    if not (several and mixed):
        return Plan(actions[:, 0], observations[:, 0], values[:, 0], candidates)
    weights = weigh(scores, temperature)
    actions, observations = (mix(part, weights[:, :, None, None]) for part in (actions, observations))
    return Plan(actions, observations, mix(values, weights), candidates)


def mix(parts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of candidates (N, K, ...). What all of them agree in stays as it is, to the last bit."""
    best = parts[:, :1]
    differences = (parts - best).where(weights > 0, 0)  # infinity times a weight of 0 would be NaN
    return (best + (weights * differences).sum(dim=1, keepdim=True)).squeeze(1)


def weigh(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the weights (N, K) of candidates by their scores (N, K): a softmax of their standard scores.

    They are relative to the other candidates of the observation, so that one temperature suits all tasks. A candidate
    without a finite score counts nothing; where none has one, because the planner has no value function, all count
    alike. Where all scores are the same they tell nothing: then the first candidate counts alone, which is what the
    planner would do without a choice.

    Args:
        scores: (N, K).
        temperature: 0: the best candidate alone; infinity: all alike.
    """
    finite = scores.isfinite()
    known = scores.where(finite, 0).double()
    number = finite.sum(1, keepdim=True).clamp(min=1)
    centred = (known - known.sum(1, keepdim=True) / number).where(finite, 0)
    deviation = (centred.square().sum(1, keepdim=True) / number).sqrt()
    standard = (centred / deviation.clamp(min=1e-30)).where(finite | ~finite.any(1, keepdim=True), -math.inf)
    best = standard.amax(1, keepdim=True)
    weights = torch.softmax((standard - best) / max(temperature, 1e-9), dim=1)
    first = finite & (finite.cumsum(1) == 1)
    lowest, highest = scores.where(finite, math.inf).amin(1), scores.where(finite, -math.inf).amax(1)
    return torch.where((lowest == highest)[:, None], first, weights).float()
