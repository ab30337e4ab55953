"""``--dry_run``: what a verb would do, and what it would take, from a small part of the same work.

Everything goes into a temporary folder. What is measured is the verb itself with less to do, so that the estimate knows
the machine, the settings and the environment. Parts that grow differently are measured alone.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from vgp_lightning.report.estimates import estimate, say_estimate
from vgp_lightning.report.files import refuse_links
from vgp_lightning.report.streams import silenced

_PARTS = 1000  # that a distillation is divided into
_FEW_STEPS = 5000  # of the demo's data, from which its trainings and its planner are tried


class _Said(NamedTuple):
    """What would be done, how many seconds it would take, and what the estimate assumes."""

    what: str
    seconds: float
    note: str


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

    def measure(self) -> _Said:
        """Do some of it, and return what the whole would take."""
        found = estimate(self.part, self.first, self.most)
        note = f"measured on {found.tried} of {self.whole:.0f} {self.note}"
        return _Said(self.what, found.seconds(self.whole), note)


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
                said = _MEASURED[verb](dict(options), Path(folder))
        finally:
            _restore(kept)
    say_estimate(*said)


def _restore(place: str | None) -> None:
    if place is None:
        os.environ.pop("MINARI_DATASETS_PATH", None)
    else:
        os.environ["MINARI_DATASETS_PATH"] = place


def _collect(options: dict[str, Any], folder: Path) -> _Said:
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
    return _Work(f"{what} as {options['dataset_id']}", part, 10, whole, whole, note).measure()


def _evaluate(options: dict[str, Any], folder: Path) -> _Said:
    if options["episodes"] < 1:
        raise ValueError(f"episodes is {options['episodes']}: at least 1 is needed")
    count = min(options["episodes"], 16) if options["environments"] is None else options["environments"]
    what = f"play {options['episodes']} episodes, {count} at a time"
    return _play(options, folder, options["episodes"], count, what, "if no episode ends before its time limit")


def _tune(options: dict[str, Any], folder: Path) -> _Said:
    count = 16 if options["environments"] is None else options["environments"]
    search, holdout = options["episodes"], options["holdout_episodes"]
    own = ("pipeline_folder", "env_id", "trust_environment", "max_episode_steps", "device", "seed")
    what = (
        f"play at most {search} episodes with {options['configurations']} configurations, and 3 x {holdout} on "
        "held-out seeds"
    )
    note = "if all configurations take as long as the folder's settings, and no episode ends before its time limit"
    return _play({name: options[name] for name in own}, folder, search + 3 * holdout, count, what, note)


def _play(options: dict[str, Any], folder: Path, episodes: int, count: int, what: str, note: str) -> _Said:
    """Measure the playing of episodes, so many at a time.

    Raises:
        ValueError: If none would be played at a time.
    """
    from vgp_lightning.evaluation.evaluation import evaluate

    if count < 1:
        raise ValueError(f"environments is {count}: at least 1 is needed")
    env_id, limit = _find_limit(options)
    own = {"episodes": count, "environments": count, "video": False, "again": True, "output_dir": str(folder)}

    def part(steps: int) -> None:
        evaluate(**options | own | {"max_episode_steps": steps})

    whole = math.ceil(episodes / count) * limit
    return _Work(f"{what}, in {env_id}", part, min(8, limit), limit, whole, f"steps, {note}").measure()


def _find_limit(options: Mapping[str, Any]) -> tuple[str, int]:
    """Return the environment's id, and the time limit of an episode.

    Raises:
        ValueError: If there is none.
    """
    from vgp_lightning.agent.deployment import Deployment, first_of
    from vgp_lightning.agent.origin import find_planner

    names = ("env_id", "device", "trust_environment")
    deployed = Deployment(str(find_planner(options["pipeline_folder"])), *(options[name] for name in names))
    limit = options["max_episode_steps"]
    if limit is None:
        with deployed.environments(1) as one:
            spec = first_of(one).spec
        limit = None if spec is None else spec.max_episode_steps
    if limit is None:
        raise ValueError(f"{deployed.env_id} has no time limit, so nobody knows how long: give --max_episode_steps")
    return deployed.env_id, limit


def _copy(source: Path, folder: Path) -> str:
    """Return a copy of a planner's folder, into which the verb may write."""
    if not (source / "model_index.json").is_file():
        return str(source)  # which the verb refuses in its own words
    refuse_links(source)  # the copy of one would be a file like any other
    return str(shutil.copytree(source, folder / "planner"))


def _critic(options: dict[str, Any], folder: Path) -> _Said:
    from vgp_lightning.distillation.criticism import train_critic

    source = Path(options["pipeline_folder"])
    own = {"pipeline_folder": _copy(source, folder), "output_dir": str(folder)}

    def part(steps: int) -> None:
        train_critic(**options | own | {"max_steps": steps})

    steps = options["max_steps"]
    what = f"train {options['state_values']} networks of the state value and {options['networks']} of a critic"
    return _Work(f"{what}, {steps} steps each, in {source}", part, min(20, steps), steps, steps, "steps").measure()


def _distill(options: dict[str, Any], folder: Path) -> _Said:
    from vgp_lightning.distillation.distillation import distill

    source = Path(options["pipeline_folder"])
    _, limit = _find_limit(options)
    own = {"pipeline_folder": _copy(source, folder), "output_dir": str(folder)}
    growing = ("recorded_states", "planned_states", "visited_states", "max_steps")

    def part(amount: int) -> None:
        # What is out of its range stays so, and is refused.
        less = {name: math.ceil(max(options[name], 0) * amount / _PARTS) or options[name] for name in growing}
        distill(**options | own | less | {"max_episode_steps": math.ceil(limit * amount / _PARTS)})

    rounds, networks = options["rounds"], options["networks"]
    states = options["recorded_states"] + options["planned_states"] + rounds * options["visited_states"]
    what = (
        f"ask the planner of {source} in {states} states, train {rounds + networks} networks for "
        f"{options['max_steps']} steps each, and play {networks * options['trial_episodes']} episodes"
    )
    note = "parts of states, training steps and episodes' lengths, if no episode ends before its time limit"
    return _Work(what, part, 5, _PARTS, _PARTS, note).measure()


def _demo(options: dict[str, Any], folder: Path) -> _Said:
    import torch

    from vgp_lightning.agent.collection import collect
    from vgp_lightning.cli.failures import fail
    from vgp_lightning.demo import (
        ACTION_NOISE,
        BEHAVIOUR,
        DATASET,
        ENVIRONMENT,
        FIRST_SEED,
        GUIDED,
        SETTINGS,
        WEIGHT_NOISE,
        check_options,
        fit_arguments,
        training_options,
    )
    from vgp_lightning.evaluation.evaluation import evaluate
    from vgp_lightning.export.trained import export
    from vgp_lightning.training.fit import try_training

    def defaults(function: Callable[..., Any]) -> dict[str, Any]:
        return {name: one.default for name, one in signature(function).parameters.items() if name != "settings"}

    check_options(Path(options["output_dir"]), **{name: options[name] for name in options if name != "output_dir"})
    steps, episodes, seed = options["steps"], options["episodes"], options["seed"]
    gait: dict[str, Any] = {"env_id": ENVIRONMENT, "behaviour": BEHAVIOUR}
    gait |= {"weight_noise": WEIGHT_NOISE, "action_noise": ACTION_NOISE}
    collected = _collect(defaults(collect) | gait | {"steps": steps, "dataset_id": DATASET, "seed": seed}, folder)
    collect(**gait, steps=min(steps, _FEW_STEPS), dataset_id=DATASET, seed=seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # as each of the two has, side by side
    lengths = {"denoiser": options["denoiser_steps"], "value": options["value_steps"]}
    trained = [
        try_training(fit_arguments(kind, training_options(folder, seed, count)), fail)
        for kind, count in lengths.items()
    ]
    torch.set_num_threads(threads)
    denoiser, value = (str(folder / kind / "version_0/checkpoints/last.ckpt") for kind in lengths)
    planner = {"pipeline_folder": str(export(denoiser, str(folder / "pipeline"), value, **GUIDED)), "seed": FIRST_SEED}
    played = [
        _play(defaults(evaluate) | planner | settings, folder / name, episodes, episodes, "", "")
        for name, settings in SETTINGS.items()
    ]
    what = (
        f"collect {steps} steps, train two networks side by side ({lengths['denoiser']} and {lengths['value']} steps), "
        f"and play 3 x {episodes} episodes in {ENVIRONMENT}, all in {options['output_dir']}"
    )
    seconds = collected.seconds + max(trained) + sum(one.seconds for one in played)
    return _Said(what, seconds, "each stage measured alone, if no episode ends before its time limit")


_MEASURED: dict[str, Callable[[dict[str, Any], Path], _Said]] = {
    "collect": _collect,
    "evaluate": _evaluate,
    "tune": _tune,
    "critic": _critic,
    "distill": _distill,
    "demo": _demo,
}
