"""Normalised scores, and the reference returns that they are relative to."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reference:
    """The returns that score 0 and 100.

    Attributes:
        name: Where they are from.
        min: Return that scores 0.
        max: Return that scores 100.
    """

    name: str
    min: float
    max: float


# Returns of a random and an expert policy for each family of environments: d4rl/infos.py (https://github.com/Farama-Foundation/D4RL).
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
    """Return the user's reference, else the task's, else D4RL's; None: there is none.

    Args:
        env_id: The environment.
        task: What the planner was trained for; its reference counts only if its environment is this one.
        ref_min_score: The user's return that scores 0.
        ref_max_score: The user's return that scores 100.

    Raises:
        ValueError: If only one of the user's two returns is given, or the first is not below the second, of the user's
            or of the task's.
    """
    if (ref_min_score is None) != (ref_max_score is None):
        raise ValueError(f"ref_min_score is {ref_min_score} and ref_max_score {ref_max_score}: give both or neither")
    if ref_min_score is not None and ref_max_score is not None:
        if not ref_min_score < ref_max_score:
            raise ValueError(f"ref_min_score {ref_min_score} must lie below ref_max_score {ref_max_score}")
        return Reference("user", ref_min_score, ref_max_score)
    if task and task.get("reference_scores") and task.get("env_id") == env_id:
        return _read_reference(task["reference_scores"])
    family = re.sub(r".*[:/]|-v\d+$", "", env_id).lower()  # "package:namespace/Hopper-v5" -> "hopper"
    return D4RL_REFERENCES.get(family)


def _read_reference(scores: Any) -> Reference:
    """Return the reference of a pipeline folder.

    Raises:
        ValueError: If it is none.
    """
    fine = isinstance(scores, Mapping) and scores.keys() == {"name", "min", "max"}
    ends = [scores[end] for end in ("min", "max")] if fine else []
    if not fine or not all(isinstance(end, int | float) and math.isfinite(end) for end in ends) or ends[0] >= ends[1]:
        raise ValueError(
            f"reference_scores of the folder's model_index.json are {scores!r}: a name, and a min below a max, are "
            "needed; give others by --ref_min_score and --ref_max_score"
        )
    return Reference(str(scores["name"]), float(ends[0]), float(ends[1]))


def normalized_score(value: float, reference: Reference) -> float:
    """Return the score of a return: 0 for the reference's ``min``, 100 for its ``max``."""
    return 100 * (value - reference.min) / (reference.max - reference.min)
