"""Guidance: what a plan is worth, the gradients of learned values and of a user's objectives, and steps up them.

Shapes: N observations, K candidates for each, B plans, H steps, A action and O observation dimensions, T = A + O,
action first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from diffusers import UNet1DModel

from .acceleration import accelerate_value_function
from .conditions import pin
from .fast_networks import FastValueFunction
from .frame import Frame
from .inputs import as_number, shorten
from .networks import weights_dtype
from .sampling import Level
from .settings import GuideOn, GuideScaling, Settings

# A user's reward or penalty: (observations (B, H, O), actions (B, H, A)), in the environment's units -> (B,), by
# operations that torch can differentiate. Its arguments are copies: writing into them changes no plan.
Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def predict_values(
    value_function: UNet1DModel, trajectories: torch.Tensor, timestep: int, fast: FastValueFunction | None = None
) -> torch.Tensor:
    """Return the normalised return (B,) that is predicted for trajectories (B, H, T) of a noise level."""
    if fast is not None:
        return fast(trajectories, timestep)
    timesteps = torch.full((len(trajectories),), timestep, device=trajectories.device)
    sample = trajectories.transpose(1, 2).to(weights_dtype(value_function))
    values: torch.Tensor = value_function(sample, timesteps).sample
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


def guide_factor(scaling: GuideScaling, variance: float) -> float:
    """Return what the gradient is multiplied by besides the scale.

    ``variance`` is the paper's code. ``stock`` is what diffusers' ValueGuidedRLPipeline makes of it by taking a
    standard deviation for a log-variance: never below 1.
    """
    std = math.sqrt(variance)
    return {"variance": variance, "std": std, "none": 1.0, "stock": math.exp(0.5 * std)}[scaling]


def clip_norm(gradient: torch.Tensor, limit: float | None) -> torch.Tensor:
    """Return the gradient (..., H, T); where a plan's is longer than the limit, it is shortened to the limit."""
    if limit is None:
        return gradient
    norm: torch.Tensor = torch.linalg.vector_norm(gradient, dim=(-2, -1), keepdim=True)
    return torch.where(norm > limit, gradient * (limit / norm), gradient)


@dataclass(frozen=True)
class LearnedValue:
    """A pipeline's value function as an objective; ``pipeline.learned_value`` makes it.

    Attributes:
        network: Predicts the normalised return of a noised trajectory.
        frame: The normaliser of its training.
        return_shift: Of the return: ``return = normalised * return_scale + return_shift``.
        return_scale: Of the return.
        alphas_cumprod: Of the noise levels of its training.
        fast: What evaluates the network fast; None: the network itself does.
    """

    network: UNet1DModel
    frame: Frame
    return_shift: float
    return_scale: float
    alphas_cumprod: torch.Tensor
    fast: FastValueFunction | None = None

    def prepared(self, horizon: int, frame: Frame) -> "LearnedValue":
        """Return the same for the plans of one call: with the weights of this moment, on the device of their frame.

        Where its own frame agrees with the plans' it takes that one, so that no step has to compare them.
        """
        fast = accelerate_value_function(self.network, horizon // self.frame.stride)
        own = self.frame.to(frame.shift.device)
        return replace(self, fast=fast, frame=frame if own.agrees(frame) else own)

    def values(self, trajectories: torch.Tensor, timestep: int, frame: Frame) -> torch.Tensor:
        """Return the predicted return (B,) of trajectories (B, H, T) that are normalised in a frame."""
        normalised = predict_values(self.network, self._own(trajectories, frame), timestep, self.fast)
        return normalised * self.return_scale + self.return_shift

    def gradient(self, trajectories: torch.Tensor, timestep: int, frame: Frame) -> torch.Tensor:
        """Return the gradient (B, H, T) of the predicted return."""
        gradient = value_gradient(self.network, self._own(trajectories, frame), timestep, self.fast) * self.return_scale
        if self.frame.agrees(frame):
            return gradient
        ratio = (frame.scale / self.frame.scale).expand(frame.stride, -1)  # of as many steps as a folded one has
        return gradient * frame.fold(ratio)

    def _own(self, trajectories: torch.Tensor, frame: Frame) -> torch.Tensor:
        """Return the trajectories as this value function was trained to see them."""
        if self.frame.agrees(frame):
            return trajectories
        return self.frame.normalise(frame.denormalise(trajectories))


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
    for number, (weight, objective) in enumerate(objectives):
        if isinstance(objective, LearnedValue):
            total = total + weight * objective.values(trajectories, 0, frame)
        else:
            total = total + weight * _ask(number, objective, observations, actions)
    return total


def _ask(number: int, objective: Objective, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Return what a user's objective says (B,) of copies of its arguments, in float32.

    Raises:
        ValueError: If it does not return one real number a plan, on the plans' device.
    """
    value: Any = objective(observations.clone(), actions.clone())
    if not isinstance(value, torch.Tensor) or value.shape != (len(actions),) or value.is_complex():
        got = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(
            f"objective {number} returned {got} for {len(actions)} plans: a tensor of real numbers of shape (B,) is "
            "needed for observations (B, H, O) and actions (B, H, A)"
        )
    if value.device != actions.device:
        raise ValueError(
            f"objective {number} returned a tensor on {value.device}, but its arguments are on {actions.device}"
        )
    return value.to(actions.dtype)


def total_gradient(objectives: Weighted, trajectories: torch.Tensor, timestep: int, frame: Frame) -> torch.Tensor:
    """Return the gradient (B, H, T) of the weighted sum with respect to normalised trajectories of a noise level.

    A user's objective sees them as if they were plans.
    """
    total = torch.zeros_like(trajectories)
    for number, (weight, objective) in enumerate(objectives):
        if isinstance(objective, LearnedValue):
            total = total + weight * objective.gradient(trajectories, timestep, frame)
        else:
            total = total + weight * _differentiate(number, objective, trajectories, frame)
    return total


def _differentiate(number: int, objective: Objective, trajectories: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Return the gradient (B, H, T) of a user's objective.

    Raises:
        ValueError: If torch cannot differentiate it.
    """
    remedy = "compute it from its arguments with torch alone, or use n_guide_steps=0 to rank by it only"
    with torch.inference_mode(False), torch.enable_grad():
        x = trajectories.clone().requires_grad_()
        value = _ask(number, objective, *frame.to_raw(x))
        if not value.requires_grad:
            raise ValueError(f"objective {number} has no gradient: {remedy}")
        try:
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
        except RuntimeError as error:
            raise ValueError(
                f"objective {number} cannot be differentiated, as torch says: {error}. {remedy}"
            ) from error
    if gradient is None:
        raise ValueError(f"objective {number} does not depend on its arguments, so it has no gradient: {remedy}")
    return gradient


@dataclass(frozen=True)
class Guidance:
    """Classifier guidance: gradient steps up the objectives at each noise level.

    Attributes:
        objectives: What is climbed, in pairs (weight, objective).
        frame: The plans'.
        settings: All settings of the call.
    """

    objectives: Weighted
    frame: Frame
    settings: Settings

    @property
    def moves_samples(self) -> bool:
        """Whether noisy samples are moved between the denoising steps."""
        wanted = self.settings["n_guide_steps"] > 0 and self.settings["guide_on"] == "noisy"
        return bool(self.objectives) and wanted

    def climb(self, trajectories: torch.Tensor, conditions: torch.Tensor, level: Level, on: GuideOn) -> torch.Tensor:
        """Return the trajectories moved up the objectives; the same object where no guidance is due.

        Args:
            trajectories: (N, K, H, T), normalised: noisy samples of the level, or clean plans predicted from them.
            conditions: (N, 1, H, T), normalised. What they pin does not move, nor does it count in the gradient's norm.
            level: The noise level.
            on: Which of the two the trajectories are.
        """
        settings, noisy = self.settings, on == "noisy"
        due = on == settings["guide_on"] and level.timestep >= settings["t_stopgrad"] and settings["n_guide_steps"]
        if not (due and self.objectives):
            return trajectories
        # The variance of a clean plan given the noisy one is 1 - alpha if plans are standard normal.
        factor = guide_factor(settings["guide_scaling"], level.variance if noisy else 1 - level.alpha)
        step_size = settings["scale"] * factor
        if step_size == 0:
            return trajectories
        free = conditions.isnan()
        trajectories = pin(trajectories, conditions)  # a predicted clean plan does not hold to them by itself
        for _ in range(settings["n_guide_steps"]):
            flat = trajectories.flatten(0, 1)
            gradient = total_gradient(self.objectives, flat, level.timestep if noisy else 0, self.frame)
            gradient = clip_norm(gradient.view(trajectories.shape).where(free, 0), settings["max_grad_norm"])
            trajectories = pin(trajectories + step_size * gradient, conditions)
        return trajectories


def check_objectives(
    objectives: Weighted, horizon: int, frame: Frame, alphas_cumprod: torch.Tensor, guided: bool, guide_on: str
) -> None:
    """Try the objectives on two plans of zeros. What an objective itself raises is not changed.

    Raises:
        ValueError: If an objective does not return one number a plan, cannot be differentiated, or is a value function
            that was trained for trajectories unlike this pipeline's.
    """
    if not isinstance(objectives, Sequence):
        raise ValueError(
            f"objectives is {shorten(repr(objectives))}: a list of pairs (weight, function or learned value) is needed"
        )
    for number, entry in enumerate(objectives):
        if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], Real) and _can_judge(entry[1])):
            raise ValueError(
                f"objective {number} is {shorten(repr(entry))}: a pair (weight, function or learned value) is needed"
            )
        weight, objective = entry
        if as_number(weight) is None:
            raise ValueError(f"objective {number} has weight {shorten(weight)}: it must be a finite number")
        if isinstance(objective, LearnedValue):
            _check_learned_value(number, objective, frame, alphas_cumprod, guided and guide_on == "noisy")
            continue
        plans = frame.shift.new_zeros(2, horizon // frame.stride, frame.channels)
        if guided:
            _differentiate(number, objective, plans, frame)
        else:
            _ask(number, objective, *frame.to_raw(plans))


def _can_judge(objective: Any) -> bool:
    return isinstance(objective, LearnedValue) or callable(objective)


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
    if value.frame.stride != frame.stride:
        raise ValueError(
            f"objective {number} is a value function with a stride of {value.frame.stride}, but this pipeline has "
            f"{frame.stride}: train both with the same model.init_args.stride"
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
