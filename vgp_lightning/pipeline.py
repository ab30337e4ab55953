"""Plan by diffusion: denoise trajectories from noise, climb the predicted return, keep the best.

This file is self-contained (standard library, numpy, torch, diffusers): an exported folder carries a copy of it, and
``DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`` plans without the package.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
A trajectory is (..., H, T), action first, in normalised units: ``normalised = (raw - shift) / scale``.
The method is Janner et al. 2022, "Planning with Diffusion for Flexible Behavior Synthesis", Algorithm 1.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet1DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

Generators = torch.Generator | Sequence[torch.Generator] | None

SAMPLERS = {
    "ddpm": 1.0,
    "ddim": 0.0,
}  # the share eta of the posterior's noise that a step adds (Song et al. 2021, eq. 16)
_NORMALIZATION_KEYS = {*("action_dim", "shift", "scale", "return_shift", "return_scale", "action_low", "action_high")}
GUIDE_SCALINGS = ("variance", "std", "none")
# What a call uses where neither it nor the folder says otherwise; the numbers are the paper's for Hopper.
DEFAULT_SETTINGS: dict[str, Any] = {
    "batch_size": 64,
    "planning_horizon": 32,
    "num_inference_steps": None,  # as many as in training
    "sampler": None,  # pipeline.scheduler, as it is
    "n_guide_steps": 2,
    "scale": 0.1,
    "guide_scaling": "variance",
    "t_stopgrad": 2,
    "temperature": 1.0,
}


@dataclass(frozen=True)
class Plan:
    """The best candidate for each of N observations, in the environment's units, on the pipeline's device."""

    actions: torch.Tensor  # (N, H, A), within the action bounds
    observations: torch.Tensor  # (N, H, O); step 0 is the observation we stand in
    values: torch.Tensor  # (N,), predicted discounted return; NaN without a value function
    candidates: "Plan | None" = None  # on request: all of them, best first: (N, K, H, A), (N, K, H, O), (N, K)


def horizon_multiple(denoiser_blocks: int) -> int:
    """Return what a denoiser's horizon must be a multiple of: it is halved in all blocks but the last."""
    return int(2 ** (denoiser_blocks - 1))


def horizon_limit(value_blocks: int) -> int:
    """Return the longest horizon that a value function takes: its middle block must end at a single step."""
    return int(2 ** (value_blocks + 2))


def pin(trajectories: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
    """Return the trajectories (N, K, H, T) with the conditions (N, 1, H, T) in place; NaN leaves an entry free."""
    return torch.where(conditions.isnan(), trajectories, conditions)


def predict_values(value_function: UNet1DModel, trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
    """Return the normalised return (B,) that is predicted for trajectories (B, H, T) of a noise level."""
    timesteps = torch.full((len(trajectories),), timestep, device=trajectories.device)
    values: torch.Tensor = value_function(trajectories.transpose(1, 2).to(value_function.dtype), timesteps).sample
    return values.squeeze(-1).float()


def value_gradient(value_function: UNet1DModel, trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
    """Return dV/dx (B, H, T) of the normalised return, also inside Lightning's inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        x = trajectories.clone().requires_grad_()
        values = predict_values(value_function, x, timestep)
        (gradient,) = torch.autograd.grad(values.sum(), x)
    return gradient


def posterior_variance(alpha: float, alpha_previous: float) -> float:
    """Return the variance of q(x_previous | x, x_0), given the cumulative alphas of both; zero for a clean plan.

    Ho et al. 2020, eq. 7, for a step over any number of noise levels; diffusers has no public name for it.
    """
    return (1 - alpha_previous) / (1 - alpha) * (1 - alpha / alpha_previous)


def guide_factor(scaling: str, variance: float) -> float:
    """Return what the gradient is multiplied by besides the scale; ``variance`` is the paper's code."""
    return {"variance": variance, "std": math.sqrt(variance), "none": 1.0}[scaling]


def spread_timesteps(trained: int, steps: int) -> list[int]:
    """Return ``steps`` of the ``trained`` noise levels, noisiest first and evenly spread ("trailing" in diffusers)."""
    return [round(trained - i * trained / steps) - 1 for i in range(steps)]


def split_prediction(
    output: torch.Tensor, trajectories: torch.Tensor, alpha: float, prediction_type: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clean trajectories and the noise that the denoiser's output stands for.

    x = sqrt(alpha) * clean + sqrt(1 - alpha) * noise, and v = sqrt(alpha) * noise - sqrt(1 - alpha) * clean as in
    Salimans and Ho 2022.
    """
    signal_std, noise_std = math.sqrt(alpha), math.sqrt(1 - alpha)
    if prediction_type == "sample":
        return output, (trajectories - signal_std * output) / noise_std
    if prediction_type == "epsilon":
        return (trajectories - noise_std * output) / signal_std, output
    return signal_std * trajectories - noise_std * output, noise_std * trajectories + signal_std * output


class ValueGuidedPlannerPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Plans from an observation: guided sampling, then the candidate whose clean plan has the highest value.

    Attributes:
        action_dim: A.
        observation_dim: O.
        task: What the folder was trained for: environment, datasets, discount, reference scores.
    """

    unet: UNet1DModel
    value_function: UNet1DModel | None
    scheduler: Any
    device: torch.device

    _optional_components = ["value_function"]  # noqa: RUF012 (diffusers' convention)

    def __init__(
        self,
        unet: UNet1DModel,
        scheduler: SchedulerMixin,
        value_function: UNet1DModel | None = None,
        normalization: dict[str, Any] | None = None,
        planner: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
    ) -> None:
        """Put a planner together; usually ``from_pretrained`` does.

        Args:
            unet: Denoiser of trajectories.
            scheduler: Noise schedule of its training; swap it as for any diffusers pipeline.
            value_function: Predicts the normalised return of a noised trajectory; without one there is no guidance.
            normalization: ``action_dim``, ``shift`` and ``scale`` (T numbers each, action first), ``return_shift``,
                ``return_scale``, ``action_low`` and ``action_high`` (A numbers each, None for no bound).
            planner: Defaults of the call's settings.
            task: What the folder was trained for.

        Raises:
            ValueError: If the normalisation is missing or does not fit the networks, or a default is wrong.
        """
        super().__init__()
        if normalization is None:
            raise ValueError("normalization is missing: model_index.json of a planner holds the dataset's statistics")
        channels: int = unet.config["in_channels"]
        if missing := _NORMALIZATION_KEYS - set(normalization):
            raise ValueError(f"normalization lacks {sorted(missing)}")
        for name in ("action_low", "action_high"):
            if len(normalization[name]) != normalization["action_dim"]:
                raise ValueError(
                    f"normalization has {len(normalization[name])} numbers in {name} "
                    f"for {normalization['action_dim']} actions"
                )
        if not len(normalization["shift"]) == len(normalization["scale"]) == channels:
            raise ValueError(
                f"normalization has {len(normalization['shift'])} shifts and {len(normalization['scale'])} scales, "
                f"but the denoiser has {channels} channels"
            )
        if value_function is not None and value_function.config["in_channels"] != channels:
            raise ValueError(
                f"the value function has {value_function.config['in_channels']} channels, the denoiser {channels}"
            )
        self.register_modules(unet=unet, scheduler=scheduler, value_function=value_function)
        self.register_to_config(normalization=normalization, planner=planner or {}, task=task or {})
        self.normalization: dict[str, Any] = normalization
        self.planner: dict[str, Any] = planner or {}
        self.task: dict[str, Any] = task or {}
        self.action_dim: int = normalization["action_dim"]
        self.observation_dim: int = channels - self.action_dim
        self.resolve_settings()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a folder, as every diffusers pipeline does; small networks need no help of accelerate."""
        pipeline: Self = super().from_pretrained(
            pretrained_model_name_or_path, **({"low_cpu_mem_usage": False} | kwargs)
        )
        return pipeline

    def resolve_settings(self, **given: Any) -> dict[str, Any]:
        """Return the settings of a call: what is given, else the folder's default, else the paper's.

        Raises:
            ValueError: If a setting is unknown or cannot work with these networks.
        """
        settings = DEFAULT_SETTINGS | self.planner
        if self.value_function is None:
            settings["n_guide_steps"] = 0
        # The folder's sampler stands for the scheduler of its training, not for one that the user put in its place.
        if not isinstance(self.scheduler, DDPMScheduler):
            settings["sampler"] = None
        if unknown := set(settings | given) - set(DEFAULT_SETTINGS):
            raise ValueError(f"unknown settings {sorted(unknown)}: choose from {sorted(DEFAULT_SETTINGS)}")
        settings |= {name: value for name, value in given.items() if value is not None}
        trained = self.scheduler.config["num_train_timesteps"]
        if settings["num_inference_steps"] is None:
            settings["num_inference_steps"] = trained
        for name, low, high in (
            ("batch_size", 1, math.inf),
            ("planning_horizon", 1, math.inf),
            ("num_inference_steps", 1, trained),
            ("n_guide_steps", 0, math.inf),
            ("scale", -math.inf, math.inf),
            ("t_stopgrad", 0, math.inf),
            ("temperature", 0, math.inf),
        ):
            if not low <= settings[name] <= high:
                raise ValueError(f"{name} is {settings[name]}: it must lie between {low} and {high}")
        if settings["sampler"] not in (None, *SAMPLERS):
            raise ValueError(f"sampler {settings['sampler']!r} is unknown: choose from {list(SAMPLERS)}")
        if settings["guide_scaling"] not in GUIDE_SCALINGS:
            raise ValueError(f"guide_scaling {settings['guide_scaling']!r} is unknown: choose from {GUIDE_SCALINGS}")
        if settings["sampler"] is None and settings["temperature"] != 1:
            raise ValueError(
                f"temperature is {settings['temperature']}, but {type(self.scheduler).__name__} draws its own noise: "
                f"choose a sampler from {list(SAMPLERS)}"
            )
        if getattr(self.scheduler, "init_noise_sigma", None) != 1 or not hasattr(self.scheduler, "alphas_cumprod"):
            raise ValueError(
                f"{type(self.scheduler).__name__} does not keep x = sqrt(alpha) * clean + sqrt(1 - alpha) * noise, "
                "which pinning and guidance need: use DDPM, DDIM, DPMSolverMultistep or UniPC"
            )
        if settings["n_guide_steps"] and self.value_function is None:
            raise ValueError(
                f"n_guide_steps is {settings['n_guide_steps']}, but this pipeline has no value function: use 0, or "
                "export with --value"
            )
        multiple = horizon_multiple(len(self.unet.config["block_out_channels"]))
        if settings["planning_horizon"] % multiple:
            raise ValueError(
                f"planning_horizon {settings['planning_horizon']} does not fit the denoiser: "
                f"it must be a multiple of {multiple}"
            )
        if self.value_function is not None:
            limit = horizon_limit(len(self.value_function.config["block_out_channels"]))
            if settings["planning_horizon"] > limit:
                raise ValueError(
                    f"planning_horizon {settings['planning_horizon']} is too long for the value function: "
                    f"it takes at most {limit} steps"
                )
        return settings

    @torch.no_grad()
    def __call__(
        self,
        observation: np.ndarray | torch.Tensor,
        batch_size: int | None = None,
        planning_horizon: int | None = None,
        n_guide_steps: int | None = None,
        scale: float | None = None,
        *,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        guide_scaling: str | None = None,
        t_stopgrad: int | None = None,
        temperature: float | None = None,
        conditions: Mapping[int, np.ndarray | torch.Tensor] | None = None,
        generator: Generators = None,
        return_candidates: bool = False,
        callback_on_step_end: Callable[[Any, int, int, dict[str, torch.Tensor]], Any] | None = None,
    ) -> Plan:
        """Plan from each observation. Settings that are None take the folder's defaults.

        Args:
            observation: Where we stand, (O,) or (N, O), in the environment's units, flat.
            batch_size: K, the candidates for each observation.
            planning_horizon: H.
            n_guide_steps: Gradient steps up the value before each denoising; 0: no guidance.
            scale: Length of a gradient step, for the return in the environment's units.
            num_inference_steps: Noise levels that are visited, at most as many as in training.
            sampler: ``ddpm`` or ``ddim``, evenly spaced; None: the folder's, or ``pipeline.scheduler`` as it is.
            guide_scaling: What multiplies the gradient: the posterior's ``variance``, its ``std``, or ``none``.
            t_stopgrad: No guidance at noise levels below this one.
            temperature: Factor on the standard deviation of all noise that is drawn.
            conditions: More observations that the plan must pass through, ``{step: (O,) or (N, O)}``; negative steps
                count from the end, NaN leaves a dimension free.
            generator: One, or one for each observation: then a plan does not depend on the others in the batch.
            return_candidates: Keep all candidates in ``Plan.candidates``.
            callback_on_step_end: Called with the pipeline, index, timestep and ``{"trajectories": (N, K, H, T)}``.

        Raises:
            ValueError: If an observation, a condition or a setting is wrong; before anything is sampled.
        """
        settings = self.resolve_settings(
            batch_size=batch_size,
            planning_horizon=planning_horizon,
            n_guide_steps=n_guide_steps,
            scale=scale,
            num_inference_steps=num_inference_steps,
            sampler=sampler,
            guide_scaling=guide_scaling,
            t_stopgrad=t_stopgrad,
            temperature=temperature,
        )
        raw_conditions = self._conditions(observation, conditions or {}, settings["planning_horizon"])  # (N, H, T)
        count = len(raw_conditions)
        if isinstance(generator, Sequence):
            generator = list(generator)  # diffusers' schedulers know lists alone
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} observations: one, or one for each, is needed")

        shift, scale_ = self._vector("shift"), self._vector("scale")  # (T,)
        trajectories = self._sample(
            ((raw_conditions - shift) / scale_)[:, None], settings, generator, callback_on_step_end
        )

        if self.value_function is None:
            values = trajectories.new_full(trajectories.shape[:2], math.nan)  # (N, K)
        else:
            normalised = predict_values(self.value_function, trajectories.flatten(0, 1), 0).view(trajectories.shape[:2])
            values = normalised * self.normalization["return_scale"] + self.normalization["return_shift"]
        order = values.argsort(dim=1, descending=True, stable=True)  # (N, K); NaN: as they came
        values = values.gather(1, order)
        trajectories = trajectories.take_along_dim(order[:, :, None, None], dim=1)
        # In physical units the conditions are put in once more, so that they hold to the last bit.
        trajectories = pin(trajectories * scale_ + shift, raw_conditions[:, None])
        low, high = self._vector("action_low"), self._vector("action_high")
        actions = trajectories[..., : self.action_dim].clamp(low, high)
        observations = trajectories[..., self.action_dim :]
        candidates = Plan(actions, observations, values) if return_candidates else None
        return Plan(actions[:, 0], observations[:, 0], values[:, 0], candidates)

    def _sample(
        self,
        conditions: torch.Tensor,
        settings: dict[str, Any],
        generator: Generators,
        callback: Callable[[Any, int, int, dict[str, torch.Tensor]], Any] | None,
    ) -> torch.Tensor:
        """Denoise trajectories (N, K, H, T) that meet the normalised conditions (N, 1, H, T)."""
        scheduler, eta = self.scheduler, SAMPLERS.get(settings["sampler"])
        prediction_type = scheduler.config["prediction_type"]
        if eta is None:
            scheduler.set_timesteps(settings["num_inference_steps"], device=self.device)
            timesteps = [int(timestep) for timestep in scheduler.timesteps]
        else:
            timesteps = spread_timesteps(scheduler.config["num_train_timesteps"], settings["num_inference_steps"])
        shape = (len(conditions), settings["batch_size"], *conditions.shape[2:])
        trajectories = pin(self._noise(shape, generator, settings["temperature"]), conditions)
        for i, (timestep, previous) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True)):
            alpha = float(scheduler.alphas_cumprod[timestep])
            alpha_previous = float(scheduler.alphas_cumprod[previous]) if previous >= 0 else 1.0
            variance = posterior_variance(alpha, alpha_previous)
            step_size = settings["scale"] * guide_factor(settings["guide_scaling"], variance)
            if self.value_function is not None and timestep >= settings["t_stopgrad"] and step_size != 0:
                for _ in range(settings["n_guide_steps"]):
                    gradient = value_gradient(self.value_function, trajectories.flatten(0, 1), timestep).view(shape)
                    # The network's return is normalised: the chain rule brings its gradient to the environment's units.
                    climbed = trajectories + step_size * self.normalization["return_scale"] * gradient
                    trajectories = pin(climbed, conditions)
            channels_first = trajectories.flatten(0, 1).transpose(1, 2).to(self.unet.dtype)  # (N * K, T, H)
            output = self.unet(channels_first, timestep).sample.transpose(1, 2).reshape(shape).float()
            if eta is None:
                options = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
                trajectories = scheduler.step(output, timestep, trajectories, **options).prev_sample
            else:
                clean, noise = split_prediction(output, trajectories, alpha, prediction_type)
                std = eta * math.sqrt(variance)
                trajectories = math.sqrt(alpha_previous) * clean + math.sqrt(1 - alpha_previous - std**2) * noise
                if std > 0:
                    trajectories = trajectories + std * self._noise(shape, generator, settings["temperature"])
            trajectories = pin(trajectories, conditions)
            if callback is not None:
                callback(self, i, timestep, {"trajectories": trajectories})
        return trajectories

    def _noise(self, shape: tuple[int, ...], generator: Generators, temperature: float) -> torch.Tensor:
        """Draw Gaussian noise (N, K, H, T); with one generator for each observation its rows are its own."""
        noise: torch.Tensor = randn_tensor(shape, generator=generator, device=self.device)
        return temperature * noise

    def _vector(self, name: str) -> torch.Tensor:
        """Return a vector of the statistics on the device, where None stands for no bound."""
        unbounded = math.inf if name == "action_high" else -math.inf
        numbers = [unbounded if number is None else number for number in self.normalization[name]]
        return torch.tensor(numbers, device=self.device)

    def _conditions(
        self,
        observation: np.ndarray | torch.Tensor,
        conditions: Mapping[int, np.ndarray | torch.Tensor],
        horizon: int,
    ) -> torch.Tensor:
        """Return what the plans must pass through as (N, H, T) in physical units, NaN where they are free."""
        first = torch.as_tensor(observation, dtype=torch.float32, device=self.device)
        first = first[None] if first.ndim == 1 else first
        if first.ndim != 2 or first.shape[1] != self.observation_dim or len(first) == 0:
            raise ValueError(
                f"observation has shape {tuple(np.shape(observation))}: "
                f"({self.observation_dim},) or (N, {self.observation_dim}) is needed, in the environment's units"
            )
        if not first.isfinite().all():
            raise ValueError(f"observation is not finite: {observation}. To leave a later step free use conditions")
        pinned = first.new_full((len(first), horizon, self.action_dim + self.observation_dim), math.nan)
        for step, condition in conditions.items():
            if not -horizon < step < horizon or step == 0:
                raise ValueError(
                    f"condition at step {step}: it must lie between 1 and {horizon - 1}, or {1 - horizon} and -1 from "
                    "the end; step 0 is the observation itself"
                )
            if not pinned[:, step].isnan().all():
                raise ValueError(f"condition at step {step} meets another one of the same step")
            condition = torch.as_tensor(condition, dtype=torch.float32, device=self.device)
            if condition.shape not in ((self.observation_dim,), (len(first), self.observation_dim)):
                raise ValueError(
                    f"condition at step {step} has shape {tuple(condition.shape)}: "
                    f"({self.observation_dim},) or ({len(first)}, {self.observation_dim}) is needed"
                )
            if condition.isinf().any():
                raise ValueError(f"condition at step {step} is not finite: {condition}. NaN leaves a dimension free")
            pinned[:, step, self.action_dim :] = condition
        pinned[:, 0, self.action_dim :] = first
        return pinned


class StockEnvironment:
    """What ``diffusers.experimental.ValueGuidedRLPipeline`` wants of an environment, from an exported folder alone.

    ``ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder))``: its statistics are vectors, so the
    stock class normalises each dimension by itself (it takes scalars from a D4RL environment, diffusers #10636).
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the statistics of a pipeline folder."""
        statistics = json.loads((Path(folder) / "model_index.json").read_text())["normalization"]
        shift, scale = (np.array(statistics[name], dtype=np.float32) for name in ("shift", "scale"))
        actions = statistics["action_dim"]
        self.action_space = SimpleNamespace(shape=(actions,))
        self.observation_space = SimpleNamespace(shape=(len(shift) - actions,))
        self._dataset = {
            "actions": _Statistics(shift[:actions], scale[:actions]),
            "observations": _Statistics(shift[actions:], scale[actions:]),
        }

    def get_dataset(self) -> dict[str, "_Statistics"]:
        """Return the statistics in the form of a D4RL dataset."""
        return self._dataset


@dataclass(frozen=True)
class _Statistics:
    """An array of which only the mean and the standard deviation are known."""

    shift: np.ndarray
    scale: np.ndarray

    def mean(self) -> np.ndarray:
        return self.shift

    def std(self) -> np.ndarray:
        return self.scale
