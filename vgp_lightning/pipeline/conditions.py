"""Conditions: what a plan must pass through, checked, placed in a trajectory, and pinned there.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
"""

import math
from collections.abc import Mapping
from numbers import Integral

import numpy as np
import torch

from .inputs import all_finite, as_floats, shorten

Observations = np.ndarray | torch.Tensor


def place_conditions(
    observation: Observations,
    conditions: Mapping[int, Observations] | None,
    horizon: int,
    action_dim: int,
    observation_dim: int,
    device: torch.device,
    stride: int = 1,
) -> torch.Tensor:
    """Return what the plans must pass through as (N, H, T) in the environment's units, NaN where they are free.

    Args:
        observation: The present one, (O,) or (N, O): step 0 of the plans.
        conditions: Further ones, ``{step: (O,) or (N, O)}``; negative steps count from the end, NaN leaves a dimension
            free. None: no further ones. With a stride they stand at its multiples, or in the last s steps, which have
            one observation.
        horizon: H.
        action_dim: A.
        observation_dim: O.
        device: The planner's.
        stride: s, the steps of the environment that one step of the networks stands for.

    Raises:
        ValueError: If something is no array of numbers, a shape or a step does not fit, or a number is not finite.
    """
    first = as_floats(observation, "observation", device)
    shape = tuple(first.shape)
    first = first[None] if first.ndim == 1 else first
    if first.ndim != 2 or first.shape[1] != observation_dim or len(first) == 0:
        raise ValueError(
            f"observation has shape {shape}: "
            f"({observation_dim},) or (N, {observation_dim}) is needed, in the environment's units"
        )
    if not all_finite(first):
        rows = (~first.isfinite()).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(
            f"observation is not finite in float32, in rows {shorten(rows)}: {shorten(observation)}. To leave a later "
            "step free use conditions"
        )
    placed = first.new_full((len(first), horizon, action_dim + observation_dim), math.nan)
    if conditions is not None and not isinstance(conditions, Mapping):
        raise ValueError(f"conditions is {shorten(conditions)}: {{step: observation}} is needed")
    for step, given in (conditions or {}).items():
        if not isinstance(step, Integral) or isinstance(step, bool):
            raise ValueError(f"condition at step {shorten(repr(step))}: a whole number is needed")
        if not -horizon < step < horizon or step == 0:
            raise ValueError(
                f"condition at step {shorten(step)}: it must lie between 1 and {horizon - 1}, or {1 - horizon} and -1 "
                "from the end; step 0 is the observation itself"
            )
        row = step % horizon
        last = row >= horizon - stride  # of the networks' steps, whose observation the plan keeps to its end
        if row % stride and not last:
            raise ValueError(
                f"condition at step {step}: this planner has a stride of {stride}, so a multiple of {stride} is "
                f"needed, or one of the last {stride} steps"
            )
        if not placed[:, row].isnan().all():
            raise ValueError(f"condition at step {step} meets another one of the same step")
        condition = as_floats(given, f"condition at step {step}", device).to(first.device)
        if condition.shape not in ((observation_dim,), (len(first), observation_dim)):
            raise ValueError(
                f"condition at step {step} has shape {tuple(condition.shape)}: "
                f"({observation_dim},) or ({len(first)}, {observation_dim}) is needed"
            )
        if condition.isinf().any():
            raise ValueError(
                f"condition at step {step} is not finite in float32: {shorten(given)}. NaN leaves a dimension free"
            )
        if last:
            placed[:, horizon - stride :, action_dim:] = condition[..., None, :]
        else:
            placed[:, row, action_dim:] = condition
    placed[:, 0, action_dim:] = first
    return placed


def pin(trajectories: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
    """Return the trajectories (N, K, H, T) with the conditions (N, 1, H, T) in place; NaN leaves an entry free."""
    return torch.where(conditions.isnan(), trajectories, conditions)
