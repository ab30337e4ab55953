"""The arithmetic of sampling: noise levels, what a denoiser's output stands for, pinning, and the steps to less noise.

A noised trajectory is ``x = sqrt(alpha) * clean + sqrt(1 - alpha) * noise``, where alpha is the cumulative product of
Ho et al. 2020 (``alphas_cumprod`` in diffusers). Everything about the levels is known before sampling, as numbers.
This file travels in exported folders, joined with pipeline.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor

Generators = torch.Generator | Sequence[torch.Generator] | None

# In closed form: the share eta of the posterior's noise that a step adds (Song et al. 2021, eq. 16). diffusers' own are
# biased where the steps do not divide the levels of the training.
ETAS = {"ddpm": 1.0, "ddim": 0.0}
# Multistep solvers of diffusers; deterministic, as DDIM is.
SOLVERS = {"dpmsolver": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
SAMPLERS = (*ETAS, *SOLVERS)


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


def pin(trajectories: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
    """Return the trajectories (N, K, H, T) with the conditions (N, 1, H, T) in place; NaN leaves an entry free."""
    return torch.where(conditions.isnan(), trajectories, conditions)


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
    noise: torch.Tensor = randn_tensor(shape, generator=generator, device=device)
    return noise if temperature == 1 else temperature * noise


def step_closed_form(
    clean: torch.Tensor, noise: torch.Tensor, level: Level, eta: float, fresh_noise: torch.Tensor | None
) -> torch.Tensor:
    """Return the next level's sample (Song et al. 2021, eq. 12); fresh noise is needed where its std is not zero."""
    std = step_std(level, eta)
    following = math.sqrt(level.alpha_next) * clean + math.sqrt(1 - level.alpha_next - std**2) * noise
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
    # Without this key, for by it diffusers takes arguments that were given by position for defaults.
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    options = {} if corrector or name != "unipc" else {"disable_corrector": list(range(len(timesteps)))}
    solver = SOLVERS[name].from_config(config, timestep_spacing="trailing", **options)
    solver.set_timesteps(len(timesteps))
    # diffusers' own spacing can come out one level longer, by an error of rounding, and then ends in NaN.
    alphas = solver.alphas_cumprod[list(timesteps)]
    solver.timesteps = torch.tensor(timesteps)
    solver.sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)])
    solver.num_inference_steps = len(timesteps)
    return solver


def corrects(scheduler: Any) -> bool:
    """Tell whether a scheduler computes samples anew from earlier ones, whatever was done to them since, as UniPC."""
    disabled = scheduler.config.get("disable_corrector")
    return disabled is not None and not set(range(1, len(scheduler.timesteps))) <= set(disabled)
