"""Acting by habit: what an agent may be given when a habit answers in place of its planner."""

from collections.abc import Mapping
from typing import Any

from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings


def choose_habit(
    pipeline: ValueGuidedPlannerPipeline, unused: Mapping[str, Any], settings: Settings
) -> tuple[Habit, Settings]:
    """Return the habit in a planner's folder, and the settings of its teacher.

    Args:
        pipeline: The planner.
        unused: What a habit has no use for, by name; all have to be None.
        settings: As they were given. They have to be those of the teacher, but for ``replan_every``.

    Raises:
        ValueError: If there is no habit of this planner, something was given that it cannot use, or its chunks have
            fewer actions than ``replan_every``.
    """
    if given := [name for name, value in unused.items() if value is not None]:
        raise ValueError(
            f"{', '.join(given)} cannot be used with a habit, which answers from the observation alone: leave the "
            "habit out, and the planner uses them"
        )
    habit = pipeline.load_habit()
    taught: Any = habit.teacher.get("settings")
    if not isinstance(taught, dict):
        raise ValueError("the habit does not say with which settings its teacher planned: distill it anew")
    teacher = dict(pipeline.resolve_settings(**taught))
    resolved = pipeline.resolve_settings(**taught | dict(settings))
    for name, value in resolved.items():
        if name != "replan_every" and value != teacher[name]:
            raise ValueError(
                f"{name} is {value}, but the habit was distilled from a planner with {teacher[name]}: leave it out, or "
                f"distill a habit with it, vgp distill FOLDER --{name} {value}"
            )
    if not 1 <= resolved["replan_every"] <= habit.chunk:
        raise ValueError(
            f"replan_every is {resolved['replan_every']}, but the habit answers with chunks of {habit.chunk} actions: "
            f"a number between 1 and {habit.chunk} is needed, or a habit with more, vgp distill FOLDER --chunk"
        )
    return habit, resolved
