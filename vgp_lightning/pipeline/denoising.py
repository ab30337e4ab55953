"""The algorithm: from noise to plans. Janner et al. 2022, Algorithm 1, for any sampler and any guidance.

Shapes: N observations, K candidates for each, B = N * K plans, H steps, T = A + O dimensions. Trajectories are
normalised and have the action first.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import UNet1DModel

from .commitment import Commitment
from .conditions import pin
from .fast_networks import FastDenoiser
from .frame import Frame
from .guidance import Guidance
from .inputs import all_finite, as_floats
from .networks import weights_dtype
from .sampling import Generators, Stepper, draw_noise
from .settings import Settings, warm_steps

AfterStep = Callable[[int, int, dict[str, torch.Tensor]], Any]  # index, timestep, {"trajectories": (N, K, H, T)}


def denoise(
    network: Callable[[torch.Tensor, int], torch.Tensor],
    stepper: Stepper,
    guidance: Guidance,
    conditions: torch.Tensor,
    start: torch.Tensor | None,
    generator: Generators,
    after_step: AfterStep | None = None,
    commitment: Commitment | None = None,
) -> torch.Tensor:
    """Return clean trajectories (N, K, H, T) that meet the conditions.

    Args:
        network: The denoiser: (trajectories (N, K, H, T), timestep) -> its output (N, K, H, T).
        stepper: The noise levels and the steps between them.
        guidance: What moves the trajectories up the objectives.
        conditions: (N, 1, H, T), NaN where the plans are free.
        start: Plans (N, H, T) from which a warm start begins; None: all steps are taken, from noise.
        generator: Of the noise: one, or one for each observation.
        after_step: Called after each step, with a copy of the trajectories.
        commitment: What the plans keep of previous ones; None: nothing.
    """
    settings = guidance.settings
    count, _, horizon, dimensions = conditions.shape
    shape, temperature = (count, settings["batch_size"], horizon, dimensions), settings["temperature"]
    trajectories = draw_noise(shape, generator, conditions.device, temperature)
    if start is not None:
        stepper = stepper.starting_at(len(stepper.levels) - warm_steps(settings))
        alpha = stepper.levels[0].alpha
        trajectories = math.sqrt(alpha) * start[:, None] + math.sqrt(1 - alpha) * trajectories
    trajectories = pin(trajectories, conditions)
    for i, level in enumerate(stepper.levels):
        held = conditions if commitment is None else commitment.hold(trajectories, conditions)
        trajectories = guidance.climb(trajectories, held, level, "noisy")
        prediction = stepper.predict(network(trajectories, level.timestep), trajectories, level)
        clean = prediction.clean
        if commitment is not None:
            clean = commitment.blend(clean)
            held = commitment.hold(clean, conditions)
        clean = guidance.climb(clean, held, level, "clean")
        if clean is not prediction.clean:
            prediction = stepper.correct(clean, trajectories, level)
        trajectories = pin(stepper.step(prediction, trajectories, level, generator, temperature), conditions)
        if after_step is not None:
            after_step(i, level.timestep, {"trajectories": trajectories.clone()})
    return trajectories


def as_function(network: UNet1DModel, fast: FastDenoiser | None) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Return the denoiser as a function of (trajectories (N, K, H, T), timestep) -> output (N, K, H, T), in float32.

    Args:
        network: The denoiser.
        fast: What evaluates it fast; None: the network itself does.
    """
    if fast is not None:
        return lambda trajectories, timestep: fast(trajectories.flatten(0, 1), timestep).view(trajectories.shape)
    dtype = weights_dtype(network)

    def evaluate(trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
        sample = trajectories.flatten(0, 1).transpose(1, 2).to(dtype)  # (B, T, H)
        # On the device already: a number would be copied there, and the copy waited for.
        level = torch.full((), timestep, device=sample.device)
        output: torch.Tensor = network(sample, level).sample.transpose(1, 2)
        # A copy: with CUDA graphs the next call writes to the memory of this one's output.
        return output.reshape(trajectories.shape).to(torch.float32, copy=True)

    return evaluate


def place_warm_start(
    warm_start: np.ndarray | torch.Tensor | None, settings: Settings, shape: tuple[int, ...], frame: Frame
) -> torch.Tensor | None:
    """Return the normalised plans (N, H, T) to begin from, or None for a cold start.

    Args:
        warm_start: Plans (N, H, T) in the environment's units, or None.
        settings: All settings of the call.
        shape: (N, H, T).
        frame: The plans'.

    Raises:
        ValueError: If the plans have another shape or are not finite.
    """
    if warm_start is None:
        return None
    plans = as_floats(warm_start, "warm_start", frame.shift.device)
    if plans.shape != shape or not all_finite(plans):
        raise ValueError(
            f"warm_start has shape {tuple(plans.shape)}: finite plans {shape} are needed, action first, in the "
            "environment's units"
        )
    if warm_steps(settings) == settings["num_inference_steps"]:
        return None
    return frame.normalise(plans.to(frame.shift.device))
