"""A pipeline folder's model card: what it says, and its parts that are replaced when the folder changes."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from vgp_lightning.export.evidence import describe_evidence
from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings

_TABLE_HEAD = "| setting | default | meaning |\n|---|---|---|\n"
# Cards of version 0.1 have a table of two columns, and no evidence after it.
SETTINGS_TABLE = re.compile(
    rf"(?:{re.escape(_TABLE_HEAD)}|\| default \| value \|\n\|---\|---\|\n)(?:\|.*(?:\n|\Z))*"
    r"(?:\nWhy these: .*(?:\n|\Z))?"
)


def make_table(pipeline: ValueGuidedPlannerPipeline) -> str:
    """Return the planner's settings as a table, and a line that says why they are so; it ends in a line break."""
    meanings = read_meanings()
    settings = pipeline.resolve_settings()
    rows = (f"| `{name}` | {value} | {meanings[name]} |\n" for name, value in settings.items())
    why = describe_evidence(pipeline.task.get("evidence"), settings)
    return f"{_TABLE_HEAD}{''.join(rows)}\nWhy these: {why}\n"


def read_meanings() -> dict[str, str]:
    """Return what each setting means: the attributes in the docstring of ``Settings``, each as one line."""
    _, attributes = inspect.cleandoc(Settings.__doc__ or "").split("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def make_card(pipeline: ValueGuidedPlannerPipeline) -> ModelCard:
    """Return the card of a pipeline that was just exported."""
    task, settings = pipeline.task, pipeline.resolve_settings()
    value = "with" if pipeline.value_function is not None else "without"
    text = f"""
# A diffusion planner for {task.get("env_id") or "an unnamed environment"}

Plans {settings["planning_horizon"]} steps of {pipeline.action_dim} actions and {pipeline.observation_dim} observations
by denoising, {value} a value function to guide it. Trained on {", ".join(task.get("dataset_id", [])) or "unnamed data"}
(discount {task.get("discount")}), with the configs in `training/`. Method: Janner et al. 2022, "Planning with Diffusion
for Flexible Behavior Synthesis".
{_describe_checkpoints(task.get("checkpoints"))}
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
plan = pipeline(observation)  # (O,) or (N, O), in the environment's units
plan.actions[0, 0]            # (A,), what to do now
```

`trust_remote_code=True` runs the code in this folder's `pipeline.py`: read it before you trust it.

{make_table(pipeline)}"""
    data = ModelCardData(library_name="diffusers", tags=["reinforcement-learning", "diffusion-planning", "offline-rl"])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


# The section of a card that describes the habit: a heading and one paragraph, at the end.
HABIT_SECTION = re.compile(r"\n## Habit\n\n(?:.+\n?)*")


CRITIC_SECTION = re.compile(r"\n## Critic\n\n(?:.+\n?)*")
CRITIC_WORDS = """
## Critic

`critic/` says by how much a candidate's first action is better than what the data do in the same state (`vgp critic`).
`pipeline(observation, rank_by="critic")` ranks the candidates by it.
"""


def describe_habit(habit: Habit) -> str:
    """Return the card's section about a habit."""
    return f"""
## Habit

`habit/` answers an observation with {habit.chunk} actions at once, without planning. It was distilled from this planner
(`vgp distill`): `habit = pipeline.load_habit()`, then `habit.answer(observation)[0, 0]` is what to do now.
"""


def _describe_checkpoints(checkpoints: Mapping[str, Any] | None) -> str:
    """Return the line that names the networks' checkpoints; empty if they are unknown."""
    if not checkpoints:
        return ""
    named = [
        f"{name} `{one['file']}`" + (f" of step {one['step']}" if one["step"] is not None else "")
        for name, one in checkpoints.items()
    ]
    return f"\nCheckpoints: {', '.join(named)}.\n"
