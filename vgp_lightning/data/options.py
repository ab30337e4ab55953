"""The options of MinariDataModule: each is checked by itself, before a dataset is opened."""

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from vgp_lightning.data.normalizer import NormalizerKind
from vgp_lightning.data.returns import Truncation
from vgp_lightning.data.windows import Padding

# Lowest and highest value; None: no limit. More than 256 workers are a slip: one process is usually quickest.
_WHOLE = {
    "horizon": (1, None),
    "batch_size": (1, None),
    "validation_windows": (1, None),
    "split_seed": (0, None),
    "num_workers": (0, 256),
}
_CHOICES = {
    "truncation": get_args(Truncation),
    "padding": get_args(Padding),
    "normalizer": get_args(NormalizerKind),
}


def check_options(dataset_ids: Sequence[Any], weights: Any, **options: Any) -> None:
    """Check the arguments of MinariDataModule.

    Args:
        dataset_ids: The argument ``dataset_id`` as a list.
        weights: As given.
        options: The other arguments.

    Raises:
        ValueError: If one is out of range.
    """
    for name, (low, high) in _WHOLE.items():
        _check_number(name, options[name], low, high, whole=True)
    _check_number("discount", options["discount"], 0, 1)
    _check_number("validation_share", options["validation_share"], 0, 1)
    _check_number("termination_penalty", options["termination_penalty"])
    for name, choices in _CHOICES.items():
        if options[name] not in choices:
            raise ValueError(f"data.{name} is {options[name]!r}: choose from {choices}")
    if options["validation_share"] == 1:
        raise ValueError(f"data.validation_share is {options['validation_share']}: it must lie in [0, 1)")
    if options["truncation"] == "continue" and options["discount"] == 1:
        raise ValueError(
            "data.truncation is 'continue' and data.discount is 1: the sum of rewards that continue for ever needs a "
            "discount below 1"
        )
    if options["on_device"] != "auto" and not isinstance(options["on_device"], bool):
        raise ValueError(f"data.on_device is {options['on_device']!r}: choose from ('auto', true, false)")
    _check_datasets(dataset_ids, weights)


def _check_number(
    name: str, value: Any, low: float | None = None, high: float | None = None, *, whole: bool = False
) -> None:
    number = isinstance(value, int | np.integer) or (not whole and isinstance(value, float | np.floating))
    if not number or isinstance(value, bool) or not -math.inf < value < math.inf:
        raise ValueError(f"data.{name} is {value!r}: it must be {'a whole' if whole else 'a finite'} number")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"data.{name} is {value}: it must be at least {low}" + (f", at most {high}" * bool(high)))


def _check_datasets(names: Sequence[Any], weights: Any) -> None:
    if not names:
        raise ValueError("data.dataset_id is empty: name at least one Minari dataset")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"data.dataset_id has {name!r}: name Minari datasets, such as demo/hopper-v0")
        if names.count(name) > 1:
            raise ValueError(
                f"data.dataset_id names {name} {names.count(name)} times, so that its episodes could be trained on and "
                "held out. Name it once; data.weights draws more of one dataset than of another"
            )
    if weights is not None and (
        not isinstance(weights, list | tuple)
        or len(weights) != len(names)
        or not all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights)
        or sum(weights) == 0
    ):
        raise ValueError(
            f"data.weights is {weights}: give one finite weight for each of the {len(names)} datasets in "
            "data.dataset_id, none below zero, not all of them zero"
        )
