"""Checkpoints of the original code (Janner et al. 2022, github.com/jannerm/diffuser) -> one pipeline folder.

The normaliser's numbers are in no checkpoint of the original: it takes them anew from its D4RL dataset each time.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Unpack

import h5py  # type: ignore[import-untyped]
import numpy as np
import yaml
from diffusers import DDPMScheduler
from numpy.typing import NDArray

from vgp_lightning.export.folder import without_value, write_folder
from vgp_lightning.export.original_network import SCHEDULE, OriginalNetwork, read_denoiser, read_value_function
from vgp_lightning.pipeline.networks import make_noise_scheduler
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import DEFAULTS, Settings
from vgp_lightning.report.documents import read_json

# Normalisers that are an affine map of each dimension, and the attributes that it follows from.
_NORMALIZERS = {
    "GaussianNormalizer": ("means", "stds"),
    "LimitsNormalizer": ("mins", "maxs"),
    "SafeLimitsNormalizer": ("mins", "maxs"),
}
_MOST_COMPRESSED = 2000  # times that an array may be larger than its file; HDF5's deflate reaches half of it
_HARMLESS = {"maze2d_set_terminals", "add_deltas"}  # preprocessing that leaves observations and actions as they are


def import_original(
    denoiser: str,
    *,
    statistics: str,
    output: str,
    value: str | None = None,
    env_id: str | None = None,
    weights: Literal["ema", "model"] = "ema",
    normalizer: str | None = None,
    predict_epsilon: bool | None = None,
    clip_denoised: bool | None = None,
    discount: float | None = None,
    normed: bool | None = None,
    **settings: Unpack[Settings],
) -> Path:
    """Write a pipeline folder of networks that the paper's own code has trained; it samples as that code does.

    The ``*_config.pkl`` files beside the checkpoints are read without executing anything in them.

    Args:
        denoiser: A TemporalUnet's ``state_N.pt``.
        statistics: The normaliser's numbers: JSON, or the D4RL dataset (.hdf5) of the training.
        output: The folder to write; it must not exist.
        value: A ValueFunction's ``state_N.pt``; without one the planner has no guidance and no ranking.
        env_id: The gymnasium environment that the planner is for.
        weights: ``ema``, the averages that the original plans with, or ``model``, the last step's.
        normalizer: The original's class: GaussianNormalizer, LimitsNormalizer or SafeLimitsNormalizer. This option and
            the four after it are needed only where no config file beside a checkpoint gives their value.
        predict_epsilon: Whether the denoiser predicts the noise; the published ones predict the clean plan.
        clip_denoised: Whether clean plans are clipped to -1..1; of the published ones the maze's are.
        discount: Discount of the return that the value function predicts.
        normed: Whether the value function predicts returns scaled to -1..1; the published ones do not.
        settings: The folder's defaults of planning, in place of the paper's.

    Returns:
        The folder.

    Raises:
        ValueError: If a file cannot be read, does not fit the others or holds what a folder cannot express, if
            something is unknown, or if the folder exists.
    """
    folder = Path(output)
    if folder.exists():
        raise ValueError(f"{folder} exists already: choose another --output, or remove it first")
    plans = read_denoiser(Path(denoiser), weights)
    values = None if value is None else read_value_function(Path(value), weights, plans.horizon)
    networks = {"denoiser": plans} | ({} if values is None else {"value": values})
    _check_networks(plans, values)
    clipped = plans.known("clip_denoised", clip_denoised, "diffusion")
    predicts_noise = plans.known("predict_epsilon", predict_epsilon, "diffusion")
    dataset = str(plans.configs["dataset"].get("env") or "")
    numbers = _read_statistics(Path(statistics), dataset)
    normalization = _normalization(plans.known("normalizer", normalizer, "dataset"), numbers, plans, statistics)
    task = _describe_task(env_id, dataset, networks)
    planner: dict[str, Any] = dict(DEFAULTS) | {
        "planning_horizon": plans.horizon,
        "sampler": None if clipped else "ddpm",  # the schedule itself clips, the samplers by name do not
        "num_inference_steps": plans.levels,
    }
    if values is not None:
        task["discount"] = values.known("discount", discount, "dataset")
        task["termination_penalty"] = values.configs["dataset"].get("termination_penalty")
        if values.known("normed", normed, "dataset"):
            low_and_high = _shift_and_scale("LimitsNormalizer", numbers, "values", statistics)
            normalization["return_shift"], normalization["return_scale"] = (x.item() for x in low_and_high)
            # There the scale multiplies the gradient of the normalised value, here that of the return.
            planner["scale"] /= normalization["return_scale"]
    planner |= settings
    if values is None:
        planner |= without_value(settings)
    pipeline = ValueGuidedPlannerPipeline(
        plans.network,
        _make_schedule(plans.levels, predicts_noise, clipped),
        values.network if values is not None else None,
        normalization=normalization,
        planner=planner,
        task=task,
    )
    write_folder(pipeline, {name: _provenance(network, weights) for name, network in networks.items()}, folder)
    try:
        _verify(folder)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


def _make_schedule(levels: int, predicts_noise: bool, clipped: bool) -> DDPMScheduler:
    """Return the noise schedule; where clean plans are clipped it does so itself."""
    schedule = make_noise_scheduler(levels, SCHEDULE, "epsilon" if predicts_noise else "sample")
    if not clipped:
        return schedule
    # With diffusers' default spacing fewer steps than levels would begin below the noisiest level, from noise.
    return DDPMScheduler.from_config(
        schedule.config, clip_sample=True, clip_sample_range=1.0, timestep_spacing="trailing"
    )


def _describe_task(env_id: str | None, dataset: str, networks: Mapping[str, OriginalNetwork]) -> dict[str, Any]:
    """Return what the folder says of its training."""
    return {
        "env_id": env_id,
        "env_spec": None,
        "dataset_id": [dataset] if dataset else [],
        "reference_scores": None,
        "checkpoints": {
            name: {"file": one.path.name, "step": one.step if isinstance(one.step, int) else None}
            for name, one in networks.items()
        },
    }


def _check_networks(denoiser: OriginalNetwork, value: OriginalNetwork | None) -> None:
    """Refuse networks that a folder cannot express, or that do not belong together."""
    for network in (denoiser, value) if value is not None else (denoiser,):
        if changes := set(network.configs["dataset"].get("preprocess_fns") or ()) - _HARMLESS:
            raise ValueError(
                f"{network.path} cannot be imported: it was trained on data changed by {', '.join(sorted(changes))}"
            )
    if value is not None:
        _check_pair(denoiser, value)


def _check_pair(denoiser: OriginalNetwork, value: OriginalNetwork) -> None:
    """Refuse two networks that were not trained on the same data in the same way."""
    pairs = {
        "the number of dimensions": (denoiser.channels, value.channels),
        "the horizon": (denoiser.horizon, value.horizon),
        "the number of diffusion steps": (denoiser.levels, value.levels),
    }
    for name in ("env", "normalizer"):
        if all(name in network.configs["dataset"] for network in (denoiser, value)):
            pairs[name] = (denoiser.configs["dataset"][name], value.configs["dataset"][name])
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(f"denoiser and value function do not belong together: {name} is {ours} and {theirs}")


def _read_statistics(path: Path, dataset: str) -> dict[str, Any]:
    """Return the attributes of the original's normalisers, by key: from JSON, or measured on a D4RL file."""
    try:
        if path.suffix == ".json":
            return read_json(path)
        if any(maze in f"{dataset} {path.name}" for maze in ("maze2d", "antmaze")):
            raise ValueError("the original changes a maze's episodes before it measures them: give the numbers as JSON")
        with h5py.File(path) as file:
            for key in ("terminals", "timeouts", "actions", "observations"):
                _refuse_elsewhere(file, key)
            # A last episode that does not end is left out, there as here.
            ends = np.flatnonzero(np.logical_or(file["terminals"], file["timeouts"]))
            rows = {key: np.asarray(file[key][: ends[-1] + 1], np.float32) for key in ("actions", "observations")}
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"--statistics {path} cannot be read: {error}") from error
    # In float32, and in NumPy's order of summation: the very numbers of the training.
    return {
        key: {"means": x.mean(axis=0), "stds": x.std(axis=0), "mins": x.min(axis=0), "maxs": x.max(axis=0)}
        for key, x in rows.items()
    }


def _refuse_elsewhere(file: Any, key: str) -> None:
    """Refuse an array of an HDF5 file whose numbers lie in other files, or in none.

    Raises:
        ValueError: If it is a link, has external storage, is a virtual dataset, or is much larger than the file.
    """
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise ValueError(f"{key} is a link, which may lead to another file")
    array = file[key]
    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
        raise ValueError(f"{key} is no array whose numbers are in this file")
    if array.nbytes > _MOST_COMPRESSED * file.id.get_filesize():
        raise ValueError(f"{key} is said to have {array.nbytes} bytes, the file has {file.id.get_filesize()}")


def _normalization(kind: str, numbers: Mapping[str, Any], plans: OriginalNetwork, path: str) -> dict[str, Any]:
    """Return the normaliser as a folder holds it, for a return that is not normalised."""
    if kind not in _NORMALIZERS:
        raise ValueError(
            f"{kind} cannot be imported: of the normalisers only {', '.join(_NORMALIZERS)} are affine maps"
        )
    maps = [_shift_and_scale(kind, numbers, key, path) for key in ("actions", "observations")]
    shift, scale = (np.concatenate(vectors) for vectors in zip(*maps, strict=True))  # (T,)
    actions = len(maps[0][0])
    if (plans.channels, plans.configs["diffusion"].get("action_dim", actions)) != (len(shift), actions):
        raise ValueError(
            f"{path} has {actions} actions and {len(shift) - actions} observations, but {plans.path} has "
            f"{plans.configs['diffusion'].get('action_dim', 'some')} actions among {plans.channels} dimensions"
        )
    # LimitsNormalizer keeps plans within the data's limits, GaussianNormalizer lets them go.
    bounded = kind != "GaussianNormalizer"
    return {
        "action_dim": actions,
        "shift": shift.tolist(),
        "scale": scale.tolist(),
        "return_shift": 0.0,
        "return_scale": 1.0,
        "action_low": (shift - scale)[:actions].tolist() if bounded else [None] * actions,
        "action_high": (shift + scale)[:actions].tolist() if bounded else [None] * actions,
    }


def _shift_and_scale(
    kind: str, numbers: Mapping[str, Any], key: str, path: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shift and scale (D,) that do what the original's normaliser does to actions, observations or values."""
    names = _NORMALIZERS[kind]
    try:
        first, second = np.array([numbers[key][name] for name in names], dtype=np.float64).reshape(2, -1)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} lacks {names[0]} and {names[1]} of the {key}, as many of either") from error
    if kind == "SafeLimitsNormalizer" and (first == second).any():
        first, second = first - 1, second + 1  # all of them, where one is constant
    limits = kind != "GaussianNormalizer"
    shift, scale = ((second + first) / 2, (second - first) / 2) if limits else (first, second)
    if not (np.isfinite(shift) & np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"{path} has a constant or an impossible dimension: {names[1]} of the {key} are {second}")
    return shift, scale


def _provenance(network: OriginalNetwork, weights: str) -> str:
    """Return what is known of the training as YAML."""
    known = {"checkpoint": network.path.name, "weights": weights, "step": network.step, **network.configs}
    return yaml.safe_dump({"github.com/jannerm/diffuser": json.loads(json.dumps(known, default=str))}, sort_keys=False)


def _verify(folder: Path) -> None:
    """Load the folder and plan once from the mean observation.

    Raises:
        ValueError: If a weight or the plan is not finite.
    """
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    observation = np.array(pipeline.normalization["shift"][pipeline.action_dim :])
    pipeline(observation, batch_size=1, num_inference_steps=1)
