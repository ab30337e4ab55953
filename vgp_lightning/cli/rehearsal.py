"""``--dry_run``: what a verb would do, and what it would take, from a small part of the same work.

Everything goes into a temporary folder. What is measured is the verb itself with less to do, so that the estimate knows
the machine, the settings and the environment. A verb whose parts do not grow together has no dry run.
"""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vgp_lightning.report.estimates import estimate, say_estimate
from vgp_lightning.report.streams import silenced


@dataclass(frozen=True)
class _Work:
    """Work that can be done in part.

    Attributes:
        what: What would be done.
        part: Does an amount of it.
        first: The smallest amount that makes sense.
        most: The largest one to try.
        whole: The amount of all of it.
        note: What the estimate assumes.
    """

    what: str
    part: Callable[[int], object]
    first: int
    most: int
    whole: float
    note: str


def rehearse(verb: str, options: dict[str, Any]) -> None:
    """Print what a verb would do and what it would take.

    Args:
        verb: One that has a dry run; ``vgp fit`` has its own, in training/rehearsal.py.
        options: Those of its function.

    Raises:
        ValueError: As the verb itself does.
    """
    kept = os.environ.get("MINARI_DATASETS_PATH")
    with TemporaryDirectory(prefix="vgp-dry-run-") as folder:
        try:
            with silenced():
                work = _WORK[verb](dict(options), Path(folder))
                found = estimate(work.part, work.first, work.most)
        finally:
            _restore(kept)
    note = f"measured on {found.tried} of {work.whole:.0f} {work.note}"
    say_estimate(work.what, found.seconds(work.whole), note)


def _restore(place: str | None) -> None:
    if place is None:
        os.environ.pop("MINARI_DATASETS_PATH", None)
    else:
        os.environ["MINARI_DATASETS_PATH"] = place


def _collect(options: dict[str, Any], folder: Path) -> _Work:
    from vgp_lightning.agent.collection import collect
    from vgp_lightning.data.writing import free_path

    if options["steps"] < 1:
        collect(**options)  # which refuses it in its own words
    if options["output_dir"] is None:
        free_path(options["dataset_id"])
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    together, limit = options["environments"], options["max_episode_steps"] or math.inf
    trials = iter(range(1000))

    def part(steps: int) -> None:
        # An episode of this length in each environment, so that no step is played in vain.
        asked = {"steps": steps * together, "dataset_id": f"dry/run{next(trials)}-v0"}
        collect(**options | asked | {"max_episode_steps": int(min(steps, limit)), "output_dir": None})

    whole = max(1, math.ceil(options["steps"] / max(together, 1)))
    what = f"collect {options['steps']} steps of {options['env_id']} by {options['behaviour']}"
    note = f"steps of {together} environments"
    return _Work(f"{what} as {options['dataset_id']}", part, 10, whole, whole, note)


def _evaluate(options: dict[str, Any], folder: Path) -> _Work:
    count = options["environments"] or min(options["episodes"], 16)
    what = f"play {options['episodes']} episodes, {count} at a time"
    return _play(options, folder, options["episodes"], count, what, "if no episode ends before its time limit")


def _tune(options: dict[str, Any], folder: Path) -> _Work:
    count = options["environments"] or 16
    search, holdout = options["episodes"], options["holdout_episodes"]
    own = ("pipeline_folder", "env_id", "trust_environment", "max_episode_steps", "device", "seed")
    what = (
        f"play at most {search} episodes with {options['configurations']} configurations, and 3 x {holdout} on "
        "held-out seeds"
    )
    note = "if all configurations take as long as the folder's settings, and no episode ends before its time limit"
    return _play({name: options[name] for name in own}, folder, search + 3 * holdout, count, what, note)


def _play(options: dict[str, Any], folder: Path, episodes: int, count: int, what: str, note: str) -> _Work:
    """Return the work of playing episodes, so many at a time."""
    from vgp_lightning.agent.deployment import Deployment, first_of
    from vgp_lightning.evaluation.evaluation import evaluate

    names = ("pipeline_folder", "env_id", "device", "trust_environment")
    deployed = Deployment(*(options[name] for name in names))
    limit = options["max_episode_steps"]
    if limit is None:
        with deployed.environments(1) as one:
            spec = first_of(one).spec
        limit = None if spec is None else spec.max_episode_steps
    if limit is None:
        raise ValueError(f"{deployed.env_id} has no time limit, so nobody knows how long: give --max_episode_steps")
    own = {"episodes": count, "environments": count, "video": False, "again": True, "output_dir": str(folder)}

    def part(steps: int) -> None:
        evaluate(**options | own | {"max_episode_steps": steps})

    whole = math.ceil(episodes / count) * limit
    return _Work(f"{what}, in {deployed.env_id}", part, min(8, limit), limit, whole, f"steps, {note}")


def _critic(options: dict[str, Any], folder: Path) -> _Work:
    from vgp_lightning.distillation.criticism import train_critic

    source = Path(options["pipeline_folder"])
    copy = folder / "planner"
    if (source / "model_index.json").is_file():
        shutil.copytree(source, copy)
    else:
        copy = source  # which the verb refuses in its own words

    def part(steps: int) -> None:
        train_critic(**options | {"pipeline_folder": str(copy), "output_dir": str(folder), "max_steps": steps})

    steps = options["max_steps"]
    what = f"train {options['state_values']} networks of the state value and {options['networks']} of a critic"
    return _Work(f"{what}, {steps} steps each, in {source}", part, min(20, steps), steps, steps, "steps")


_WORK: dict[str, Callable[[dict[str, Any], Path], _Work]] = {
    "collect": _collect,
    "evaluate": _evaluate,
    "tune": _tune,
    "critic": _critic,
}
