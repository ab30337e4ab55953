"""Commitments: what plans keep of earlier plans, so that an agent can go from the one to the other without a jump.

While a plan is made, an agent executes steps of the previous one. Black et al. 2025, "Real-Time Execution of Action
Chunking Flow Policies", calls these steps the inference delay: the new plan has to have exactly their actions, and the
actions after them should be near the previous plan's. The paper changes the velocity field by a gradient through the
network. A denoiser that predicts the clean plan needs no gradient: the prediction is blended with the previous plan.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
"""

import math
from dataclasses import dataclass

import torch

from .conditions import Observations
from .frame import Frame
from .inputs import as_floats

# Previous plans (N, H, T) in the environment's units, from the present step on, and their weights (H,) or (N, H).
Committed = tuple[Observations, Observations]


@dataclass(frozen=True)
class Commitment:
    """Previous plans that new ones are blended with.

    Attributes:
        raw: (N, H, T), in the environment's units, actions within their bounds.
        exact: (N, H, T), whether the weight is 1.
        plans: (N, 1, H, T), normalised and folded; any number where the weight is 0.
        weights: (N, 1, H, T), folded, between 0 and 1; 0 where a condition or NaN stands.
    """

    raw: torch.Tensor
    exact: torch.Tensor
    plans: torch.Tensor
    weights: torch.Tensor

    def blend(self, clean: torch.Tensor) -> torch.Tensor:
        """Return predicted clean plans (N, K, H, T), moved towards the previous ones by the weights."""
        return torch.lerp(clean, self.plans, self.weights)  # exact at the weights 0 and 1

    def hold(self, trajectories: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """Return the conditions (N, 1, H, T) with the trajectories' own entries where the weight is 1.

        Guidance that gets them as its conditions moves no such entry.
        """
        return torch.where(self.weights == 1, trajectories, conditions)

    def fix(self, conditions: torch.Tensor) -> torch.Tensor:
        """Return conditions (N, H, T) in the environment's units with the previous plans where the weight is 1."""
        return torch.where(self.exact, self.raw, conditions)


def place_commitment(committed: Committed | None, conditions: torch.Tensor, frame: Frame) -> Commitment | None:
    """Return what the plans keep of previous ones; None: nothing.

    Args:
        committed: Previous plans (N, H, T) and weights (H,) or (N, H); NaN in a plan leaves the entry free.
        conditions: (N, H, T) in the environment's units, NaN where the plans are free. They precede the commitment.
        frame: The plans', on the planner's device.

    Raises:
        ValueError: If it is no pair, a shape does not fit, a plan is infinite or a weight is not between 0 and 1.
    """
    if committed is None:
        return None
    if not isinstance(committed, tuple | list) or len(committed) != 2:
        raise ValueError(
            f"committed is a {type(committed).__name__}: a pair (previous plans (N, H, T), weights (H,) or (N, H)) is "
            "needed"
        )
    device, shape = conditions.device, tuple(conditions.shape)
    plans = as_floats(committed[0], "the plans of committed", device)
    weights = as_floats(committed[1], "the weights of committed", device)
    if plans.shape != shape or plans.isinf().any():
        raise ValueError(
            f"the plans of committed have shape {tuple(plans.shape)}: finite plans {shape} are needed, action first, "
            "in the environment's units; NaN leaves an entry free"
        )
    if weights.shape not in (shape[1:2], shape[:2]):
        raise ValueError(
            f"the weights of committed have shape {tuple(weights.shape)}: ({shape[1]},) or {shape[:2]} is needed, one "
            "for each step"
        )
    if not ((weights >= 0) & (weights <= 1)).all():
        raise ValueError(
            f"the weights of committed are {weights.tolist()}: numbers between 0 (free) and 1 (exactly the previous "
            "plan) are needed"
        )
    if not weights.any():
        return None
    plans, weights = plans.to(device), weights.to(device)
    free = plans.isnan() | ~conditions.isnan()
    actions, observations = plans[..., : frame.action_dim], plans[..., frame.action_dim :]
    raw = torch.cat([frame.clip_actions(actions), observations], dim=-1)
    weights = weights.expand(shape[:2])[..., None].masked_fill(free, 0)
    normalised = frame.normalise(raw).masked_fill(frame.fold(free), 0)
    return Commitment(raw, weights == 1, normalised[:, None], frame.fold(weights)[:, None])


def commitment_weights(horizon: int, delay: int, overlap: int) -> list[float]:
    """Return the weights (H,) of real-time chunking: 1 on the delay, then falling to 0 (Black et al. 2025, eq. 5).

    Args:
        horizon: H.
        delay: Number of first steps that will have been executed when the new plan is there.
        overlap: Number of first steps that are drawn towards the previous plan.
    """
    falling = [(overlap - i) / (overlap - delay + 1) for i in range(delay, overlap)]
    weights = [1.0] * delay + [share * math.expm1(share) / math.expm1(1) for share in falling]
    return weights + [0.0] * (horizon - len(weights))
