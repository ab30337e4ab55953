"""A pipeline folder in its environment: loaded, checked, described, timed."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from rich.console import Console

from vgp_lightning.agent.controllers import Controller
from vgp_lightning.agent.environments import close, environment_of, has_time_limit, make_environments
from vgp_lightning.agent.folders import check_folder
from vgp_lightning.agent.origin import describe_environment, hash_configs, hash_weights, versions
from vgp_lightning.agent.planning import Conditions, PlanningAgent
from vgp_lightning.agent.threads import use_fastest
from vgp_lightning.agent.trust import trusted_spec
from vgp_lightning.pipeline.companions import CRITIC
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.documents import read_json
from vgp_lightning.report.files import refuse_links

# Where the seeds of evaluations begin: far from those of collected episodes, which begin at 0. With the same seed an
# environment begins in the same state, so a planner would be evaluated from the initial states of its training data.
FIRST_SEED = 1_000_000
_LATENCY_WARM_UP, _LATENCY_CALLS = 2, 7
_PROBED_PLANS = 256


class Deployment:
    """A pipeline folder in its environment.

    Attributes:
        folder: The folder.
        pipeline: Its planner.
        spec: The environment's id or specification.
        env_id: The environment's id.
    """

    def __init__(
        self, folder: str, env_id: str | None = None, device: str = "auto", trust_environment: bool = False
    ) -> None:
        """Load the planner and find its environment.

        Args:
            folder: Folder that ``vgp export`` wrote.
            env_id: The environment's id; None: the environment that the planner was trained for.
            device: Where the planner runs; auto: cuda if there is one, else cpu.
            trust_environment: Make the environment that the folder specifies even if it is not the one that is
                registered under its id. This runs whatever code the folder names.

        Raises:
            ValueError: If the folder is not a planner's, no environment is given and the folder names none, or it
                names one that is not registered.
        """
        self.folder = Path(folder)
        self.pipeline = load_pipeline(self.folder, device)
        self.spec = env_id if env_id is not None else self._find_environment(trust_environment)
        self._warned = False
        self.env_id: str = self.spec if isinstance(self.spec, str) else self.spec.id

    def _find_environment(self, trusted: bool) -> str | EnvSpec:
        task = self.pipeline.task
        if trusted and task.get("env_spec") is not None:
            return EnvSpec.from_json(json.dumps(task["env_spec"]))
        found = task.get("env_id") if trusted else trusted_spec(task, self.folder)
        if found is None:
            raise ValueError(
                f"{self.folder} does not name the environment it was trained for: give one, such as --env_id Hopper-v5"
            )
        return found

    def agent(
        self,
        conditions: Conditions | None = None,
        controller: Controller | None = None,
        *,
        habit: bool = False,
        delay: int = 0,
        **settings: Unpack[Settings],
    ) -> PlanningAgent:
        """Return an agent that plans with these settings in place of the folder's.

        Args:
            conditions: Makes the inpainting conditions of plans from the observations.
            controller: Follows the plans' observations; None: the plans' own actions are executed.
            habit: Answer by the folder's habit in place of planning.
            delay: Steps between the observation that a plan is made from and the first step at which it is executed.
            settings: Those in place of the folder's.

        Raises:
            ValueError: If a setting or the delay is wrong, or the folder has no habit that was distilled from its
                planner.
        """
        options: dict[str, Any] = {"conditions": conditions, "controller": controller, "delay": delay}
        if habit:
            return PlanningAgent(self.pipeline, habit=True, **options, **settings)
        try:
            return PlanningAgent(self.pipeline, **options, **settings)
        except ValueError as error:
            raise ValueError(f"{self.folder} cannot plan with these settings: {error}") from error

    def choose_threads(self, environments: int, **settings: Unpack[Settings]) -> None:
        """Let ``vgp`` use as many threads as suit calls for so many environments; see agent/threads.py.

        Args:
            environments: Their number.
            settings: Those in place of the folder's.
        """
        pipeline = self.pipeline

        def plan() -> torch.Tensor:
            """Take one denoising step of at most so many plans: enough to compare, and soon over."""
            resolved = pipeline.resolve_settings(**settings)
            count = min(environments, -(-_PROBED_PLANS // resolved["batch_size"]))
            observations = pipeline.frame.shift[pipeline.action_dim :].expand(count, -1)
            generators = [torch.Generator().manual_seed(i) for i in range(count)]
            return pipeline(observations, generator=generators, **resolved | {"num_inference_steps": 1}).trajectories

        if pipeline.device.type == "cpu":
            use_fastest(plan)

    @contextmanager
    def environments(
        self, count: int, video: bool = False, max_episode_steps: int | None = None
    ) -> Iterator[VectorEnv]:
        """Make the environments, and close them at the end.

        Args:
            count: Their number.
            video: Make them able to render, if they can.
            max_episode_steps: Time limit of an episode; None: the environment's own.

        Raises:
            ValueError: If their dimensions do not match those of the plans, or the time limit is below 1.
        """
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps is {max_episode_steps}: at least 1 is needed")
        options = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        sample = make_environments(self.spec, 1, **options)
        observations, actions = sample.single_observation_space.shape, sample.single_action_space.shape
        limited = has_time_limit(first_of(sample))
        close(sample)
        dimensions = int(np.prod(observations or 0)), int(np.prod(actions or 0))
        planned = self.pipeline.observation_dim, self.pipeline.action_dim
        if dimensions != planned:
            raise ValueError(
                f"{self.env_id} has {dimensions[0]} observation and {dimensions[1]} action dimensions, but "
                f"{self.folder} plans {planned[0]} and {planned[1]}: give the environment of its training data with "
                "--env_id"
            )
        if not limited and not self._warned:
            self._warned = True
            Console(stderr=True).print(
                f"{self.env_id} has no time limit: an episode that does not end is played for ever. Give one with "
                "--max_episode_steps",
                markup=False,
                soft_wrap=True,
            )
        draws = video and "rgb_array" in sample.metadata.get("render_modes", [])
        drawing = {"render_mode": "rgb_array"} if draws else {}
        environments = make_environments(self.spec, count, **options, **drawing)
        try:
            yield environments
        finally:
            close(environments)

    def identify(self, environments: VectorEnv, critic: bool = False) -> dict[str, Any]:
        """Return what decides an episode's numbers beside its seeds and the settings, for an ``EpisodeStore``.

        Args:
            environments: Where it is played.
            critic: Whether the folder's critic may have a part in it.
        """
        return {
            **({"critic": hash_weights(self.folder, CRITIC)} if critic else {}),
            "env_id": self.env_id,
            "env_spec": describe_environment(first_of(environments)),
            "weights_sha256": hash_weights(self.folder),
            "configs_sha256": hash_configs(self.folder),
            # The evidence says why the folder's defaults are so; it decides nothing.
            "task": {name: value for name, value in self.pipeline.task.items() if name != "evidence"},
            "versions": versions(),
            "device": self.pipeline.device.type,
        }

    def describe(self, environments: VectorEnv) -> dict[str, Any]:
        """Return what a report holds about its origin: environment, folder, weights, versions, device, threads."""
        return {
            "env_spec": describe_environment(first_of(environments)),
            "pipeline": str(self.folder),
            "checkpoints": self.pipeline.task.get("checkpoints"),
            "value_function": self.pipeline.value_function is not None,
            "weights_sha256": hash_weights(self.folder),
            "versions": versions(),
            "device": str(self.pipeline.device),
            "threads": torch.get_num_threads(),
        }


def first_of(environments: VectorEnv) -> gymnasium.Env[Any, Any]:
    """Return the first environment, in which the first episode is played."""
    return environment_of(environments, 0)


def load_pipeline(folder: Path, device: str = "auto") -> ValueGuidedPlannerPipeline:
    """Load a pipeline folder onto a device.

    Args:
        folder: The folder.
        device: Such as cpu or cuda:1; auto: cuda if there is one, else cpu.

    Raises:
        ValueError: If the folder is not a planner's, has links that lead out of it, or describes parts that are
            larger than its weights.
    """
    index = folder / "model_index.json"
    remedy = "make one: vgp export --denoiser DENOISER.ckpt --value VALUE.ckpt --output FOLDER"
    if not index.is_file():
        found = _describe_other(folder) or f"it has no model_index.json; {remedy}"
        raise ValueError(f"{folder} is not a pipeline folder: {found}")
    device = find_device(device)
    refuse_links(folder)
    content = read_json(index)
    name = content.get("_class_name")
    if name != ValueGuidedPlannerPipeline.__name__:
        raise ValueError(f"{folder} holds a {name}, not a {ValueGuidedPlannerPipeline.__name__}; {remedy}")
    check_folder(folder, content)
    # Without this option diffusers prints an advertisement of accelerate.
    pipeline: ValueGuidedPlannerPipeline = ValueGuidedPlannerPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.to(device)
    return pipeline


def find_device(device: str) -> str:
    """Return the name of a device that this machine has.

    Args:
        device: Such as cpu or cuda:1; auto: cuda if there is one, else cpu.

    Raises:
        ValueError: If there is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    try:
        known = torch.device(device)
        if known.type == "meta":
            raise ValueError("its tensors have no numbers")
        torch.empty(0, device=known)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:  # by the kind of device
        raise ValueError(f"--device {device}: there is none on this machine; it has {', '.join(here)}") from error
    return device


def _describe_other(folder: Path) -> str | None:
    """Return what a user has given in place of a pipeline folder, and the cure; None: neither is known."""
    if folder.suffix in (".yaml", ".yml"):
        return f"it is a config, which is given as -c {folder}"
    if folder.is_file():
        return f"it is a file. A checkpoint becomes a folder by vgp export --denoiser {folder} --output FOLDER"
    if (folder / "checkpoints").is_dir():
        return f"it is a run of vgp fit, which becomes one by vgp export --denoiser {folder} --output FOLDER"
    return None


def measure_latency(pipeline: ValueGuidedPlannerPipeline, **settings: Unpack[Settings]) -> float:
    """Return the milliseconds of one planning call for one observation: the median of several, after a warm-up.

    With warm starts the call starts from a plan, as in a control loop after an episode's first call. An agent that
    plans once an episode always starts cold.

    Args:
        pipeline: The planner.
        settings: Those in place of the folder's.
    """
    observation = pipeline.frame.shift[pipeline.action_dim :]  # the mean of the data
    replans = pipeline.resolve_settings(**settings)["replan_every"] > 0
    generator = torch.Generator(pipeline.device).manual_seed(0)
    previous, seconds = None, []
    for _ in range(_LATENCY_WARM_UP + _LATENCY_CALLS):
        begin = time.perf_counter()
        plan = pipeline(observation, generator=generator, warm_start=previous, **settings)
        trajectories = plan.trajectories.cpu()  # waits for the device
        seconds.append(time.perf_counter() - begin)
        previous = trajectories if replans else None
    return 1000 * float(np.median(seconds[_LATENCY_WARM_UP:]))
