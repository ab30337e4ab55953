"""A planner's folder and the environments it acts in: loaded, found, and fit for each other."""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium import Env
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from vgp_lightning.agent.planning import make_environments
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline


def load_pipeline(folder: Path, device: str = "auto") -> ValueGuidedPlannerPipeline:
    """Load a pipeline folder onto a device, or say what is wrong with it; auto: cuda if there is one, else cpu.

    Raises:
        ValueError: If the folder is no planner's.
    """
    index = folder / "model_index.json"
    remedy = "make one: vgp export --denoiser DENOISER.ckpt --value VALUE.ckpt --output FOLDER"
    if not index.is_file():
        raise ValueError(f"{folder} is no pipeline folder, for it has no model_index.json; {remedy}")
    name = json.loads(index.read_text()).get("_class_name")
    if name != ValueGuidedPlannerPipeline.__name__:
        raise ValueError(f"{folder} holds a {name}, not a {ValueGuidedPlannerPipeline.__name__}; {remedy}")
    # Without the option diffusers advertises accelerate.
    pipeline: ValueGuidedPlannerPipeline = ValueGuidedPlannerPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline.to(device)
    return pipeline


def find_environment(pipeline: ValueGuidedPlannerPipeline, env_id: str | None, folder: Path) -> str | EnvSpec:
    """Return the user's environment, else the specification or the id that the planner was trained with.

    Raises:
        ValueError: If neither says one.
    """
    if env_id is not None:
        return env_id
    if pipeline.task.get("env_spec") is not None:
        return EnvSpec.from_json(json.dumps(pipeline.task["env_spec"]))
    if pipeline.task.get("env_id") is not None:
        return str(pipeline.task["env_id"])
    raise ValueError(f"{folder} does not say which environment it is for: give one, such as --env_id Hopper-v5")


def make_fitting(
    spec: str | EnvSpec, count: int, pipeline: ValueGuidedPlannerPipeline, folder: Path, video: bool
) -> VectorEnv:
    """Make the environments, able to draw if that is wanted and possible, after a look at whether they fit.

    Raises:
        ValueError: If their dimensions are not those of the plans.
    """
    sample = make_environments(spec, 1)
    observations, actions = sample.single_observation_space.shape, sample.single_action_space.shape
    sample.close()
    dimensions = int(np.prod(observations or 0)), int(np.prod(actions or 0))
    if dimensions != (pipeline.observation_dim, pipeline.action_dim):
        raise ValueError(
            f"{spec if isinstance(spec, str) else spec.id} has {dimensions[0]} observation and {dimensions[1]} action "
            f"dimensions, but {folder} plans {pipeline.observation_dim} and {pipeline.action_dim}: "
            "give the environment of its training with --env_id"
        )
    draws = video and "rgb_array" in sample.metadata.get("render_modes", [])
    return make_environments(spec, count, **({"render_mode": "rgb_array"} if draws else {}))


def describe_run(folder: Path, pipeline: ValueGuidedPlannerPipeline, environment: Env[Any, Any]) -> dict[str, Any]:
    """Return what a report says of where its numbers are from: environment, folder, weights, versions, device."""
    return {
        "env_spec": _describe(environment),
        "pipeline": str(folder),
        "checkpoints": pipeline.task.get("checkpoints"),
        "weights_sha256": _hash_weights(folder),
        "versions": _versions(),
        "device": str(pipeline.device),
    }


def _describe(environment: Env[Any, Any]) -> dict[str, Any]:
    """Return the specification as gymnasium would write it, less what ``make_environments`` and a video add to it."""
    spec = asdict(cast(EnvSpec, environment.spec))
    spec["kwargs"] = {key: value for key, value in spec["kwargs"].items() if key != "render_mode"}
    spec["additional_wrappers"] = spec["additional_wrappers"][:-1]  # the last makes the observations flat
    if callable(entry := spec["entry_point"]):  # which gymnasium refuses to write
        spec["entry_point"] = f"{entry.__module__}:{entry.__qualname__}"
    parts = ("namespace", "name", "version")  # of the id
    described: dict[str, Any] = json.loads(
        json.dumps({key: value for key, value in spec.items() if key not in parts}, default=repr)
    )
    return described


def _hash_weights(folder: Path) -> str | None:
    """Return one hash of the folder's files of weights, with their names; None if it has none."""
    files = sorted(path for kind in ("safetensors", "bin") for path in folder.glob(f"*/*.{kind}"))
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{digest}  {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest() if files else None


def _versions() -> dict[str, str | None]:
    """Return the versions of what decides the returns; None: not installed."""
    versions: dict[str, str | None] = {}
    for name in ("vgp_lightning", "torch", "diffusers", "gymnasium", "gymnasium-robotics", "mujoco", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions
