"""The files of a pipeline folder that somebody else may have made, checked before diffusers makes networks of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from diffusers import UNet1DModel

from vgp_lightning.report.documents import find_not_finite, read_json

_MOST_LEVELS = 100_000  # noise levels; the paper has 20 to 1000
_LARGEST = 2**20  # channels, and any other whole number of a network's config
_MOST_LAYERS = 64  # of a block, and blocks of a network


def check_folder(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a folder whose parts are not diffusers', whose numbers are not finite, or that would take much memory.

    Args:
        folder: The folder.
        index: What its model_index.json holds.

    Raises:
        ValueError: If it is such a folder. The message names the file and the key.
    """
    place = folder / "model_index.json"
    for key in ("normalization", "planner", "task"):
        if key in index and not isinstance(index[key], dict):
            raise ValueError(f"{place} has {key} {str(index[key])[:100]}: an object {{...}} is needed")
    _check_task(index.get("task", {}), place)
    named = {key: index.get(key) for key in ("normalization", "planner")}
    if wrong := next(find_not_finite(named), None):
        raise ValueError(f"{place} has {wrong}, which is not a finite number")
    for name, part in index.items():
        if isinstance(part, list) and part != [None, None] and (len(part) != 2 or part[0] != "diffusers"):
            raise ValueError(f"{place} has {name} {part}: the parts of a planner are classes of diffusers")
    for name in ("unet", "value_function"):
        if index.get(name) not in (None, [None, None]):
            _check_network(folder / name)
    if (folder / "scheduler" / "scheduler_config.json").exists():
        _check_schedule(folder / "scheduler" / "scheduler_config.json")


def _check_task(task: Mapping[str, Any], place: Path) -> None:
    """Refuse a task whose references or discount are no numbers to compute with."""
    reference = task.get("reference_scores")
    if reference is not None:
        ends = [reference.get(key) for key in ("min", "max")] if isinstance(reference, dict) else []
        numbers = [float(end) for end in ends if _is_number(end)]
        if len(numbers) != 2 or set(reference) != {"name", "min", "max"} or not numbers[0] < numbers[1]:
            raise ValueError(
                f"{place} has task.reference_scores {str(reference)[:100]}: name, min and max are needed, with min "
                "below max"
            )
    discount = task.get("discount")
    if discount is not None and not (_is_number(discount) and 0 <= discount <= 1):
        raise ValueError(f"{place} has task.discount {str(discount)[:100]}: a number between 0 and 1 is needed")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _check_network(folder: Path) -> None:
    """Refuse a network that has more weights than the files beside its config have bytes."""
    path = folder / "config.json"
    config = read_json(path)
    for key, value in config.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > _LARGEST:
                raise ValueError(f"{path} has {key} {value}: at most {_LARGEST} is supported")
        if isinstance(value, list) and len(value) > _MOST_LAYERS:
            raise ValueError(f"{path} has {len(value)} entries of {key}: at most {_MOST_LAYERS} are supported")
    layers = config.get("layers_per_block", 1)
    if not isinstance(layers, int) or not 1 <= layers <= _MOST_LAYERS:
        raise ValueError(f"{path} has layers_per_block {layers}: a whole number between 1 and {_MOST_LAYERS} is needed")
    try:
        with torch.device("meta"):  # shapes without memory
            network = UNet1DModel.from_config(config)
        weights = sum(weight.numel() for weight in network.parameters())
    except Exception as error:  # diffusers takes the config's values as they are: any type of error can follow
        raise ValueError(f"{path} describes no network: {type(error).__name__}: {error}") from error
    held = sum(file.stat().st_size for kind in ("safetensors", "bin") for file in folder.glob(f"*.{kind}"))
    if weights > held:
        raise ValueError(f"{path} describes a network of {weights} weights, but the files beside it have {held} bytes")


def _check_schedule(path: Path) -> None:
    config = read_json(path)
    levels = config.get("num_train_timesteps", 1000)
    if type(levels) is not int or not 1 <= levels <= _MOST_LEVELS:
        raise ValueError(
            f"{path} has num_train_timesteps {levels}: a whole number between 1 and {_MOST_LEVELS} is needed"
        )
