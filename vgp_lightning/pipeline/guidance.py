"""What a plan is worth, and which way is up: learned values, a user's own objectives, and their gradients.

Shapes: B plans, H steps, A action and O observation dimensions, T = A + O, action first.
This file travels in exported folders, joined with pipeline.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import UNet1DModel

from .fast_networks import FastValueFunction, accelerate_value_function

# A user's reward or penalty: (observations (B, H, O), actions (B, H, A)), in the environment's units -> (B,), by
# operations that torch can differentiate.
Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def predict_values(
    value_function: UNet1DModel, trajectories: torch.Tensor, timestep: int, fast: FastValueFunction | None = None
) -> torch.Tensor:
    """Return the normalised return (B,) that is predicted for trajectories (B, H, T) of a noise level."""
    if fast is not None:
        return fast(trajectories, timestep)
    timesteps = torch.full((len(trajectories),), timestep, device=trajectories.device)
    values: torch.Tensor = value_function(trajectories.transpose(1, 2).to(value_function.dtype), timesteps).sample
    return values.squeeze(-1).float()


def value_gradient(
    value_function: UNet1DModel, trajectories: torch.Tensor, timestep: int, fast: FastValueFunction | None = None
) -> torch.Tensor:
    """Return dV/dx (B, H, T) of the normalised return, also inside Lightning's inference mode."""
    if fast is not None:
        return fast.gradient(trajectories, timestep)
    with torch.inference_mode(False), torch.enable_grad():
        x = trajectories.clone().requires_grad_()
        values = predict_values(value_function, x, timestep)
        (gradient,) = torch.autograd.grad(values.sum(), x)
    return gradient


GUIDE_SCALINGS = ("variance", "std", "none", "stock")


def guide_factor(scaling: str, variance: float) -> float:
    """Return what the gradient is multiplied by besides the scale.

    ``variance`` is the paper's code. ``stock`` is what diffusers' ValueGuidedRLPipeline makes of it by taking a
    standard deviation for a log-variance: never below 1.
    """
    std = math.sqrt(variance)
    return {"variance": variance, "std": std, "none": 1.0, "stock": math.exp(0.5 * std)}[scaling]


def clip_norm(gradient: torch.Tensor, limit: float | None) -> torch.Tensor:
    """Return the gradient (..., H, T), where a plan's is longer than the limit shortened to it."""
    if limit is None:
        return gradient
    norm: torch.Tensor = torch.linalg.vector_norm(gradient, dim=(-2, -1), keepdim=True)
    return torch.where(norm > limit, gradient * (limit / norm), gradient)


@dataclass(frozen=True)
class Frame:
    """How normalised trajectories and the environment's units hang together: ``raw = normalised * scale + shift``."""

    action_dim: int
    shift: torch.Tensor  # (T,)
    scale: torch.Tensor  # (T,)

    def to_raw(self, trajectories: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the observations (..., O) and actions (..., A) of normalised trajectories (..., T)."""
        raw = trajectories * self.scale + self.shift
        return raw[..., self.action_dim :], raw[..., : self.action_dim]

    def agrees(self, other: "Frame") -> bool:
        """Tell whether the two normalise alike; of the same vectors without a look at them, which a GPU waits for."""
        return all(
            ours is theirs or torch.equal(ours, theirs)
            for ours, theirs in ((self.shift, other.shift), (self.scale, other.scale))
        )


@dataclass(frozen=True)
class LearnedValue:
    """A pipeline's value function as an objective, in the units of its return; ``pipeline.learned_value`` makes it."""

    network: UNet1DModel
    frame: Frame
    return_shift: float
    return_scale: float
    alphas_cumprod: torch.Tensor  # of the noise levels that it was trained on
    fast: FastValueFunction | None = None

    def prepared(self, horizon: int, frame: Frame) -> "LearnedValue":
        """Return the same, as fast as it can be evaluated for plans of a horizon with the weights of this moment.

        Where its own frame agrees with the plans' it takes that one, so that no step has to compare them.
        """
        fast = accelerate_value_function(self.network, horizon)
        return replace(self, fast=fast, frame=frame if self.frame.agrees(frame) else self.frame)

    def values(self, trajectories: torch.Tensor, timestep: int, frame: Frame) -> torch.Tensor:
        """Return the predicted return (B,) of trajectories (B, H, T) that are normalised in a frame."""
        normalised = predict_values(self.network, self._own(trajectories, frame), timestep, self.fast)
        return normalised * self.return_scale + self.return_shift

    def gradient(self, trajectories: torch.Tensor, timestep: int, frame: Frame) -> torch.Tensor:
        """Return the gradient (B, H, T) of the predicted return."""
        gradient = value_gradient(self.network, self._own(trajectories, frame), timestep, self.fast) * self.return_scale
        return gradient if self.frame.agrees(frame) else gradient * (frame.scale / self.frame.scale)

    def _own(self, trajectories: torch.Tensor, frame: Frame) -> torch.Tensor:
        """Return the trajectories as this value function was trained to see them."""
        if self.frame.agrees(frame):
            return trajectories
        return (trajectories * frame.scale + frame.shift - self.frame.shift) / self.frame.scale


Weighted = Sequence[tuple[float, LearnedValue | Objective]]


def total_value(
    objectives: Weighted,
    trajectories: torch.Tensor,
    observations: torch.Tensor,
    actions: torch.Tensor,
    frame: Frame,
) -> torch.Tensor:
    """Return the weighted sum (B,) for clean plans, given normalised and in the environment's units."""
    total = trajectories.new_zeros(len(trajectories))
    for weight, objective in objectives:
        if isinstance(objective, LearnedValue):
            total = total + weight * objective.values(trajectories, 0, frame)
        else:
            total = total + weight * objective(observations, actions)
    return total


def total_gradient(objectives: Weighted, trajectories: torch.Tensor, timestep: int, frame: Frame) -> torch.Tensor:
    """Return the gradient (B, H, T) of the weighted sum with respect to normalised trajectories of a noise level.

    A user's objective sees them as if they were plans.
    """
    total = torch.zeros_like(trajectories)
    for weight, objective in objectives:
        if isinstance(objective, LearnedValue):
            total = total + weight * objective.gradient(trajectories, timestep, frame)
        else:
            total = total + weight * _gradient(objective, trajectories, frame)
    return total


def _gradient(objective: Objective, trajectories: torch.Tensor, frame: Frame) -> torch.Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = trajectories.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(*frame.to_raw(x)).sum(), x)
    return gradient


def check_objectives(
    objectives: Weighted, horizon: int, frame: Frame, alphas_cumprod: torch.Tensor, guided: bool, guide_on: str
) -> None:
    """Try the objectives on two plans of zeros.

    Raises:
        ValueError: If an objective does not return one number a plan, cannot be differentiated, or is a value function
            that was trained for trajectories unlike this pipeline's.
    """
    if not isinstance(objectives, Sequence):
        raise ValueError(f"objectives is {objectives!r}: a list of pairs (weight, function or learned value) is needed")
    for number, entry in enumerate(objectives):
        if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], int | float)):
            raise ValueError(f"objective {number} is {entry!r}: a pair (weight, function or learned value) is needed")
        weight, objective = entry
        if not math.isfinite(weight):
            raise ValueError(f"objective {number} has weight {weight}: it must be finite")
        if isinstance(objective, LearnedValue):
            _check_learned_value(number, objective, frame, alphas_cumprod, guided and guide_on == "noisy")
            continue
        with torch.inference_mode(False), torch.enable_grad():
            plans = torch.zeros(2, horizon, len(frame.shift), device=frame.shift.device, requires_grad=True)
            value: Any = objective(*frame.to_raw(plans))
        if not isinstance(value, torch.Tensor) or value.shape != (2,):
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(
                f"objective {number} returned {got} for two plans: a tensor of shape (B,) is needed for observations "
                "(B, H, O) and actions (B, H, A)"
            )
        if guided and not value.requires_grad:
            raise ValueError(
                f"objective {number} has no gradient: compute it from its arguments with torch alone, or use "
                "n_guide_steps=0 to rank by it only"
            )


def _check_learned_value(
    number: int, value: LearnedValue, frame: Frame, alphas_cumprod: torch.Tensor, noisy: bool
) -> None:
    """Refuse a value function that was trained to see other trajectories than the pipeline's."""
    dimensions = (value.frame.action_dim, len(value.frame.shift))
    if dimensions != (frame.action_dim, len(frame.shift)):
        raise ValueError(
            f"objective {number} is a value function of {dimensions[0]} actions in {dimensions[1]} dimensions, but "
            f"this pipeline has {frame.action_dim} in {len(frame.shift)}"
        )
    if noisy and not value.frame.agrees(frame):
        raise ValueError(
            f"objective {number} is a value function with other statistics than this pipeline's, so it cannot judge "
            "noisy samples: use guide_on='clean', or train both on the same datasets"
        )
    if noisy and not torch.equal(value.alphas_cumprod.cpu(), alphas_cumprod.cpu()):
        raise ValueError(
            f"objective {number} is a value function of another noise schedule than this pipeline's, so it cannot "
            "judge noisy samples: use guide_on='clean', or train both with the same schedule"
        )
