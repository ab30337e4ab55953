"""Conditions: what a plan must pass through, checked, placed in a trajectory, and pinned there.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
"""

import math
from collections.abc import Mapping
from numbers import Integral

import numpy as np
import torch

Observations = np.ndarray | torch.Tensor


def place_conditions(
    observation: Observations,
    conditions: Mapping[int, Observations],
    horizon: int,
    action_dim: int,
    observation_dim: int,
) -> torch.Tensor:
    """Return what the plans must pass through as (N, H, T) in the environment's units, NaN where they are free.

    Args:
        observation: The present one, (O,) or (N, O): step 0 of the plans.
        conditions: Further ones, ``{step: (O,) or (N, O)}``; negative steps count from the end, NaN leaves a dimension
            free.
        horizon: H.
        action_dim: A.
        observation_dim: O.

    Raises:
        ValueError: If a shape or a step does not fit, or a number is not finite.
    """
    first = torch.as_tensor(observation, dtype=torch.float32)
    first = first[None] if first.ndim == 1 else first
    if first.ndim != 2 or first.shape[1] != observation_dim or len(first) == 0:
        raise ValueError(
            f"observation has shape {tuple(np.shape(observation))}: "
            f"({observation_dim},) or (N, {observation_dim}) is needed, in the environment's units"
        )
    if not first.isfinite().all():
        raise ValueError(f"observation is not finite: {observation}. To leave a later step free use conditions")
    placed = first.new_full((len(first), horizon, action_dim + observation_dim), math.nan)
    for step, condition in conditions.items():
        if not isinstance(step, Integral):
            raise ValueError(f"condition at step {step!r}: a whole number is needed")
        if not -horizon < step < horizon or step == 0:
            raise ValueError(
                f"condition at step {step}: it must lie between 1 and {horizon - 1}, or {1 - horizon} and -1 from "
                "the end; step 0 is the observation itself"
            )
        if not placed[:, step].isnan().all():
            raise ValueError(f"condition at step {step} meets another one of the same step")
        condition = torch.as_tensor(condition, dtype=torch.float32, device=first.device)
        if condition.shape not in ((observation_dim,), (len(first), observation_dim)):
            raise ValueError(
                f"condition at step {step} has shape {tuple(condition.shape)}: "
                f"({observation_dim},) or ({len(first)}, {observation_dim}) is needed"
            )
        if condition.isinf().any():
            raise ValueError(f"condition at step {step} is not finite: {condition}. NaN leaves a dimension free")
        placed[:, step, action_dim:] = condition
    placed[:, 0, action_dim:] = first
    return placed


def pin(trajectories: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
    """Return the trajectories (N, K, H, T) with the conditions (N, 1, H, T) in place; NaN leaves an entry free."""
    return torch.where(conditions.isnan(), trajectories, conditions)
