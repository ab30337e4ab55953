"""The arithmetic of sampling: noise levels, what a denoiser's output stands for, and the steps to less noise.

A noised trajectory is ``x = sqrt(alpha) * clean + sqrt(1 - alpha) * noise``, where alpha is the cumulative product of
Ho et al. 2020 (``alphas_cumprod`` in diffusers). All noise levels are known before sampling begins, as numbers.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from inspect import signature
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor

Generators = torch.Generator | Sequence[torch.Generator] | None
Sampler = Literal["ddpm", "ddim", "dpmsolver", "unipc"]

# Two in closed form: the share eta of the posterior's noise that a step adds (Song et al. 2021, eq. 16). diffusers' own
# are biased where the number of steps does not divide the number of noise levels of the training.
ETAS = {"ddpm": 1.0, "ddim": 0.0}
# Two multistep solvers of diffusers; deterministic, as DDIM is.
SOLVERS = {"dpmsolver": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
# What the noise schedule and the denoiser's output are, by the names that all schedulers of diffusers give them.
_SCHEDULE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("prediction_type", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
)
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
PREDICTIONS = ("sample", "epsilon", "v_prediction")
MOST_LEVELS = 100_000  # of a noise schedule; the paper has 20


@dataclass(frozen=True)
class Level:
    """One noise level that sampling visits."""

    timestep: int
    alpha: float
    alpha_next: float  # of the level that the step leads to; 1 for the clean plan

    @property
    def variance(self) -> float:
        """The variance of the next level's sample, given this one and the clean plan."""
        return posterior_variance(self.alpha, self.alpha_next)


class Prediction(NamedTuple):
    """What the denoiser says of noised trajectories; (N, K, H, T) each."""

    output: torch.Tensor
    clean: torch.Tensor
    noise: torch.Tensor


def check_schedule(scheduler: Any) -> None:
    """Refuse a scheduler that sampling cannot work with.

    Raises:
        ValueError: If it keeps another relation of clean and noised trajectories, predicts something unknown, or its
            noise levels are not numbers from little noise to much.
    """
    name, alphas = type(scheduler).__name__, getattr(scheduler, "alphas_cumprod", None)
    if getattr(scheduler, "init_noise_sigma", None) != 1 or not isinstance(alphas, torch.Tensor):
        raise ValueError(
            f"{name} does not keep x = sqrt(alpha) * clean + sqrt(1 - alpha) * noise, "
            "which pinning and guidance need: use DDPM, DDIM, DPMSolverMultistep or UniPC"
        )
    levels, prediction_type = (scheduler.config.get(key) for key in ("num_train_timesteps", "prediction_type"))
    if prediction_type not in PREDICTIONS:
        raise ValueError(f"prediction_type of {name} is {prediction_type!r}: choose from {list(PREDICTIONS)}")
    numbers = alphas.tolist()
    falling = all(before >= after for before, after in pairwise(numbers))
    # At alpha = 0 the noise says nothing of the clean plan, and at alpha = 1 there is no noise.
    lowest = 0 if prediction_type == "epsilon" else -1e-12
    if len(numbers) != levels or not falling or not lowest < numbers[-1] <= numbers[0] < 1:
        raise ValueError(
            f"the noise schedule of {name} has {len(numbers)} levels with alphas_cumprod from {numbers[:1]} to "
            f"{numbers[-1:]}: num_train_timesteps ({levels}) numbers that fall between 1 and 0 are needed. Check its "
            "betas"
        )


def make_levels(timesteps: Sequence[int], alphas_cumprod: Sequence[float]) -> list[Level]:
    """Return the levels of timesteps that fall, the last of which leads to the clean plan."""
    alphas = [alphas_cumprod[timestep] for timestep in timesteps]
    return [
        Level(timestep, alpha, alpha_next)
        for timestep, alpha, alpha_next in zip(timesteps, alphas, [*alphas[1:], 1.0], strict=True)
    ]


def spread_timesteps(trained: int, steps: int) -> list[int]:
    """Return ``steps`` of the ``trained`` noise levels, noisiest first and evenly spread ("trailing" in diffusers)."""
    return [round(trained - i * trained / steps) - 1 for i in range(steps)]


def posterior_variance(alpha: float, alpha_next: float) -> float:
    """Return the variance of q(x_next | x, x_0), given the cumulative alphas of both; zero for a clean plan.

    Ho et al. 2020, eq. 7, for a step over any number of noise levels; diffusers has no public name for it.
    """
    return (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)


def split_prediction(
    output: torch.Tensor, trajectories: torch.Tensor, alpha: float, prediction_type: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clean trajectories and the noise that the denoiser's output stands for.

    v = sqrt(alpha) * noise - sqrt(1 - alpha) * clean, as in Salimans and Ho 2022.
    """
    signal_std, noise_std = math.sqrt(alpha), math.sqrt(1 - alpha)
    if prediction_type == "sample":
        return output, (trajectories - signal_std * output) / noise_std
    if prediction_type == "epsilon":
        return (trajectories - noise_std * output) / signal_std, output
    return signal_std * trajectories - noise_std * output, noise_std * trajectories + signal_std * output


def join_prediction(
    clean: torch.Tensor, trajectories: torch.Tensor, alpha: float, prediction_type: str
) -> torch.Tensor:
    """Return the denoiser's output that stands for these clean trajectories: what split_prediction takes apart."""
    if prediction_type == "sample":
        return clean
    _, noise = split_prediction(clean, trajectories, alpha, "sample")
    return noise if prediction_type == "epsilon" else math.sqrt(alpha) * noise - math.sqrt(1 - alpha) * clean


def draw_noise(shape: tuple[int, ...], generator: Generators, device: torch.device, temperature: float) -> torch.Tensor:
    """Draw Gaussian noise (N, K, H, T); with one generator for each observation its rows are its own."""
    noise: torch.Tensor = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
    return noise if temperature == 1 else temperature * noise


def step_closed_form(
    clean: torch.Tensor, noise: torch.Tensor, level: Level, std: float, fresh_noise: torch.Tensor | None
) -> torch.Tensor:
    """Return the next level's sample (Song et al. 2021, eq. 12); fresh noise is needed where its std is not zero."""
    if level.alpha_next == 1:
        return clean
    share = max(0.0, 1 - level.alpha_next - std**2)  # below 0 by rounding where the level is noise alone
    following = math.sqrt(level.alpha_next) * clean + math.sqrt(share) * noise
    return following if fresh_noise is None else following + std * fresh_noise


def step_std(level: Level, eta: float) -> float:
    """Return the standard deviation of the noise that a step in closed form adds."""
    return eta * math.sqrt(level.variance)


def make_solver(name: str, scheduler: Any, timesteps: Sequence[int], corrector: bool) -> Any:
    """Return diffusers' solver of that name, at these timesteps of a scheduler's noise schedule.

    Args:
        name: One of SOLVERS.
        scheduler: Whose noise schedule it is.
        timesteps: From noise to clean.
        corrector: Let UniPC correct a sample from the one before; that undoes whatever was done to it in between.
    """
    options = {} if corrector or name != "unipc" else {"disable_corrector": list(range(len(timesteps)))}
    schedule = {key: scheduler.config[key] for key in _SCHEDULE if key in scheduler.config}
    solver = SOLVERS[name](**schedule, timestep_spacing="trailing", **options)
    solver.set_timesteps(len(timesteps))
    # By a rounding error diffusers' own spacing can have one level too many, and then it ends in NaN.
    alphas = solver.alphas_cumprod[list(timesteps)]
    solver.timesteps = torch.tensor(timesteps)
    solver.sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1, dtype=torch.float32)])
    solver.num_inference_steps = len(timesteps)
    return solver


def corrects(scheduler: Any) -> bool:
    """Tell whether a scheduler corrects a sample after its step, as UniPC does: that undoes what guidance did."""
    disabled = scheduler.config.get("disable_corrector")
    return disabled is not None and not set(range(1, len(scheduler.timesteps))) <= set(disabled)


@dataclass(frozen=True)
class Stepper:
    """How sampling gets from one noise level to the next.

    Attributes:
        levels: The noise levels that are visited, noisiest first.
        prediction_type: What the denoiser's output stands for: sample, epsilon or v_prediction.
        eta: Of the closed form; None: the scheduler takes the steps.
        scheduler: diffusers' scheduler, which takes the steps; None: the closed form does.
    """

    levels: list[Level]
    prediction_type: str
    eta: float | None = None
    scheduler: Any = None

    def starting_at(self, index: int) -> "Stepper":
        """Return the same from the level of that index on, for a warm start."""
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(index)
        return replace(self, levels=self.levels[index:])

    def predict(self, output: torch.Tensor, trajectories: torch.Tensor, level: Level) -> Prediction:
        """Return what the denoiser's output (N, K, H, T) for the level's trajectories stands for."""
        clean, noise = split_prediction(output, trajectories, level.alpha, self.prediction_type)
        return Prediction(output, clean, noise)

    def correct(self, clean: torch.Tensor, trajectories: torch.Tensor, level: Level) -> Prediction:
        """Return the prediction whose clean trajectories are these, for guidance that has moved them."""
        clean, noise = split_prediction(clean, trajectories, level.alpha, "sample")
        return Prediction(join_prediction(clean, trajectories, level.alpha, self.prediction_type), clean, noise)

    def step(
        self,
        prediction: Prediction,
        trajectories: torch.Tensor,
        level: Level,
        generator: Generators,
        temperature: float,
    ) -> torch.Tensor:
        """Return the next level's sample (N, K, H, T).

        Args:
            prediction: For the trajectories.
            trajectories: (N, K, H, T).
            level: Theirs.
            generator: One, or one for each observation.
            temperature: Factor on the standard deviation of the noise that is drawn.
        """
        if self.eta is not None:
            std, fresh = step_std(level, self.eta), None
            if std > 0:
                fresh = draw_noise(tuple(trajectories.shape), generator, trajectories.device, temperature)
            return step_closed_form(prediction.clean, prediction.noise, level, std, fresh)
        options = {"generator": generator} if "generator" in signature(self.scheduler.step).parameters else {}
        stepped = self.scheduler.step(prediction.output, level.timestep, trajectories, **options)
        following: torch.Tensor = stepped.prev_sample
        return following


def make_stepper(scheduler: Any, sampler: Sampler | None, steps: int, moved: bool) -> Stepper:
    """Return how so many steps are taken by a sampler, or by the scheduler itself.

    Args:
        scheduler: The pipeline's.
        sampler: None: the scheduler takes the steps.
        steps: Number of denoising steps.
        moved: Whether guidance moves the samples between the steps.

    Raises:
        ValueError: If the scheduler would undo the guidance.
    """
    alphas, prediction_type = scheduler.alphas_cumprod, scheduler.config["prediction_type"]
    if sampler is not None:
        timesteps = spread_timesteps(scheduler.config["num_train_timesteps"], steps)
        levels = make_levels(timesteps, alphas.tolist())
        if sampler in ETAS:
            return Stepper(levels, prediction_type, eta=ETAS[sampler])
        solver = make_solver(sampler, scheduler, timesteps, corrector=not moved)
        return Stepper(levels, prediction_type, scheduler=solver)
    # It keeps its place in the steps, so each call has its own: several may run at the same time. No step writes into a
    # tensor or the configuration, which need no copy.
    shared = {id(part): part for part in vars(scheduler).values() if isinstance(part, torch.Tensor | Mapping)}
    scheduler = deepcopy(scheduler, shared)
    scheduler.set_timesteps(steps)  # on the CPU: no step waits for the device
    if moved and corrects(scheduler):
        raise ValueError(
            f"the corrector of {type(scheduler).__name__} would undo the guidance of noisy samples: use "
            "guide_on='clean', or sampler='unipc', which then works without its corrector, or make the scheduler with "
            "disable_corrector for all steps"
        )
    timesteps = [int(timestep) for timestep in scheduler.timesteps]
    return Stepper(make_levels(timesteps, alphas.tolist()), prediction_type, scheduler=scheduler)
