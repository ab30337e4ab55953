"""Whether what comes out of a call are finite plans that can be ranked, and the cause where they are not.

Shapes: N observations, K candidates for each, H steps, A action and O observation dimensions, T = A + O.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from .frame import Frame
from .guidance import LearnedValue, Weighted
from .inputs import shorten
from .settings import Settings
from .weights import find_unsound_weight

_LARGE = 1e4  # standard deviations; what is below is unlikely to make float32 overflow


def refuse_unsound(
    trajectories: torch.Tensor, values: torch.Tensor | None, explain: Callable[[list[int]], str]
) -> None:
    """Refuse plans that are not finite, and values that leave no candidate to choose.

    Args:
        trajectories: (N, K, H, T), in the environment's units.
        values: (N, K); None: the candidates are not ranked.
        explain: Returns the likely cause, given the rows of the observations.

    Raises:
        ValueError: If a number of a plan is not finite, or no value of an observation's candidates is.
    """
    # A sum is finite only if all of its terms are. Where it is not, because of one of them or by its own size, each row
    # is looked at.
    total = trajectories.sum() if values is None else trajectories.sum() + values.sum()
    if math.isfinite(total.item()):
        return
    if rows := _list_rows(~trajectories.isfinite().flatten(1).all(dim=1)):
        raise ValueError(f"the plans for observations {shorten(rows)} are not finite. {explain(rows)}")
    if values is not None and (rows := _list_rows(~values.isfinite().any(dim=1))):
        raise ValueError(
            f"none of the {values.shape[1]} candidates for observations {shorten(rows)} has a finite value, so none "
            f"can be chosen. {explain(rows)}"
        )


def _list_rows(which: torch.Tensor) -> list[int]:
    rows: list[int] = which.nonzero().flatten().tolist()
    return rows


def find_cause(
    rows: list[int],
    networks: Mapping[str, nn.Module | None],
    conditions: torch.Tensor,
    start: torch.Tensor | None,
    committed: torch.Tensor | None,
    frame: Frame,
    objectives: Weighted,
    settings: Settings,
) -> str:
    """Return what most likely made the plans of some observations overflow, as a sentence.

    Args:
        rows: The observations.
        networks: By the component's name.
        conditions: (N, H, T), in the environment's units, NaN where the plans are free.
        start: Plans (N, H, T), normalised, of a warm start.
        committed: Plans (N, H, T), normalised, that the plans are committed to.
        frame: The plans'.
        objectives: Of the call.
        settings: All settings of the call.
    """
    learned = {
        f"objective {i}": value.network for i, (_, value) in enumerate(objectives) if isinstance(value, LearnedValue)
    }
    for name, network in (dict(networks) | learned).items():
        if network is not None and (weight := find_unsound_weight(network)):
            return f"Weight {weight} of {name} is not finite: load or train it again"
    pinned = frame.normalise(conditions)[rows].nan_to_num(nan=0)  # (n, H, T)
    suspects = [
        (float(settings["temperature"]), f"the temperature, {settings['temperature']:g}"),
        *((abs(weight), f"the weight of objective {i}, {weight:g}") for i, (weight, _) in enumerate(objectives)),
        _find_largest("the observation", pinned[:, :1], rows, frame),
        _find_largest("the conditions", pinned, rows, frame),
    ]
    if objectives and settings["n_guide_steps"]:
        suspects.append((abs(settings["scale"]), f"the scale of guidance, {settings['scale']:g}"))
    if start is not None:
        suspects.append(_find_largest("the warm start", start[rows], rows, frame))
    if committed is not None:
        suspects.append(_find_largest("the committed plan", committed[rows], rows, frame))
    size, suspect = max(suspects, key=lambda one: one[0])
    if size > _LARGE:
        return f"The largest number that went into them is {suspect}"
    return (
        "Nothing large went into them: check the objectives, whose values and gradients must be finite, the scale of "
        "guidance and the networks' weights"
    )


def _find_largest(name: str, plans: torch.Tensor, rows: list[int], frame: Frame) -> tuple[float, str]:
    """Return the size of the largest entry of normalised plans, folded, and where it stands."""
    sizes = plans.abs().nan_to_num(nan=math.inf, posinf=math.inf)
    row, folded, dimension = (int(i) for i in torch.unravel_index(sizes.argmax(), sizes.shape))
    size, step = float(sizes[row, folded, dimension]), folded * frame.stride
    if dimension < frame.action_entries:
        part, entry, step = "action", dimension % frame.action_dim, step + dimension // frame.action_dim
    else:
        part, entry = "observation", dimension - frame.action_entries
    return size, (
        f"in {name} of row {rows[row]}: entry {entry} of the {part} at step {step}, {size:.3g} standard deviations "
        "from the mean of the training data"
    )
