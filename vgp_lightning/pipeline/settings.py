"""The settings of planning: their defaults, and what they may be.

This file travels in exported folders, joined with pipeline.py.
"""

from collections.abc import Mapping
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

from .guidance import GUIDE_SCALINGS
from .sampling import SAMPLERS

# What a call uses where neither it nor the folder says otherwise; the numbers are the paper's for Hopper.
DEFAULT_SETTINGS: dict[str, Any] = {
    "batch_size": 64,
    "planning_horizon": 32,
    "num_inference_steps": None,  # as many as in training
    "sampler": None,  # pipeline.scheduler, as it is
    "n_guide_steps": 2,
    "scale": 0.1,
    "guide_scaling": "variance",
    "guide_on": "noisy",
    "t_stopgrad": 2,
    "max_grad_norm": None,  # no limit
    "temperature": 1.0,
    "warm_start_strength": 1.0,  # always from noise
    "replan_every": 1,  # steps that an agent executes from one plan; 0: it plans once an episode
}
CHOICES = {"guide_scaling": GUIDE_SCALINGS, "guide_on": ("noisy", "clean"), "sampler": (None, *SAMPLERS)}


def check_settings(settings: Mapping[str, Any], trained: int) -> None:
    """Refuse numbers out of their range and words that mean nothing here.

    Args:
        settings: All of DEFAULT_SETTINGS.
        trained: Noise levels of the training.

    Raises:
        ValueError: If a setting is wrong.
    """
    for name, low, high in (
        ("batch_size", 1, inf),
        ("planning_horizon", 1, inf),
        ("num_inference_steps", 1, trained),
        ("n_guide_steps", 0, inf),
        ("scale", -inf, inf),
        ("t_stopgrad", 0, inf),
        ("max_grad_norm", 0, inf),
        ("temperature", 0, inf),
        ("warm_start_strength", 0, 1),
        ("replan_every", 0, settings["planning_horizon"]),
    ):
        value = settings[name]
        if name == "max_grad_norm" and value is None:
            continue
        whole = isinstance(DEFAULT_SETTINGS[name], int) or name == "num_inference_steps"
        number = isinstance(value, Integral if whole else Real) and isfinite(value)
        if not number or not low <= float(value) <= high:
            kind = "whole" if whole else "finite"
            raise ValueError(f"{name} is {value}: a {kind} number between {low} and {high} is needed")
    for name, choices in CHOICES.items():
        if settings[name] not in choices:
            raise ValueError(f"{name} {settings[name]!r} is unknown: choose from {list(choices)}")


def warm_steps(settings: Mapping[str, Any]) -> int:
    """Return how many denoising steps a warm start takes."""
    steps: int = round(settings["warm_start_strength"] * settings["num_inference_steps"])
    return max(1, steps)
