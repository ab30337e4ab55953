"""A pipeline folder on its way in: bounded before anything is built, and every fault named with the folder."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet1DModel

from .denoising import as_function
from .guidance import predict_values
from .inputs import as_number, shorten
from .networks import weights_device, weights_dtype
from .sampling import MOST_LEVELS
from .weights import check_stored

_NETWORKS = ("unet", "value_function")
# Far above any planner: a number beyond would take all memory or hours before diffusers says a word.
_MOST_CHANNELS, _MOST_ENTRIES = 65_536, 64
# Without these diffusers takes defaults of its own, and the plans are finite and wrong.
_SCHEDULE_KEYS = ("num_train_timesteps", "beta_schedule", "prediction_type")


@contextmanager
def name_folder(folder: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into an error that names the folder.

    Raises:
        ValueError: From the cause. An OSError or a ValueError that names the folder is left alone.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError | ValueError) and str(folder) in str(error):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"the pipeline in {folder} cannot be loaded: {kind}{shorten(error)}") from error


def check_folder(folder: Path, given: Collection[str]) -> None:
    """Refuse a local folder that would take all memory, or whose weights do not fit its networks.

    Args:
        folder: The pipeline's.
        given: Names of the components that do not come from the folder.

    Raises:
        ValueError: If a file is not what it should be, with its path and the key.
    """
    index = read_object(folder / "model_index.json")
    if "value_function" not in given and "value_function" not in index and (folder / "value_function").is_dir():
        raise ValueError(
            f"{folder / 'model_index.json'} lacks the key value_function, but the folder has one: export it again, or "
            "pass value_function=None"
        )
    if "scheduler" not in given and (folder / "scheduler" / "scheduler_config.json").is_file():
        _check_schedule_file(folder / "scheduler" / "scheduler_config.json")
    for name in _NETWORKS:
        if name not in given and index.get(name) == ["diffusers", "UNet1DModel"]:
            _check_network_file(name, folder / name)


def try_networks(denoiser: UNet1DModel, value_function: UNet1DModel | None, horizon: int) -> None:
    """Evaluate the networks once, on a plan of zeros, where they are in float32 and in memory.

    Raises:
        ValueError: If they cannot be evaluated, or return another shape or numbers that are not finite.
    """
    plan = torch.zeros(1, 1, horizon, denoiser.config["in_channels"], device=weights_device(denoiser))
    for name, network in (("unet", denoiser), ("value_function", value_function)):
        if network is None or weights_dtype(network) != torch.float32 or weights_device(network).type == "meta":
            continue
        with torch.no_grad(), name_component(name):
            if network is denoiser:
                output, shape = as_function(network, None)(plan, 0), plan.shape
            else:
                output, shape = predict_values(network, plan[0].to(weights_device(network)), 0), plan.shape[:1]
            if output.shape != shape or not output.isfinite().all():
                raise ValueError(
                    f"it returns {tuple(output.shape)} for a plan of {horizon} steps, with finite numbers or not; "
                    f"{tuple(shape)} finite ones are needed"
                )


@contextmanager
def name_component(name: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an error that names the component.

    Raises:
        ValueError: From the cause.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{name} cannot be evaluated: {shorten(error)}. Check its config.json and weights") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: If the file is no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {shorten(content)}: an object is needed")
    return content


def _check_schedule_file(path: Path) -> None:
    config = read_object(path)
    if missing := [key for key in _SCHEDULE_KEYS if key not in config]:
        raise ValueError(f"{path} lacks {missing}")
    levels = as_number(config["num_train_timesteps"], whole=True)
    if levels is None or not 1 <= levels <= MOST_LEVELS:
        raise ValueError(
            f"num_train_timesteps in {path} is {shorten(config['num_train_timesteps'])}: a whole number between 1 and "
            f"{MOST_LEVELS} is needed"
        )


def _check_network_file(name: str, folder: Path) -> None:
    """Compare a network with its weights' file before it is built in memory."""
    path = folder / "config.json"
    config = read_object(path)
    for key, value in config.items():
        entries = value if isinstance(value, list) else [value]
        numbers = [number for entry in entries if (number := as_number(entry)) is not None]
        most = _MOST_ENTRIES if key == "layers_per_block" else _MOST_CHANNELS
        if len(entries) > _MOST_ENTRIES or any(abs(number) > most for number in numbers):
            raise ValueError(f"{key} in {path} is {shorten(value)}: numbers of at most {most} are needed")
    try:
        with torch.device("meta"):  # names and shapes, without memory
            network = UNet1DModel.from_config(config)
    except Exception as error:  # diffusers raises whatever comes of a wrong entry
        raise ValueError(f"{path} describes no network: {type(error).__name__}: {error}") from error
    check_stored(name, network, folder)
