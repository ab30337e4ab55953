"""Plan by diffusion: denoise trajectories from noise, climb the predicted return, keep the best.

This file and those that it imports need the standard library, numpy, torch and diffusers alone. An exported folder
carries them joined to one, so ``DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder,
trust_remote_code=True)`` plans without the package.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
A trajectory is (..., H, T), action first, in normalised units: ``normalised = (raw - shift) / scale``.
The method is Janner et al. 2022, "Planning with Diffusion for Flexible Behavior Synthesis", Algorithm 1.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from numbers import Integral
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet1DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .fast_networks import FastDenoiser, accelerate_denoiser

# Relative imports, by which an export knows the files that it has to join.
from .guidance import (
    Frame,
    LearnedValue,
    Objective,
    Weighted,
    check_objectives,
    clip_norm,
    guide_factor,
    total_gradient,
    total_value,
)
from .networks import check_horizon
from .sampling import (
    ETAS,
    SAMPLERS,
    Generators,
    Level,
    corrects,
    draw_noise,
    join_prediction,
    make_levels,
    make_solver,
    pin,
    split_prediction,
    spread_timesteps,
    step_closed_form,
    step_std,
)
from .settings import DEFAULT_SETTINGS, check_settings, warm_steps

_NORMALIZATION_KEYS = {*("action_dim", "shift", "scale", "return_shift", "return_scale", "action_low", "action_high")}


@dataclass(frozen=True)
class Plan:
    """The best candidate for each of N observations, in the environment's units, on the pipeline's device."""

    actions: torch.Tensor  # (N, H, A), within the action bounds
    observations: torch.Tensor  # (N, H, O); step 0 is the observation we stand in
    values: torch.Tensor  # (N,), predicted discounted return, or sum of the objectives; NaN without either
    candidates: "Plan | None" = None  # on request: all of them, best first: (N, K, H, A), (N, K, H, O), (N, K)


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
            planner: Defaults of the settings.
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
        self._vectors: dict[tuple[str, torch.device], torch.Tensor] = {}
        self.resolve_settings()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a folder, as every diffusers pipeline does; small networks need no help of accelerate."""
        pipeline: Self = super().from_pretrained(
            pretrained_model_name_or_path, **({"low_cpu_mem_usage": False} | kwargs)
        )
        return pipeline

    def resolve_settings(self, *, objectives: Weighted | None = None, **given: Any) -> dict[str, Any]:
        """Return the settings of planning: what is given, else the folder's default, else the paper's.

        All are arguments of a call but ``replan_every``, which is an agent's.

        Raises:
            ValueError: If a setting is unknown or cannot work with these networks.
        """
        settings = DEFAULT_SETTINGS | self.planner
        if self.value_function is None and objectives is None:
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
        check_settings(settings, trained)
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
        if settings["n_guide_steps"] and self.value_function is None and objectives is None:
            raise ValueError(
                f"n_guide_steps is {settings['n_guide_steps']}, but this pipeline has no value function: use 0, give "
                "objectives, or export with --value"
            )
        check_horizon(
            settings["planning_horizon"],
            denoiser_widths=self.unet.config["block_out_channels"],
            value_widths=() if self.value_function is None else self.value_function.config["block_out_channels"],
            name="planning_horizon",
            remedy="",
        )
        return settings

    @property
    def learned_value(self) -> LearnedValue:
        """The value function, as one of the ``objectives`` of a call, of this pipeline's or of another's.

        Raises:
            ValueError: If there is none.
        """
        if self.value_function is None:
            raise ValueError("this pipeline has no value function: export with --value")
        shift, scale = self.normalization["return_shift"], self.normalization["return_scale"]
        return LearnedValue(self.value_function, self._frame(), shift, scale, self.scheduler.alphas_cumprod)

    def compile(self, **options: Any) -> None:
        """Compile the networks with ``torch.compile``, on a GPU with CUDA graphs; shapes should then stay the same.

        Their weights are frozen (``requires_grad=False``), or the compiled gradient would be that of the weights too.
        On a CPU this takes minutes and gains less than what the networks do there uncompiled (see inference.py).

        Args:
            options: Passed to ``torch.compile``.
        """
        default = {"mode": "reduce-overhead"} if self.device.type == "cuda" else {}
        for network in (self.unet, self.value_function):
            if network is not None:
                network.requires_grad_(False).compile(**default | options)

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
        guide_on: str | None = None,
        t_stopgrad: int | None = None,
        max_grad_norm: float | None = None,
        temperature: float | None = None,
        conditions: Mapping[int, np.ndarray | torch.Tensor] | None = None,
        objectives: Weighted | None = None,
        warm_start: np.ndarray | torch.Tensor | None = None,
        warm_start_strength: float | None = None,
        generator: Generators = None,
        return_candidates: bool = False,
        callback_on_step_end: Callable[[Any, int, int, dict[str, torch.Tensor]], Any] | None = None,
    ) -> Plan:
        """Plan from each observation. Settings that are None take the folder's defaults.

        Args:
            observation: Where we stand, (O,) or (N, O), in the environment's units, flat.
            batch_size: K, the candidates for each observation.
            planning_horizon: H.
            n_guide_steps: Gradient steps up the objectives before each denoising; 0: no guidance.
            scale: Length of a gradient step, for objectives in the environment's units.
            num_inference_steps: Noise levels that are visited, at most as many as in training.
            sampler: ``ddpm``, ``ddim``, ``dpmsolver`` or ``unipc``, evenly spaced; None: the folder's, or
                ``pipeline.scheduler`` as it is.
            guide_scaling: What multiplies the gradient: the ``variance`` of what guidance moves, its ``std``, ``none``,
                or ``stock``, the factor of diffusers' ValueGuidedRLPipeline.
            guide_on: Guidance moves the ``noisy`` sample before it is denoised (the paper's code; the variance is that
                of the next sample, given the clean plan), or the ``clean`` plan that the denoiser predicts (the
                variance is then that of a clean plan given the noisy one, were plans standard normal: 1 - alpha).
            t_stopgrad: No guidance at noise levels below this one.
            max_grad_norm: The length to which a plan's gradient is shortened, before the scale and the factor.
            temperature: Factor on the standard deviation of all noise that is drawn.
            conditions: More observations that the plan must pass through, ``{step: (O,) or (N, O)}``; negative steps
                count from the end, NaN leaves a dimension free.
            objectives: What guidance climbs and candidates are ranked by, as pairs (weight, objective), in place of the
                learned value alone; an objective is ``pipeline.learned_value`` or a function of observations (B, H, O)
                and actions (B, H, A) in the environment's units that returns (B,) and that torch can differentiate.
            warm_start: Plans (N, H, T) in the environment's units, action first, that sampling begins from: they are
                noised to the level from which the last of the denoising steps remain.
            warm_start_strength: The share of ``num_inference_steps`` that is taken from there, at least one; 1: all of
                them, from noise alone, which is a cold start.
            generator: One, or one for each observation: then a plan does not depend on the others in the batch.
            return_candidates: Keep all candidates in ``Plan.candidates``.
            callback_on_step_end: Called with the pipeline, index, timestep and ``{"trajectories": (N, K, H, T)}``.

        Raises:
            ValueError: If an observation, a condition or a setting is wrong; before anything is sampled.
        """
        settings = self.resolve_settings(
            objectives=objectives,
            batch_size=batch_size,
            planning_horizon=planning_horizon,
            n_guide_steps=n_guide_steps,
            scale=scale,
            num_inference_steps=num_inference_steps,
            sampler=sampler,
            guide_scaling=guide_scaling,
            guide_on=guide_on,
            t_stopgrad=t_stopgrad,
            max_grad_norm=max_grad_norm,
            temperature=temperature,
            warm_start_strength=warm_start_strength,
            replan_every=0,  # an agent's affair: a call may plan fewer steps than the folder's agents follow
        )
        raw_conditions = self._conditions(observation, conditions or {}, settings["planning_horizon"])  # (N, H, T)
        count, frame = len(raw_conditions), self._frame()
        if isinstance(generator, Sequence):
            generator = list(generator)  # diffusers' schedulers know lists alone
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} observations: one, or one for each, is needed")
        start = self._start(warm_start, settings, tuple(raw_conditions.shape), frame)
        prepared = self._prepare(objectives, settings, frame)

        conditions_ = ((raw_conditions - frame.shift) / frame.scale)[:, None]  # (N, 1, H, T)
        trajectories = self._sample(conditions_, start, prepared, settings, generator, callback_on_step_end)

        # In physical units the conditions are put in once more, so that they hold to the last bit.
        raw = pin(trajectories * frame.scale + frame.shift, raw_conditions[:, None])
        low, high = self._vector("action_low"), self._vector("action_high")
        actions, observations = raw[..., : self.action_dim].clamp(low, high), raw[..., self.action_dim :]
        values = trajectories.new_full(trajectories.shape[:2], math.nan)  # (N, K)
        if prepared:
            flat = [part.flatten(0, 1) for part in (trajectories, observations, actions)]
            values = total_value(prepared, flat[0], flat[1], flat[2], frame).view(values.shape)
        order = values.argsort(dim=1, descending=True, stable=True)  # (N, K); NaN: as they came
        values = values.gather(1, order)
        actions, observations = (
            part.take_along_dim(order[:, :, None, None], dim=1) for part in (actions, observations)
        )
        candidates = Plan(actions, observations, values) if return_candidates else None
        return Plan(actions[:, 0], observations[:, 0], values[:, 0], candidates)

    def _prepare(self, objectives: Weighted | None, settings: dict[str, Any], frame: Frame) -> Weighted:
        """Return the objectives, by default the learned value, checked and as fast as they can be evaluated."""
        horizon = settings["planning_horizon"]
        if objectives is None:
            return [] if self.value_function is None else [(1.0, self.learned_value.prepared(horizon, frame))]
        guided, alphas = settings["n_guide_steps"] > 0, self.scheduler.alphas_cumprod
        check_objectives(objectives, horizon, frame, alphas, guided, settings["guide_on"])
        prepared: list[tuple[float, LearnedValue | Objective]] = []
        for weight, objective in objectives:
            if isinstance(objective, LearnedValue):
                widths = objective.network.config["block_out_channels"]
                check_horizon(horizon, value_widths=widths, name="planning_horizon", remedy="")
                objective = objective.prepared(horizon, frame)
            prepared.append((weight, objective))
        return prepared

    def _sample(
        self,
        conditions: torch.Tensor,
        start: torch.Tensor | None,
        objectives: Weighted,
        settings: dict[str, Any],
        generator: Generators,
        callback: Callable[[Any, int, int, dict[str, torch.Tensor]], Any] | None,
    ) -> torch.Tensor:
        """Denoise trajectories (N, K, H, T) that meet the normalised conditions (N, 1, H, T)."""
        moved = bool(objectives) and settings["n_guide_steps"] > 0 and settings["guide_on"] == "noisy"
        scheduler, eta, levels = self._schedule(settings, moved)
        prediction_type = self.scheduler.config["prediction_type"]
        fast = accelerate_denoiser(self.unet, settings["planning_horizon"])
        shape = (len(conditions), settings["batch_size"], *conditions.shape[2:])
        temperature = settings["temperature"]
        trajectories = draw_noise(shape, generator, self.device, temperature)
        if start is not None:
            levels = levels[-warm_steps(settings) :]
            alpha = levels[0].alpha
            trajectories = math.sqrt(alpha) * start[:, None] + math.sqrt(1 - alpha) * trajectories
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(settings["num_inference_steps"] - len(levels))
        trajectories = pin(trajectories, conditions)
        for i, level in enumerate(levels):
            trajectories = self._climb(trajectories, conditions, objectives, level, settings, "noisy")
            output = self._denoise(trajectories, level.timestep, fast)
            clean, noise = split_prediction(output, trajectories, level.alpha, prediction_type)
            guided = self._climb(clean, conditions, objectives, level, settings, "clean")
            if guided is not clean:
                clean, noise = split_prediction(guided, trajectories, level.alpha, "sample")
                output = join_prediction(clean, trajectories, level.alpha, prediction_type)
            if eta is None:
                options = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
                trajectories = scheduler.step(output, level.timestep, trajectories, **options).prev_sample
            else:
                drawn = step_std(level, eta) > 0
                fresh = draw_noise(shape, generator, self.device, temperature) if drawn else None
                trajectories = step_closed_form(clean, noise, level, eta, fresh)
            trajectories = pin(trajectories, conditions)
            if callback is not None:
                callback(self, i, level.timestep, {"trajectories": trajectories})
        return trajectories

    def _climb(
        self,
        trajectories: torch.Tensor,
        conditions: torch.Tensor,
        objectives: Weighted,
        level: Level,
        settings: dict[str, Any],
        kind: str,
    ) -> torch.Tensor:
        """Return the trajectories (N, K, H, T) moved up the objectives, or as they are where guidance is not due."""
        noisy = kind == "noisy"
        factor = guide_factor(settings["guide_scaling"], level.variance if noisy else 1 - level.alpha)
        step_size = settings["scale"] * factor
        if kind != settings["guide_on"] or not objectives or level.timestep < settings["t_stopgrad"] or step_size == 0:
            return trajectories
        free = conditions.isnan()
        for _ in range(settings["n_guide_steps"]):
            gradient = total_gradient(
                objectives, trajectories.flatten(0, 1), level.timestep if noisy else 0, self._frame()
            ).view(trajectories.shape)
            # What is pinned does not move, nor does it count in the gradient's length.
            gradient = clip_norm(gradient.where(free, 0), settings["max_grad_norm"])
            trajectories = pin(trajectories + step_size * gradient, conditions)
        return trajectories

    def _denoise(self, trajectories: torch.Tensor, timestep: int, fast: FastDenoiser | None) -> torch.Tensor:
        """Return the denoiser's output (N, K, H, T)."""
        flat = trajectories.flatten(0, 1)  # (N * K, H, T)
        if fast is not None:
            return fast(flat, timestep).view(trajectories.shape)
        output: torch.Tensor = self.unet(flat.transpose(1, 2).to(self.unet.dtype), timestep).sample.transpose(1, 2)
        return output.reshape(trajectories.shape).float()

    def _schedule(self, settings: dict[str, Any], moved: bool) -> tuple[Any, float | None, list[Level]]:
        """Return diffusers' scheduler that takes the steps, or the eta of the closed form, and the noise levels.

        ``moved`` says whether guidance moves the samples between the steps.
        """
        sampler, steps, alphas = settings["sampler"], settings["num_inference_steps"], self.scheduler.alphas_cumprod
        if sampler is not None:
            timesteps = spread_timesteps(self.scheduler.config["num_train_timesteps"], steps)
            levels = make_levels(timesteps, alphas.tolist())
            if sampler in ETAS:
                return None, ETAS[sampler], levels
            return make_solver(sampler, self.scheduler, timesteps, corrector=not moved), None, levels
        self.scheduler.set_timesteps(steps)  # on the CPU, so that no step has to wait for the device
        if moved and corrects(self.scheduler):
            raise ValueError(
                f"the corrector of {type(self.scheduler).__name__} would undo the guidance of noisy samples: use "
                "guide_on='clean', sampler='unipc', which then does without it, or make the scheduler with "
                "disable_corrector for all steps"
            )
        timesteps = [int(timestep) for timestep in self.scheduler.timesteps]
        return self.scheduler, None, make_levels(timesteps, alphas.tolist())

    def _start(
        self,
        warm_start: np.ndarray | torch.Tensor | None,
        settings: dict[str, Any],
        shape: tuple[int, ...],
        frame: Frame,
    ) -> torch.Tensor | None:
        """Return the normalised plans (N, H, T) to begin from, or None for a cold start."""
        if warm_start is None:
            return None
        plans = torch.as_tensor(warm_start, dtype=torch.float32)
        if plans.shape != shape or not plans.isfinite().all():
            raise ValueError(
                f"warm_start has shape {tuple(plans.shape)}: finite plans {shape} are needed, action first, in the "
                "environment's units"
            )
        if warm_steps(settings) == settings["num_inference_steps"]:
            return None
        normalised: torch.Tensor = (plans.to(self.device) - frame.shift) / frame.scale
        return normalised

    def _frame(self) -> Frame:
        return Frame(self.action_dim, self._vector("shift"), self._vector("scale"))

    def _vector(self, name: str) -> torch.Tensor:
        """Return a vector of the statistics on the device, where None stands for no bound."""
        if (vector := self._vectors.get((name, self.device))) is None:
            unbounded = math.inf if name == "action_high" else -math.inf
            numbers = [unbounded if number is None else number for number in self.normalization[name]]
            with torch.inference_mode(False):
                vector = self._vectors[name, self.device] = torch.tensor(numbers, device=self.device)
        return vector

    def _conditions(
        self,
        observation: np.ndarray | torch.Tensor,
        conditions: Mapping[int, np.ndarray | torch.Tensor],
        horizon: int,
    ) -> torch.Tensor:
        """Return what the plans must pass through as (N, H, T) in physical units, NaN where they are free."""
        first = torch.as_tensor(observation, dtype=torch.float32)
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
            if not isinstance(step, Integral):
                raise ValueError(f"condition at step {step!r}: a whole number is needed")
            if not -horizon < step < horizon or step == 0:
                raise ValueError(
                    f"condition at step {step}: it must lie between 1 and {horizon - 1}, or {1 - horizon} and -1 from "
                    "the end; step 0 is the observation itself"
                )
            if not pinned[:, step].isnan().all():
                raise ValueError(f"condition at step {step} meets another one of the same step")
            condition = torch.as_tensor(condition, dtype=torch.float32, device=first.device)
            if condition.shape not in ((self.observation_dim,), (len(first), self.observation_dim)):
                raise ValueError(
                    f"condition at step {step} has shape {tuple(condition.shape)}: "
                    f"({self.observation_dim},) or ({len(first)}, {self.observation_dim}) is needed"
                )
            if condition.isinf().any():
                raise ValueError(f"condition at step {step} is not finite: {condition}. NaN leaves a dimension free")
            pinned[:, step, self.action_dim :] = condition
        pinned[:, 0, self.action_dim :] = first
        return pinned.to(self.device)


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
