"""A planner as a program: what a call of the pipeline computes, as one function of tensors without Python around it.

Shapes: O observation and A action dimensions, T = A + O, H steps, K candidates, D draws of noise. A program plans for
one observation.
"""

import math
from typing import Any, cast

import torch
from torch import nn

from vgp_lightning.export.program_layers import as_products
from vgp_lightning.pipeline.conditions import pin
from vgp_lightning.pipeline.denoising import as_function
from vgp_lightning.pipeline.guidance import Guidance, LearnedValue, Weighted, total_value
from vgp_lightning.pipeline.plan import mix, weigh
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.sampling import ETAS, make_stepper, step_closed_form, step_std
from vgp_lightning.pipeline.settings import Settings, warm_steps


class PlanProgram(nn.Module):
    """From an observation and noise to the best plan: units, sampler, guidance, best-of-K selection, action bounds.

    The sampler is unrolled: each denoising step is a part of the program of its own.

    Attributes:
        settings: All settings of planning, as the program has them built in.
        inputs: The inputs' shapes, in their order.
        outputs: The outputs' shapes, in their order.
    """

    def __init__(self, pipeline: ValueGuidedPlannerPipeline, settings: Settings, warm: bool = False) -> None:
        """Take over a pipeline's networks, statistics and noise schedule.

        Args:
            pipeline: On the CPU.
            settings: All settings, as ``pipeline.resolve_settings`` returns them.
            warm: Begin from the last plan, with the share of the denoising steps that ``warm_start_strength`` says.

        Raises:
            ValueError: If the sampler cannot be unrolled, or a critic shall rank and the folder has none.
        """
        super().__init__()
        sampler = settings["sampler"]
        if sampler not in ETAS:
            raise ValueError(
                f"a program cannot have the sampler {sampler or type(pipeline.scheduler).__name__}, which is Python "
                f"code of diffusers: choose one of {sorted(ETAS)}, such as --sampler ddim"
            )
        self.settings, self.warm = settings, warm
        horizon, steps_of_networks = settings["planning_horizon"], settings["planning_horizon"] // pipeline.frame.stride
        self.frame, self.action_dim = pipeline.frame, pipeline.action_dim
        self.denoiser = as_products(pipeline.unet, steps_of_networks)
        objectives: Weighted = []
        if pipeline.value_function is not None:
            self.value_function = as_products(pipeline.value_function, steps_of_networks)
            shift, scale = pipeline.normalization["return_shift"], pipeline.normalization["return_scale"]
            alphas = pipeline.scheduler.alphas_cumprod
            objectives = [(1.0, LearnedValue(self.value_function, self.frame, shift, scale, alphas))]
        self.critic = pipeline.load_critic() if settings["rank_by"] == "critic" else None
        self.guidance = Guidance(objectives, self.frame, settings)
        steps = cast(int, settings["num_inference_steps"])
        self.eta = ETAS[sampler]
        self.stepper = make_stepper(pipeline.scheduler, sampler, steps, self.guidance.moves_samples)
        if warm:
            self.stepper = self.stepper.starting_at(steps - warm_steps(settings))
        draws = 1 + sum(step_std(level, self.eta) > 0 for level in self.stepper.levels)
        # Nothing but a value or a critic tells candidates apart; the mean of all of them needs neither.
        several = objectives or self.critic is not None or settings["choice_temperature"] > 0
        candidates = settings["batch_size"] if several else 1
        self.plan_shape, observations = (horizon, len(self.frame.shift)), pipeline.observation_dim
        self.inputs: dict[str, tuple[int, ...]] = {
            "observation": (observations,),
            "noise": (draws, candidates, steps_of_networks, self.frame.channels),
        }
        if warm:
            self.inputs["previous"] = self.plan_shape
        self.outputs: dict[str, tuple[int, ...]] = {
            "actions": (horizon, self.action_dim),
            "observations": (horizon, observations),
            "value": (1,),
        }

    def forward(
        self, observation: torch.Tensor, noise: torch.Tensor, previous: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the chosen plan: actions (H, A), observations (H, O), value (1,), NaN without one.

        Args:
            observation: (O,), in the environment's units.
            noise: (D, K, H, T), standard normal: what sampling begins from, then what each step adds; folded where the
                planner has a stride.
            previous: (H, T), the plan that a warm start begins from, in the environment's units, action first.
        """
        horizon, dimensions = self.plan_shape
        free = noise.new_full((1, 1, 1, dimensions), math.nan)
        first = torch.cat((free[..., : self.action_dim], observation.view(1, 1, 1, -1)), dim=3)
        raw_conditions = torch.cat((first, free.expand(1, 1, horizon - 1, -1)), dim=2)  # (1, 1, H, T)
        conditions = self.frame.normalise(raw_conditions)
        trajectories = self._denoise(noise[:, None], conditions, previous)  # (1, K, H, T)
        raw = pin(self.frame.denormalise(trajectories), raw_conditions)[0]
        actions, observations = self.frame.clip_actions(raw[..., : self.action_dim]), raw[..., self.action_dim :]
        objectives = self.guidance.objectives
        values = noise.new_full((noise.shape[1],), math.nan)  # (K,)
        if objectives:
            values = total_value(objectives, trajectories[0], observations, actions, self.frame)
        scores = values
        if self.critic is not None:
            scores = self.critic.rank(observations[None, :, 0], actions[None, :, 0])[0]
        if len(scores) == 1:
            return actions[0], observations[0], values
        if (temperature := self.settings["choice_temperature"]) > 0:
            weights = weigh(scores[None], temperature)
            actions, observations = (mix(part[None], weights[:, :, None, None]) for part in (actions, observations))
            return actions[0], observations[0], mix(values[None], weights)
        best = scores.where(scores.isfinite(), -math.inf).argmax(0, keepdim=True)
        return actions.index_select(0, best)[0], observations.index_select(0, best)[0], values.index_select(0, best)

    def _denoise(self, noise: torch.Tensor, conditions: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
        """Return clean trajectories (1, K, H, T): what ``denoise`` of the pipeline does, with noise (D, 1, K, H, T)."""
        network, stepper, guidance = as_function(self.denoiser, None), self.stepper, self.guidance
        draws = iter(self.settings["temperature"] * noise)
        trajectories = next(draws)
        if previous is not None:
            alpha = stepper.levels[0].alpha
            trajectories = math.sqrt(alpha) * self.frame.normalise(previous) + math.sqrt(1 - alpha) * trajectories
        trajectories = pin(trajectories, conditions)
        for level in stepper.levels:
            trajectories = guidance.climb(trajectories, conditions, level, "noisy")
            prediction = stepper.predict(network(trajectories, level.timestep), trajectories, level)
            guided = guidance.climb(prediction.clean, conditions, level, "clean")
            if guided is not prediction.clean:
                prediction = stepper.correct(guided, trajectories, level)
            std = step_std(level, self.eta)
            fresh = next(draws) if std > 0 else None
            trajectories = pin(step_closed_form(prediction.clean, prediction.noise, level, std, fresh), conditions)
        return trajectories

    def draw_inputs(self, seed: int) -> dict[str, torch.Tensor]:
        """Return inputs to try the program on: an observation as in training, and noise as the pipeline draws it."""
        generator = torch.Generator().manual_seed(seed)
        shift, scale = self.frame.shift, self.frame.scale
        observation = (torch.randn(len(shift), generator=generator) * scale + shift)[self.action_dim :]
        previous = torch.randn(self.plan_shape, generator=generator) * scale + shift
        generator.manual_seed(seed)
        draws, *shape = self.inputs["noise"]
        noise = torch.cat([torch.randn(1, *shape, generator=generator) for _ in range(draws)])
        inputs: dict[str, Any] = {"observation": observation, "noise": noise, "previous": previous}
        return {name: inputs[name] for name in self.inputs}
