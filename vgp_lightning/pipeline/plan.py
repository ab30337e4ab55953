"""Plans, and the choice of the best among candidates.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """The best candidate for each of N observations, in the environment's units, on the pipeline's device.

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


def choose(actions: torch.Tensor, observations: torch.Tensor, values: torch.Tensor, keep_all: bool) -> Plan:
    """Return the candidate of the highest value for each observation; of equal ones the first.

    A candidate without a finite value comes last.

    Args:
        actions: (N, K, H, A).
        observations: (N, K, H, O).
        values: (N, K).
        keep_all: Whether the plan also has all candidates, best first.
    """
    if values.shape[1] > 1:
        order = values.where(values.isfinite(), -math.inf).argsort(dim=1, descending=True, stable=True)
        order = order[:, : None if keep_all else 1]  # (N, K) or (N, 1)
        values = values.gather(1, order)
        actions, observations = (
            part.take_along_dim(order[:, :, None, None], dim=1) for part in (actions, observations)
        )
    candidates = Plan(actions, observations, values) if keep_all else None
    return Plan(actions[:, 0], observations[:, 0], values[:, 0], candidates)
