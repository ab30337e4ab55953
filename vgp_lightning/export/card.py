"""A pipeline folder's model card: what it says, and its parts that are replaced when the folder changes."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from vgp_lightning.export.evidence import describe_evidence
from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import DEFAULTS, Settings
from vgp_lightning.report.documents import read_json
from vgp_lightning.report.files import refuse_links, replace_file, write_report

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
    environment = task.get("env_id") or "an unnamed environment"
    data = ", ".join(task.get("dataset_id", [])) or "unnamed data"
    stride = pipeline.frame.stride
    every = f" (its networks see one of {stride})" if stride > 1 else ""
    sizes = f"{pipeline.action_dim} actions and {pipeline.observation_dim} observations"
    text = f"""
# A diffusion planner for {environment}

Plans {settings["planning_horizon"]} steps{every} of {sizes}
by denoising, {value} a value function to guide it. Trained on {data}
(discount {task.get("discount")}), with the configs in `training/`. Method: Janner et al. 2022, "Planning with Diffusion
for Flexible Behavior Synthesis".
{_describe_checkpoints(task.get("checkpoints"))}
## Load

With diffusers alone; `folder` is this folder, or its name on the Hub, such as `me/planner`:

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
plan = pipeline(observation)  # (O,) or (N, O), in the environment's units
plan.actions[0, 0]            # (A,), what to do now
```

`trust_remote_code=True` runs the code in this folder's `pipeline.py`: read it before you trust it. Without
`custom_pipeline=folder` diffusers says that it has no attribute {type(pipeline).__name__}.

With vgp_lightning no code of this folder runs:

```python
from vgp_lightning import ValueGuidedPlannerPipeline

pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
```

`vgp evaluate` takes the folder, or its name on the Hub, and plays episodes.
{_describe_stock(pipeline)}
## Limits

The planner has seen nothing but its data: in states that are far from them its plans are guesses. Actions are clipped
to the bounds of the data's action space; nothing else keeps a plan safe. Returns hold for {environment} with its time
limit, and another training with another seed can return less or more.

## Settings

{make_table(pipeline)}"""
    tags = ["reinforcement-learning", "diffusion-planning", "offline-rl"]
    metadata = ModelCardData(library_name="diffusers", pipeline_tag="reinforcement-learning", tags=tags)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n{text}")


def _describe_stock(pipeline: ValueGuidedPlannerPipeline) -> str:
    """Return how diffusers' own class loads the folder; empty if it cannot, because it needs a value function."""
    if pipeline.value_function is None:
        return ""
    return """
diffusers' own planner loads the networks from a local folder; it has its own sampler and none of the settings below:

```python
from diffusers.experimental import ValueGuidedRLPipeline
from vgp_lightning.pipeline import StockEnvironment

stock = ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder))
```
"""


# ---------------------------------------------------------------- evaluation

_EVALUATION = re.compile(r"\n## Evaluation\n(?:(?!\n## )[\s\S])*")
FILM = "rollout.gif"


def add_evaluation(
    folder: Path, report: Mapping[str, Any], film: Path | None, others: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Write an evaluation into a pipeline folder: a section and the Hub's metadata in its card, the report, the film.

    An evaluation that was there before is replaced. Each file is replaced atomically.

    Args:
        folder: The pipeline folder, with a card.
        report: What ``evaluation.json`` of its evaluation holds.
        film: A film of one of the episodes; None: there is none.
        others: Reports of what else played the same seeds, by name, for the table.

    Raises:
        ValueError: If the folder has no card, or has links that lead out of it.
    """
    refuse_links(folder)
    path = folder / "README.md"
    if not path.is_file():
        raise ValueError(f"{path} is missing: export the planner again, and it gets a card")
    card = ModelCard.load(path)
    card.data.model_name = f"Diffusion planner for {report['env_id']}"
    card.data.eval_results = [_make_result(report)]
    section = _describe_evaluation(report, _name_actor(report, folder), others or {}, film is not None)
    text = _EVALUATION.sub("", card.text)
    before, settings, after = text.partition("\n## Settings\n")
    text = f"{before.rstrip()}\n{section}{settings}{after}" if settings else f"{text.rstrip()}\n{section}"
    content = f"---\n{card.data.to_yaml()}\n---\n{text}"
    # Where the folder lay is nobody's business who downloads it.
    write_report({name: value for name, value in report.items() if name != "pipeline"}, folder / "evaluation.json")
    if film is not None:
        replace_file(folder / FILM, lambda file: file.write(film.read_bytes()))
    replace_file(path, lambda file: file.write(content.encode()))
    if film is None:
        (folder / FILM).unlink(missing_ok=True)  # of an earlier evaluation


def _make_result(report: Mapping[str, Any]) -> EvalResult:
    """Return an evaluation as the Hub's metadata have it; mean_reward is its name for the mean return."""
    episodes = report["episodes"]
    return EvalResult(
        task_type="reinforcement-learning",
        task_name="reinforcement learning",
        dataset_type=report["env_id"],
        dataset_name=report["env_id"],
        metric_type="mean_reward",
        metric_name="mean return of an episode",
        metric_value=round(report["return_mean"], 2),
        metric_args={"episodes": len(episodes), "first_seed": report["seed"], "ci95": report["return_ci95"]},
    )


def _describe_evaluation(
    report: Mapping[str, Any], actor: str, others: Mapping[str, Mapping[str, Any]], film: bool
) -> str:
    """Return the card's section about an evaluation."""
    seeds = [episode["seed"] for episode in report["episodes"]]
    reports = {actor: report, **others}
    succeeds = any(one["success_rate"] is not None for one in reports.values())
    heads = [
        "return, mean",
        "95 % interval",
        "middle half, mean",
        "episode length",
        *["success"] * succeeds,
        "episodes",
    ]
    rows = "\n".join(f"| {name} | {' | '.join(_list_numbers(one, succeeds))} |" for name, one in reports.items())
    failed = report.get("failed_episodes")
    missing = f"; {len(failed)} more episodes failed" if failed else ""
    moving = f"\n![An episode of this planner]({FILM})\n" if film else ""
    return f"""
## Evaluation

| {" | ".join([report["env_id"], *heads])} |
|---|{"---:|" * len(heads)}
{rows}

Seeds {seeds[0]} to {seeds[-1]}, one training{missing}. The interval is a bootstrap over episodes: it says nothing about
other trainings. `evaluation.json` holds each episode, the settings and the versions.
{moving}"""


def _name_actor(report: Mapping[str, Any], folder: Path) -> str:
    """Return what played an evaluation, with the settings that are not the folder's defaults."""
    defaults = {**DEFAULTS, **read_json(folder / "model_index.json").get("planner", {})}
    played = report.get("settings", {}).items()
    other = [f"{name} {value}" for name, value in played if name in defaults and value != defaults[name]]
    settings = f", with {', '.join(other)}" if other else ""
    goal = ", its plans end at the goal" if report.get("reach_goal") else ""
    controller = ", a position controller follows its states" if report.get("follow_states") else ""
    late = f", with a delay of {report['delay']}" if report.get("delay") else ""
    return f"this planner{goal}{controller}{late}{settings}"


def _list_numbers(report: Mapping[str, Any], succeeds: bool) -> list[str]:
    """Return a row of the evaluation's table."""
    interval = "-" if report["return_ci95"] is None else "{:.4g} to {:.4g}".format(*report["return_ci95"])
    rate = "-" if report["success_rate"] is None else f"{report['success_rate']:.0%}"
    numbers = [f"{report['return_mean']:.4g}", interval, f"{report['return_iqm']:.4g}", f"{report['length_mean']:.4g}"]
    return [*numbers, *[rate] * succeeds, str(len(report["episodes"]))]


# ---------------------------------------------------------------- companions

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
