"""Hyper-parameters from a checkpoint that somebody else may have written: plain values within bounds, and no others."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch

from vgp_lightning.pipeline.networks import PredictionType, make_denoiser, make_value_function
from vgp_lightning.pipeline.stride import folded_channels
from vgp_lightning.training.base import LearningModule
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.trajectory import TrajectoryModule
from vgp_lightning.training.value import ValueModule

_IGNORED = ("_instantiator", "_class_path")  # by which Lightning would call a function that the file names
_DEEPEST = 20  # levels of nesting of the task
_MOST_VALUES = 100_000  # of the task
_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")  # those of DDPMScheduler
_LARGEST_PLAN = 10**8  # numbers in a trajectory, H x T
MOST_LEVELS = 100_000  # noise levels

_PLAIN = (bool, int, float, str, list, tuple, dict)

Check = Callable[[Any], bool]


def _whole(low: int, high: int) -> tuple[str, Check]:
    return f"a whole number between {low} and {high}", lambda value: type(value) is int and low <= value <= high


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _widths(value: Any) -> bool:
    return isinstance(value, list) and 2 <= len(value) <= 16 and all(_whole(1, 2**16)[1](width) for width in value)


def _task(value: Any) -> bool:
    """Return whether a value describes a task: env_id, env_spec, dataset_id, discount and others, as far as known."""
    if not isinstance(value, dict) or not is_plain(value):
        return False
    texts = value.get("dataset_id", [])
    return (
        all(isinstance(value.get(key), kind | None) for key, kind in _TASK.items())
        and isinstance(texts, list)
        and all(isinstance(text, str) for text in texts)
    )


_TASK = {"env_id": str, "env_spec": dict, "reference_scores": dict, "discount": int | float}
_NUMBER = ("a finite number", _number)
_WIDTHS = ("a list of 2 to 16 whole numbers", _widths)
_CHECKS: dict[str, tuple[str, Check]] = {
    "transition_dim": _whole(1, 10**6),
    "action_dim": _whole(1, 10**6),
    "horizon": _whole(1, 10**6),
    "stride": _whole(1, 10**6),
    "widths": _WIDTHS,
    "value_widths": (_WIDTHS[0], lambda value: value is None or _widths(value)),
    "num_train_timesteps": _whole(1, MOST_LEVELS),
    "beta_schedule": (f"one of {', '.join(_SCHEDULES)}", lambda value: value in _SCHEDULES),
    "prediction_type": (f"one of {', '.join(get_args(PredictionType))}", lambda v: v in get_args(PredictionType)),
    "learning_rate": _NUMBER,
    "value_learning_rate": (_NUMBER[0], lambda value: value is None or _number(value)),
    "weight_decay": _NUMBER,
    "warmup_steps": _whole(0, 10**12),
    "action_weight": _NUMBER,
    "loss_discount": _NUMBER,
    "compile": ("true or false", lambda value: isinstance(value, bool)),
    "task": ("a dict of plain values, as the data module describes a task,", lambda value: _task(value)),
}
_NEEDED = ("transition_dim", "action_dim", "horizon", "task")


def check_hyperparameters(kind: type[LearningModule], found: Any, largest: int, path: object) -> dict[str, Any]:
    """Return the arguments with which to call a module's class.

    Args:
        kind: DenoiserModule, ValueModule or PlannerModule.
        found: ``hyper_parameters`` of the checkpoint.
        largest: Size of the checkpoint in bytes, which its networks cannot exceed.
        path: The checkpoint, for messages.

    Raises:
        ValueError: If a hyper-parameter is missing, unknown, of the wrong type or out of bounds, or the networks are
            larger than the file.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} has no hyper_parameters: it is no checkpoint of vgp fit")
    known = _parameters(kind)
    arguments = {name: value for name, value in found.items() if name not in _IGNORED}
    if unknown := sorted(map(str, arguments.keys() - known)):
        raise ValueError(f"{path} has the hyper-parameter {unknown[0]}, which {kind.__name__} has not: {sorted(known)}")
    for name in (*_NEEDED, *arguments):
        if name not in arguments:
            raise ValueError(f"{path} lacks the hyper-parameter {name}")
        what, check = _CHECKS[name]
        if not check(arguments[name]):
            raise ValueError(f"{path} has {name} {_short(arguments[name])} in hyper_parameters: {what} is needed")
    if arguments["horizon"] * arguments["transition_dim"] > _LARGEST_PLAN:
        raise ValueError(
            f"{path} plans {arguments['horizon']} steps of {arguments['transition_dim']}: that is too much"
        )
    _check_size(kind, arguments, largest, path)
    return arguments


def is_plain(value: Any) -> bool:
    """Return whether a value consists of plain values, with bounds of nesting and number, as JSON can hold it."""
    level, count = [value], 0
    for _ in range(_DEEPEST):
        count += len(level)
        if count > _MOST_VALUES or not all(isinstance(one, _PLAIN) or one is None for one in level):
            return False
        keys = [key for one in level if isinstance(one, dict) for key in one]
        if not all(isinstance(key, str) for key in keys):
            return False
        level = [part for one in level for part in _parts(one)]
    return not level


def _parts(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def _parameters(kind: type[LearningModule]) -> set[str]:
    """Return the names of the arguments of a module, those that it passes on included."""
    parts: list[Any] = [PlannerModule, DenoiserModule] if kind is PlannerModule else [kind]
    names = {name for one in (*parts, TrajectoryModule) for name in inspect.signature(one).parameters}
    return names - {"self", "settings", "predicts"}


def _check_size(kind: type[LearningModule], arguments: Mapping[str, Any], largest: int, path: object) -> None:
    """Refuse networks that take more memory than the checkpoint that is said to hold them."""
    horizon, stride = arguments["horizon"], arguments.get("stride", 1)
    wide = folded_channels(arguments["transition_dim"], arguments["action_dim"], stride)
    own = arguments.get("widths", inspect.signature(TrajectoryModule).parameters["widths"].default)
    widths = {make_denoiser: own, make_value_function: arguments.get("value_widths") or own}
    if kind in (DenoiserModule, ValueModule):
        del widths[make_value_function if kind is DenoiserModule else make_denoiser]
    numbers = 0
    try:
        with torch.device("meta"):  # shapes without memory
            for make, channels in widths.items():
                numbers += sum(weight.numel() for weight in make(wide, horizon, channels, stride).parameters())
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} has hyper_parameters that describe no network: {error}") from error
    if numbers > largest:
        raise ValueError(
            f"{path} has hyper_parameters of networks of {numbers} weights, but only {largest} bytes: it is damaged"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
