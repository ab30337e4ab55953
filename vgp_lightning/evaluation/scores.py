"""Normalised scores, and the returns that they refer to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reference:
    """The two returns between which a normalised score counts, and where they are from."""

    name: str
    min: float  # scores 0
    max: float  # scores 100


# A random and an expert policy's return by environment family: d4rl/infos.py (https://github.com/Farama-Foundation/D4RL).
D4RL_REFERENCES = {
    "hopper": Reference("D4RL hopper", -20.272305, 3234.3),
    "halfcheetah": Reference("D4RL halfcheetah", -280.178953, 12135.0),
    "walker2d": Reference("D4RL walker2d", 1.629008, 4592.3),
    "ant": Reference("D4RL ant", -325.6, 3879.7),
}


def choose_reference(
    env_id: str,
    task: Mapping[str, Any] | None = None,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
) -> Reference | None:
    """Return the user's reference, else the task's if it is of this environment, else D4RL's, else None.

    Raises:
        ValueError: If only one of the user's two scores is given, or the lower is not the lower.
    """
    if (ref_min_score is None) != (ref_max_score is None):
        raise ValueError(f"ref_min_score is {ref_min_score} and ref_max_score {ref_max_score}: give both or neither")
    if ref_min_score is not None and ref_max_score is not None:
        if ref_min_score >= ref_max_score:
            raise ValueError(f"ref_min_score {ref_min_score} must lie below ref_max_score {ref_max_score}")
        return Reference("user", ref_min_score, ref_max_score)
    if task and task.get("reference_scores") and task.get("env_id") == env_id:
        return Reference(**task["reference_scores"])
    family = re.sub(r".*[:/]|-v\d+$", "", env_id).lower()  # "package:namespace/Hopper-v5" -> "hopper"
    return D4RL_REFERENCES.get(family)


def normalized_score(value: float, reference: Reference) -> float:
    """Return 0 for the reference's lower return and 100 for its upper one."""
    return 100 * (value - reference.min) / (reference.max - reference.min)
