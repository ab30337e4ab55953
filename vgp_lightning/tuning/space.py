"""The search space of a planner's settings: which values are worth trying, and which combinations are duplicates."""

import math
import random
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import DEFAULTS, Settings, warm_steps

_MOST_DRAWS = 100_000  # combinations that are looked at in a space that is larger
_MAY_BE_NONE = sorted(name for name, kind in get_type_hints(Settings).items() if NoneType in get_args(kind))


def choose_space(pipeline: ValueGuidedPlannerPipeline, given: Mapping[str, list[Any]] | None) -> dict[str, list[Any]]:
    """Return the values of each setting to choose from: the given ones, else some around the folder's own.

    Raises:
        ValueError: If a given setting is unknown, has no values, or has a null that it cannot take.
    """
    default: dict[str, Any] = dict(pipeline.resolve_settings())
    trained, scale = pipeline.scheduler.config["num_train_timesteps"], default["scale"] or DEFAULTS["scale"]
    offered: dict[str, list[Any]] = {
        "scale": [float(f"{factor * scale:.3g}") for factor in (0.1, 0.3, 1, 3, 10)],
        "n_guide_steps": [0, 1, 2],
        "batch_size": [1, 4, 16, 64],
        "num_inference_steps": [min(steps, trained) for steps in (2, 5, 10, trained)],
        # Without a sampler the scheduler draws its own noise. At temperature 0 the demo's hopper falls with cold starts
        # (return 167), and with warm starts it runs as well as at temperature 1 (3242 and 3229, 3 episodes).
        "temperature": [0.0, 0.5, 1.0] if default["sampler"] is not None else [1.0],
        # On the demo the mean that values weigh returned far more than the best plan by value (docs/strength.md).
        "choice_temperature": [0.0, 0.5, 1.0],
        "warm_start_strength": [0.4, 1.0],
        "replan_every": [steps for steps in (1, 2, 4) if steps <= default["planning_horizon"]],
    }
    if pipeline.has_critic:
        offered["rank_by"] = ["value", "critic"]
    if pipeline.value_function is None:  # no guidance, and no ranking of candidates but by a critic
        del offered["scale"], offered["n_guide_steps"]
    space = {name: sorted({*values, default[name]}) for name, values in offered.items()}
    if pipeline.value_function is None:
        space |= {"rank_by": ["critic"]} if pipeline.has_critic else {"batch_size": [1], "choice_temperature": [0.0]}
    given = given or {}
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise ValueError(f"space names unknown settings {unknown}: choose from {sorted(DEFAULTS)}")
    if empty := sorted(name for name, values in given.items() if not values):
        offers = {name: space.get(name, [default[name]]) for name in empty}
        raise ValueError(f"space has no values for {empty}: give lists of at least one, such as {offers}")
    if null := sorted(name for name, values in given.items() if None in values and name not in _MAY_BE_NONE):
        raise ValueError(f"space has null for {null}: only {_MAY_BE_NONE} can be null. Give numbers or names instead")
    return space | dict(given)


def draw_configurations(
    pipeline: ValueGuidedPlannerPipeline, space: Mapping[str, Sequence[Any]], count: int, seed: int
) -> list[dict[str, Any]]:
    """Return the folder's defaults and others from the space, each with all settings.

    Args:
        pipeline: The planner.
        space: The values of each setting; the folder's defaults hold for the others.
        count: How many, with the defaults; fewer if the space has fewer that are no duplicates.
        seed: Seed of the draw.

    Raises:
        ValueError: If a combination that is drawn is invalid.
    """
    default: dict[str, Any] = dict(pipeline.resolve_settings())
    # Configurations that differ only in unused settings are duplicates; the defaults stand for all of theirs.
    found = {_identify(_without_unused(default, default, pipeline)): default}
    sizes = [len(values) for values in space.values()]
    size = math.prod(sizes)
    for place in random.Random(seed).sample(range(size), min(size, _MOST_DRAWS)):
        if len(found) == count:
            break
        places = [int(i) for i in np.unravel_index(place, sizes)]
        chosen: Any = {name: values[i] for (name, values), i in zip(space.items(), places, strict=True)}
        settings = _without_unused(dict(pipeline.resolve_settings(**chosen)), default, pipeline)
        found.setdefault(_identify(settings), settings)
    return list(found.values())


def _identify(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


def _without_unused(
    settings: Mapping[str, Any], default: Mapping[str, Any], pipeline: ValueGuidedPlannerPipeline
) -> dict[str, Any]:
    """Return the settings, with those that have no effect in this combination set to a fixed value."""
    changed = dict(settings)
    if pipeline.value_function is None or settings["n_guide_steps"] == 0 or settings["scale"] == 0:
        unused = ("scale", "guide_scaling", "guide_on", "t_stopgrad", "max_grad_norm")
        changed |= {"n_guide_steps": 0} | {name: default[name] for name in unused}
    if settings["temperature"] == 0:
        changed["batch_size"] = 1  # without noise all candidates are equal
    if changed["batch_size"] == 1:  # nothing to choose from
        changed |= {name: default[name] for name in ("rank_by", "choice_temperature")}
    if settings["replan_every"] == 0 or warm_steps(settings) == settings["num_inference_steps"]:
        changed["warm_start_strength"] = 1.0
    return changed
