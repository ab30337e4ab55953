"""Plan by diffusion: denoise trajectories from noise, climb the predicted return, keep the best.

The files of this room need the standard library, numpy, torch and diffusers (with its huggingface_hub) alone. An
exported folder carries them joined to one, so ``DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder,
trust_remote_code=True)`` plans without the package.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
A trajectory is (..., H, T), action first. The method is Janner et al. 2022, "Planning with Diffusion for Flexible
Behavior Synthesis", Algorithm 1.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, Unpack, cast

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet1DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

# Relative imports, by which an export knows the order in which it has to join the files.
from .acceleration import accelerate_denoiser
from .commitment import Committed, place_commitment
from .companions import CRITIC, has_companion
from .conditions import Observations, pin, place_conditions
from .critic import Critic, open_critic
from .denoising import as_function, denoise, place_warm_start
from .frame import Frame
from .guidance import Guidance, LearnedValue, Objective, Weighted, check_objectives, total_value
from .habit import Habit, hash_teacher, open_habit
from .hub import fetch_folder, find_origin, is_repository, upload_folder
from .inputs import check_generators, shorten
from .joining import complete_folder
from .loading import check_folder, name_folder, try_networks
from .networks import check_horizon, weights_device, weights_dtype
from .outcome import find_cause, refuse_unsound
from .plan import Plan, choose
from .resolving import check_components, resolve
from .sampling import Generators, check_schedule, make_stepper
from .settings import Settings
from .weights import check_weights


class ValueGuidedPlannerPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Plans from an observation: guided sampling, then the candidate whose clean plan has the highest value.

    Attributes:
        normalization: The dataset's statistics, as the folder holds them.
        planner: The folder's defaults of the settings.
        task: What the folder was trained for: environment, datasets, discount, reference scores.
        frame: The normaliser, the action bounds and the stride, on the CPU.
        action_dim: A.
        observation_dim: O.
    """

    unet: UNet1DModel
    value_function: UNet1DModel | None
    scheduler: Any

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
                ``return_scale``, ``action_low`` and ``action_high`` (A numbers each, None for no bound), and
                ``stride``, the steps of a plan that one step of the networks stands for; without it 1.
            planner: Defaults of the settings.
            task: What the folder was trained for.

        Raises:
            ValueError: If the normalisation is missing, does not fit the networks or holds a number that cannot be; if
                a weight is missing or not finite; if the noise schedule or a default is wrong.
        """
        super().__init__()
        if normalization is None:
            raise ValueError("normalization is missing: model_index.json of a planner holds the dataset's statistics")
        for name, given in (("planner", planner), ("task", task)):
            if not isinstance(given, dict | None):
                raise ValueError(f"{name} is {shorten(given)}: a dictionary is needed")
        channels: int = unet.config["in_channels"]
        self.frame = Frame.of(normalization, channels)
        for name, network in (("unet", unet), ("value_function", value_function)):
            if network is not None:
                check_weights(name, network)
        self.register_modules(unet=unet, scheduler=scheduler, value_function=value_function)
        self.register_to_config(normalization=normalization, planner=planner or {}, task=task or {})
        self.normalization: dict[str, Any] = normalization
        self.planner: dict[str, Any] = planner or {}
        self.task: dict[str, Any] = task or {}
        self.action_dim: int = self.frame.action_dim
        self.observation_dim: int = len(self.frame.shift) - self.action_dim
        self._critic: Critic | None = None
        # The folder's sampler stands for the noise schedule of its training. A scheduler that somebody puts in the
        # place of that one is used as it is.
        self._trained_scheduler = scheduler if isinstance(scheduler, DDPMScheduler) else None
        self._checked_scheduler: Any = None
        self.resolve_settings()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a folder, as every diffusers pipeline does; small networks need no help of accelerate.

        Of a repository on the Hub its data are fetched and its code is not: the code that plans is this class's.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the Hugging Face Hub.
            kwargs: As for every diffusers pipeline, such as components in place of the folder's.

        Raises:
            ValueError: If a file of the folder is damaged, or what it holds cannot plan; it names the folder. If the
                Hub has no such planner.
            OSError: If a file is missing.
        """
        folder, options = Path(pretrained_model_name_or_path), {"low_cpu_mem_usage": False} | kwargs
        if is_repository(str(pretrained_model_name_or_path)):
            folder = fetch_folder(str(pretrained_model_name_or_path), kwargs)
        if not {"dtype", "torch_dtype"} & set(kwargs):
            options["dtype"] = torch.float32  # not what torch's default type happens to be
        local = folder.is_dir()
        with name_folder(folder) if local else nullcontext():
            if local and (folder / "model_index.json").is_file():
                check_folder(folder, kwargs)
            pipeline: Self = super().from_pretrained(str(folder), **options)
            steps = pipeline.resolve_settings()["planning_horizon"] // pipeline.frame.stride
            try_networks(pipeline.unet, pipeline.value_function, steps)
        if "scheduler" in kwargs:
            pipeline._trained_scheduler = None
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the planner as a whole folder, which loads without this package too.

        Beside what every diffusers pipeline saves it gets the code and, from the folder that the planner was loaded
        from, its model card, training configs, habit, critic, evaluation and film.

        Args:
            save_directory: The folder.
            args: As for every diffusers pipeline.
            push_to_hub: Upload the folder too; ``repo_id`` names the repository, by default as the folder is named.
            kwargs: As for every diffusers pipeline, and those of ``push_to_hub``.

        Raises:
            ValueError: If a file of the old folder is a link that leads out of it, or the upload fails.
        """
        names = ("repo_id", "private", "token", "commit_message", "create_pr")
        upload = {name: kwargs.pop(name) for name in names if name in kwargs}
        folder = Path(save_directory)
        super().save_pretrained(str(folder), *args, **kwargs)
        complete_folder(folder, find_origin(self.config.get("_name_or_path")))
        if push_to_hub:
            upload_folder(folder, upload.pop("repo_id", folder.name), **upload)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> str:
        """Upload the folder that ``save_pretrained`` writes, and return the commit's address; as of every pipeline.

        Raises:
            ValueError: As ``save_pretrained``.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            return upload_folder(
                Path(folder),
                repo_id,
                private=private,
                token=token,
                commit_message=commit_message,
                create_pr=create_pr,
                subfolder=subfolder,
            )

    def resolve_settings(self, *, objectives: Weighted | None = None, **given: Unpack[Settings]) -> Settings:
        """Return all settings of planning: what is given, else the folder's default, else the paper's.

        Args:
            objectives: Those of the call; guidance needs them or a value function.
            given: Settings in place of the folder's.

        Raises:
            ValueError: If a setting is unknown or cannot work with these networks.
        """
        check_components(self.unet, self.value_function, self.frame.channels)
        if self.scheduler is not self._checked_scheduler:
            check_schedule(self.scheduler)
            self._checked_scheduler = self.scheduler
        return resolve(
            self.planner,
            given,
            self.unet,
            self.value_function,
            self.scheduler,
            has_objectives=objectives is not None,
            samples_as_trained=self.scheduler is self._trained_scheduler,
            stride=self.frame.stride,
        )

    @property
    def learned_value(self) -> LearnedValue:
        """The value function, as one of the ``objectives`` of a call, of this pipeline's or of another's.

        Raises:
            ValueError: If there is none.
        """
        if self.value_function is None:
            raise ValueError("this pipeline has no value function: export with --value")
        shift, scale = self.normalization["return_shift"], self.normalization["return_scale"]
        return LearnedValue(self.value_function, self.frame, shift, scale, self.scheduler.alphas_cumprod)

    def load_habit(self) -> Habit:
        """Load the habit that lies in the planner's folder, onto the planner's device.

        Raises:
            ValueError: If there is none, it was distilled from other networks or statistics, or a file is damaged.
            OSError: If a file is missing.
        """
        # In another precision the weights are not those that it was distilled from, and are not compared.
        exact = weights_dtype(self.unet) == torch.float32
        sha256 = hash_teacher(self.unet, self.value_function, self.normalization) if exact else None
        return open_habit(self.config.get("_name_or_path"), sha256, weights_device(self.unet))

    @property
    def has_critic(self) -> bool:
        """Whether a critic lies in the planner's folder."""
        origin = self.config.get("_name_or_path")
        return origin is not None and has_companion(Path(origin), CRITIC)

    def load_critic(self) -> Critic:
        """Load the critic that lies in the planner's folder, onto the planner's device; once, and then keep it.

        Raises:
            ValueError: If there is none, or a file is damaged.
            OSError: If a file is missing.
        """
        device = weights_device(self.unet)
        if self._critic is None:
            self._critic = open_critic(self.config.get("_name_or_path"), self.frame, device)
        elif weights_device(self._critic) != device:
            self._critic = self._critic.to(device)
        return self._critic

    def compile(self, **options: Any) -> None:
        """Compile the networks with ``torch.compile``, on a GPU with CUDA graphs; shapes should then stay the same.

        The weights are frozen (``requires_grad=False``), or the compiled gradient would be that of the weights too.
        On a CPU this takes minutes and gains less than what the networks do there uncompiled (see fast_networks.py).

        Args:
            options: Passed to ``torch.compile``.
        """
        default = {"mode": "reduce-overhead"} if weights_device(self.unet).type == "cuda" else {}
        for network in (self.unet, self.value_function):
            if network is not None:
                network.requires_grad_(False).compile(**default | options)

    @torch.no_grad()
    def __call__(
        self,
        observation: Observations,
        *,
        conditions: Mapping[int, Observations] | None = None,
        objectives: Weighted | None = None,
        warm_start: np.ndarray | torch.Tensor | None = None,
        committed: Committed | None = None,
        generator: Generators = None,
        return_candidates: bool = False,
        callback_on_step_end: Callable[[Any, int, int, dict[str, torch.Tensor]], Any] | None = None,
        **settings: Unpack[Settings],
    ) -> Plan:
        """Plan from each observation.

        Args:
            observation: The present one, (O,) or (N, O), in the environment's units, flat.
            conditions: Further observations that the plan must pass through, ``{step: (O,) or (N, O)}``; negative steps
                count from the end, NaN leaves a dimension free. With a stride they stand at its multiples, or in the
                last s steps, which have one observation.
            objectives: What guidance climbs and candidates are ranked by, as pairs (weight, objective), in place of the
                learned value alone; an objective is ``pipeline.learned_value`` or a function of observations (B, H, O)
                and actions (B, H, A) in the environment's units that returns (B,) and that torch can differentiate.
            warm_start: Plans (N, H, T) in the environment's units, action first, that sampling begins from: they are
                noised to the level from which the last of the denoising steps remain.
            committed: Plans (N, H, T) in the environment's units that are executed at present, from the present step
                on, and weights (H,) or (N, H) between 0 and 1. Steps of weight 1 keep exactly these plans' entries,
                with lower weights they are drawn towards them; NaN leaves an entry free. Conditions precede them.
            generator: One, or one for each observation: then a plan does not depend on the others in the batch.
            return_candidates: Keep all candidates in ``Plan.candidates``.
            callback_on_step_end: Called with the pipeline, index, timestep and ``{"trajectories": (N, K, H, T)}``,
                copies of the normalised samples, folded where the planner has a stride; what it returns is ignored,
                and what it raises ends the call.
            settings: Those of ``Settings``; the folder's defaults hold for what is not given.

        Raises:
            ValueError: If an observation, a condition, a plan, a generator, an objective or a setting is wrong, before
                anything is sampled; or if a plan is not finite, or no candidate of an observation has a finite value,
                with the observation's number and the likely cause.
        """
        device = weights_device(self.unet)
        if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
            # Plans are in float32: bfloat16 has two digits.
            with torch.autocast(device.type, enabled=False):
                return self(
                    observation,
                    conditions=conditions,
                    objectives=objectives,
                    warm_start=warm_start,
                    committed=committed,
                    generator=generator,
                    return_candidates=return_candidates,
                    callback_on_step_end=callback_on_step_end,
                    **settings,
                )
        settings["replan_every"] = 0  # an agent's, so a call may plan fewer steps than the folder's agents execute
        resolved = self.resolve_settings(objectives=objectives, **settings)
        frame = self.frame.to(device)
        horizon, dimensions = resolved["planning_horizon"], (self.action_dim, self.observation_dim)
        placed = place_conditions(observation, conditions, horizon, *dimensions, device, frame.stride)
        raw_conditions = placed.to(device)  # (N, H, T)
        generator = check_generators(generator, len(raw_conditions), device)
        start = place_warm_start(warm_start, resolved, tuple(raw_conditions.shape), frame)
        commitment = place_commitment(committed, raw_conditions, frame)
        critic = self.load_critic() if resolved["rank_by"] == "critic" and objectives is None else None
        guidance = Guidance(self._prepare(objectives, resolved, frame), frame, resolved)

        trajectories = denoise(
            as_function(self.unet, accelerate_denoiser(self.unet, horizon // frame.stride)),
            make_stepper(
                self.scheduler, resolved["sampler"], cast(int, resolved["num_inference_steps"]), guidance.moves_samples
            ),
            guidance,
            frame.normalise(raw_conditions)[:, None],
            start,
            generator,
            None if callback_on_step_end is None else lambda *state: callback_on_step_end(self, *state),
            commitment,
        )
        # In physical units what holds is put in once more, so that it holds to the last bit.
        fixed = raw_conditions if commitment is None else commitment.fix(raw_conditions)
        raw = pin(frame.denormalise(trajectories), fixed[:, None])
        actions, observations = frame.clip_actions(raw[..., : self.action_dim]), raw[..., self.action_dim :]
        values = scores = trajectories.new_full(trajectories.shape[:2], math.nan)  # (N, K)
        if guidance.objectives:
            flat = [part.flatten(0, 1) for part in (trajectories, observations, actions)]
            values = total_value(guidance.objectives, flat[0], flat[1], flat[2], frame).view(values.shape)
            scores = values
        if critic is not None:
            scores = critic.rank(observations[:, :, 0], actions[:, :, 0])
        networks = {"unet": self.unet, "value_function": self.value_function, "critic": critic}
        refuse_unsound(
            raw,
            scores if guidance.objectives or critic is not None else None,
            lambda rows: find_cause(
                rows,
                networks,
                raw_conditions,
                start,
                None if commitment is None else commitment.plans[:, 0],
                frame,
                guidance.objectives,
                resolved,
            ),
        )
        return choose(actions, observations, values, scores, resolved["choice_temperature"], keep_all=return_candidates)

    def _prepare(self, objectives: Weighted | None, settings: Settings, frame: Frame) -> Weighted:
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
                check_horizon(horizon, value_widths=widths, name="planning_horizon", remedy="", stride=frame.stride)
                objective = objective.prepared(horizon, frame)
            prepared.append((float(weight), objective))
        return prepared
