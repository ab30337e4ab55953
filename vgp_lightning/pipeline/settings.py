"""The settings of planning: each one once, with its meaning, its default and its range."""

from collections.abc import Mapping
from math import inf
from typing import Any, Literal, TypedDict, get_args

from .inputs import as_number, shorten
from .sampling import SAMPLERS, Sampler

GuideScaling = Literal["variance", "std", "none", "stock"]
GuideOn = Literal["noisy", "clean"]
RankBy = Literal["value", "critic"]


class Settings(TypedDict, total=False):
    """How a planner plans; a setting that is not given keeps the folder's default.

    The help of the command line, the model card and docs/planning.md show these meanings.

    Attributes:
        batch_size: K, the number of candidate plans per observation.
        planning_horizon: H, the number of steps in a plan.
        num_inference_steps: Number of denoising steps; None: one per noise level of the training.
        sampler: Sampler, which visits evenly spaced noise levels; None: the pipeline's own scheduler.
        n_guide_steps: Guide steps (gradient steps up the value) per denoising step; 0: no guidance.
        scale: Guidance scale: a guide step is scale x factor x gradient of the return in the environment's units.
        guide_scaling: Factor of the gradient: variance or std (standard deviation) of what guidance moves, none, or
            stock, the factor of diffusers' ValueGuidedRLPipeline.
        guide_on: What guidance moves: the noisy sample before it is denoised (as in the paper's code), or the clean
            plan that the denoiser predicts.
        t_stopgrad: Noise levels (timesteps) below this one are not guided.
        max_grad_norm: Limit on the norm of a plan's gradient, before scale and factor; None: no limit.
        rank_by: What ranks the candidates: the value of the whole plan, or the folder's critic, which judges the first
            action (vgp critic). Where a call has objectives of its own, they rank.
        choice_temperature: How one plan is made of the candidates: 0 takes the best; above 0 their mean, weighted by a
            softmax of their standard scores divided by this temperature (large: all alike).
        temperature: Factor on the standard deviation of all noise that is drawn.
        warm_start_strength: Share of the denoising steps that a warm start takes, beginning from the last plan; at
            least one step. 1: all of them, beginning from noise (a cold start).
        replan_every: Replanning interval: number of steps that an agent executes from one plan; 0: one plan per
            episode. A single call of the pipeline ignores it.
    """

    batch_size: int
    planning_horizon: int
    num_inference_steps: int | None
    sampler: Sampler | None
    n_guide_steps: int
    scale: float
    guide_scaling: GuideScaling
    guide_on: GuideOn
    t_stopgrad: int
    max_grad_norm: float | None
    rank_by: RankBy
    choice_temperature: float
    temperature: float
    warm_start_strength: float
    replan_every: int


# Used where neither the call nor the folder gives a value: the paper's numbers for Hopper.
DEFAULTS: Settings = {
    "batch_size": 64,
    "planning_horizon": 32,
    "num_inference_steps": None,
    "sampler": None,
    "n_guide_steps": 2,
    "scale": 0.1,
    "guide_scaling": "variance",
    "guide_on": "noisy",
    "t_stopgrad": 2,
    "max_grad_norm": None,
    "rank_by": "value",
    "choice_temperature": 0.0,
    "temperature": 1.0,
    "warm_start_strength": 1.0,
    "replan_every": 1,
}
# One plan, as the denoiser makes it: neither guided nor chosen.
ONE_PLAN: Settings = {"batch_size": 1, "n_guide_steps": 0, "rank_by": "value", "choice_temperature": 0.0}
# What an export writes into a folder instead, for planning in milliseconds. Whether guidance or a choice among
# candidates helps hangs on the data and on the training, and either can do harm (docs/strength.md): so a folder begins
# with one plan, and what is played decides (vgp tune).
EXPORT_DEFAULTS: Settings = {"num_inference_steps": 5, "sampler": "ddim", **ONE_PLAN}

CHOICES: dict[str, tuple[str | None, ...]] = {
    "sampler": (None, *SAMPLERS),
    "guide_scaling": get_args(GuideScaling),
    "guide_on": get_args(GuideOn),
    "rank_by": get_args(RankBy),
}
# Smallest and largest value of each number. A largest value may be a name: another setting, or levels, the number of
# noise levels of the training. The largest batch, horizon and number of guide steps are far above what is of use: they
# make a slip of the keyboard an error in place of a call that takes all memory or never ends.
RANGES: dict[str, tuple[float, float | str]] = {
    "batch_size": (1, 65536),
    "planning_horizon": (1, 65536),
    "num_inference_steps": (1, "levels"),
    "n_guide_steps": (0, 1000),
    "scale": (-inf, inf),
    "t_stopgrad": (0, inf),
    "max_grad_norm": (0, inf),
    "choice_temperature": (0, inf),
    "temperature": (0, inf),
    "warm_start_strength": (0, 1),
    "replan_every": (0, "planning_horizon"),
}
WHOLE = {"batch_size", "planning_horizon", "num_inference_steps", "n_guide_steps", "t_stopgrad", "replan_every"}


def check_settings(settings: Mapping[str, Any], levels: int) -> dict[str, Any]:
    """Return the settings as Python's own numbers and texts, or refuse one.

    Args:
        settings: All settings.
        levels: Number of noise levels of the training.

    Raises:
        ValueError: If a setting is out of its range or not among its choices.
    """
    plain: dict[str, Any] = {"levels": levels, **settings}
    for name, (low, largest) in RANGES.items():
        high = plain[largest] if isinstance(largest, str) else largest
        value, whole = settings[name], name in WHOLE
        if name == "max_grad_norm" and value is None:
            continue
        plain[name] = number = as_number(value, whole=whole)
        if number is None or not low <= number <= high:
            kind = "whole" if whole else "finite"
            raise ValueError(f"{name} is {shorten(value)}: a {kind} number between {low} and {high} is needed")
    for name, choices in CHOICES.items():
        value = settings[name]
        if not isinstance(value, str | None) or value not in choices:
            raise ValueError(f"{name} {shorten(repr(value))} is unknown: choose from {list(choices)}")
    del plain["levels"]
    return plain


def warm_steps(settings: Mapping[str, Any]) -> int:
    """Return the number of denoising steps that a warm start takes."""
    steps: int = round(settings["warm_start_strength"] * settings["num_inference_steps"])
    return max(1, steps)
