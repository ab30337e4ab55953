"""The search itself: configurations play rungs of successive halving, and the winner is confirmed.

What it finds follows from the episodes in a store, so that it can be interrupted, and shared by several processes.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.deployment import Deployment, measure_latency
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.agent.played import gather
from vgp_lightning.agent.playing import Keeping, list_items, play_claimed
from vgp_lightning.agent.store import EpisodeStore
from vgp_lightning.evaluation.evaluation import evaluate_agent
from vgp_lightning.evaluation.scores import choose_reference
from vgp_lightning.export.folder import update_defaults
from vgp_lightning.pipeline.settings import ONE_PLAN
from vgp_lightning.report.board import events
from vgp_lightning.report.figures import figure_to_image
from vgp_lightning.report.files import write_report
from vgp_lightning.report.folders import naming
from vgp_lightning.tuning.halving import Configuration, drop_worst, plan_rungs, plot_halving, rank
from vgp_lightning.tuning.holdout import compare_contenders, judge, seen_from


class Contest:
    """A search by halving under way. Its state is its report, which is written after each rung.

    The search follows from the episodes in the store, so each of several processes finds the same.

    Attributes:
        report: What tuning.json holds.
    """

    def __init__(
        self,
        deployed: Deployment,
        environments: VectorEnv,
        settings: Sequence[dict[str, Any]],
        output: Path,
        asked: Mapping[str, Any],
        start: float,
        store: EpisodeStore,
    ) -> None:
        """Prepare a search.

        Args:
            deployed: The planner.
            environments: Where it plays.
            settings: Those of the configurations to choose from; the first are the folder's defaults.
            output: Folder of the report.
            asked: ``seed``, ``space``, ``latency_ms`` and ``episodes``, as ``tune`` was given them.
            start: ``time.perf_counter()`` when the search began.
            store: Where results are kept, and where other processes may play some of the episodes.
        """
        self._deployed = deployed
        self._environments = environments
        self._configurations = [Configuration(one) for one in settings]
        # Whatever wins, and the defaults as they are, have to stand beside one plan that is neither guided nor chosen.
        plain: dict[str, Any] = {**settings[0], **ONE_PLAN}
        known = (one for one in self._configurations if one.settings == plain)
        self._one_plan = next(known, None) or Configuration(plain)
        self._output = output
        self._start = start
        self._store = store
        self.report: dict[str, Any] = {
            "env_id": deployed.env_id,
            **deployed.describe(environments),
            "environments": environments.num_envs,
            **asked,
            "default_settings": settings[0],
            "over_latency": 0,
            "episodes_played": 0,
            "rungs": [],
            "configurations": [],
            "winner": None,
            "winner_settings": None,
            "holdout": None,
            "chosen": None,
            "written": False,
            "outcome": None,
            "seconds": None,
        }

    def run(self, held_out: Sequence[int]) -> dict[str, Any]:
        """Search, confirm the winner on held-out seeds, and return the report, from the store if it is there.

        Raises:
            ValueError: If no configuration is quick enough, or all fail.
        """
        store = self._store
        if store.finished:
            known = store.known("report") is not None
            Console().print(
                f"{len(store.finished)} episodes{' of a finished search' if known else ''} were played before, in "
                f"{store.folder}: --again true searches anew",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        report: dict[str, Any] | None = store.known("report")
        if report is None:
            quick = self._leave_out_slow()
            store.fact("begun", self._begin)
            winner = self._halve(quick)
            self._confirm(winner, held_out)
            self.report["configurations"] = [one.to_json(self.report["rungs"]) for one in self._configurations]
            self.report["seconds"] = time.perf_counter() - self._start
            report = store.fact("report", lambda: self.report)
            with store.exclusively():
                write_report(report, self._output / "tuning.json")
        with store.exclusively():
            picture = self._output / "tuning.png"
            if not picture.is_file() and report["rungs"]:
                self._draw(report, picture)
        return report

    def _begin(self) -> bool:
        """Remove an earlier search's files from the output folder."""
        for name in ("tuning.json", "tuning.png"):
            (self._output / name).unlink(missing_ok=True)
        self._save()
        return True

    def _save(self) -> None:
        self.report["configurations"] = [one.to_json(self.report["rungs"]) for one in self._configurations]
        self.report["seconds"] = time.perf_counter() - self._start
        write_report(self.report, self._output / "tuning.json")

    def _measure(self, one: Configuration) -> float:
        """Return the milliseconds of a planning call, measured once by one of the processes."""
        settings: Any = one.settings
        name = f"latency {self._number(one)}"
        measured: float = self._store.fact(name, lambda: measure_latency(self._deployed.pipeline, **settings))
        return measured

    def _leave_out_slow(self) -> list[Configuration]:
        """Return the configurations whose planning call is within the latency budget; all, unmeasured, without one.

        Raises:
            ValueError: If none is.
        """
        limit = self.report["latency_ms"]
        if limit is not None:
            for one in self._configurations:
                one.plan_ms = self._measure(one)
                one.dropped = "latency" if one.plan_ms > limit else None
        quick = [one for one in self._configurations if one.dropped is None]
        if not quick:
            quickest = min(self._configurations, key=lambda one: one.plan_ms or 0.0)
            raise ValueError(
                f"latency_ms is {limit:g}, but none of {len(self._configurations)} configurations plans in that time "
                f"here; the quickest takes {quickest.plan_ms:.1f} ms: {quickest.settings}. Allow that much, or give "
                "quicker ones with --space"
            )
        self.report["over_latency"] = len(self._configurations) - len(quick)
        return quick

    def _halve(self, left: list[Configuration]) -> Configuration:
        """Play the rungs of successive halving, and return the winner.

        Raises:
            ValueError: If all configurations of a rung fail.
        """
        report = self.report
        seed = report["seed"]
        for rung, (_, each) in enumerate(plan_rungs(len(left), report["episodes"]), start=1):
            seeds = list(range(seed, seed := seed + each))
            size = len(left)
            self._play(left, seeds, f"rung {rung}")
            for one in left:
                played = gather(self._store, self._items(one, seeds))
                if played.failures:
                    one.dropped, one.failure = "failed", str(played.failures[0])
                else:
                    one.returns.append([result.total_reward for result in played.results])
            if all(one.failure for one in left):
                raise ValueError(
                    f"none of {size} configurations could play its episodes of rung {rung} to their end. "
                    f"{left[0].settings}: {left[0].failure}"
                )
            left = rank([one for one in left if one.failure is None])
            report["rungs"].append({"configurations": size, "seeds": seeds})
            report["episodes_played"] += size * each
            best = left[0].means[-1]
            left = drop_worst(left, rung)
            self._store.fact(f"rung {rung}", self._tell_rung(rung, size, each, best))
        (winner,) = left
        report["winner"] = self._configurations.index(winner)
        report["winner_settings"] = winner.settings
        return winner

    def _tell_rung(self, rung: int, size: int, each: int, best: float) -> Callable[[], bool]:
        """Return what one of the processes does at the end of a rung: print, log, and write the report so far."""

        def tell() -> bool:
            self._save()
            with events(self._output, "tune") as writer:
                _log_progress(writer, self.report)
            plural = "" if each == 1 else "s"
            news = f"{size} configurations, {each} new episode{plural} each; the best mean is {best:.1f}"
            Console().print(f"rung {rung}: {news}", highlight=False, soft_wrap=True)
            return True

        return tell

    def _play(self, players: Sequence[Configuration], seeds: Sequence[int], description: str) -> None:
        """Let configurations play the same seeds, together with the other processes."""
        items = {one: self._items(one, seeds) for one in players}

        def play_free() -> None:
            for i, one in enumerate(players, start=1):
                if all(item in self._store.finished for item in items[one]):
                    continue
                agent = self._agent(one)
                play_claimed(
                    agent,
                    self._environments,
                    self._store,
                    lambda one=one: items[one],  # type: ignore[misc]
                    Keeping(steps=False, replan_every=agent.replan_every),
                    f"{description}, configuration {i} of {len(players)}",
                    total=len(seeds),
                )

        self._store.share(lambda: [item for one in players for item in items[one]], play_free)

    def _items(self, one: Configuration, seeds: Sequence[int]) -> list[tuple[int, int, int]]:
        return list_items(seeds, player=self._number(one))

    def _number(self, one: Configuration) -> int:
        """Return the number that a configuration has in the store."""
        return [*self._configurations, self._one_plan].index(one)

    def _confirm(self, winner: Configuration, seeds: Sequence[int]) -> None:
        """Let the defaults, the winner and one plan play held-out seeds, compare them, and choose one.

        Raises:
            ValueError: If each of them fails in an episode.
        """
        contenders: dict[str, Configuration] = {}
        for name, one in (("default", self._configurations[0]), ("winner", winner), ("one plan", self._one_plan)):
            if one not in contenders.values():
                contenders[name] = one
        self._play([one for one in contenders.values() if one.failure is None], seeds, "held-out seeds")
        failures: dict[str, str] = {}  # as in the search: who fails in one episode is out
        for name, one in contenders.items():
            if one.failure is None and (failed := gather(self._store, self._items(one, seeds)).failures):
                one.dropped, one.failure = "failed", str(failed[0])
            if one.failure is not None:
                failures[name] = one.failure
        sound = {name: one for name, one in contenders.items() if name not in failures}
        if not sound:
            raise ValueError(f"none of {list(failures)} could play the held-out seeds to their end: {failures}")
        for one in sound.values():
            if one.plan_ms is None:
                one.plan_ms = self._measure(one)
        held_out = self._hold_out(sound, seeds) | {"failures": failures}
        self.report["holdout"] = held_out
        limit = self.report["latency_ms"]
        slow = {name for name, one in sound.items() if limit is not None and (one.plan_ms or 0.0) > limit}
        found = judge(held_out["differences"], contenders.keys(), slow, failures.keys())
        self.report["outcome"], self.report["chosen"] = found

    def _hold_out(self, contenders: Mapping[str, Configuration], seeds: Sequence[int]) -> dict[str, Any]:
        """Return the contenders' results on the held-out seeds, and compare them seed by seed."""
        reference = choose_reference(self._deployed.env_id, self._deployed.pipeline.task)
        results: dict[str, Any] = dict.fromkeys(("default", "winner", "one plan"))
        for name, one in contenders.items():
            agent = self._agent(one)
            results[name] = evaluate_agent(
                agent,
                self._environments,
                seeds,
                replan_every=agent.replan_every,
                reference=reference,
                description=f"held-out seeds, {name}",
                player=self._number(one),
                store=self._store,
            ) | {"settings": one.settings, "plan_ms": one.plan_ms}
        return {"seeds": list(seeds), **results, "differences": compare_contenders(results, seeds)}

    def _agent(self, configuration: Configuration) -> PlanningAgent:
        settings: Any = configuration.settings
        return self._deployed.agent(**settings)

    def _draw(self, report: Mapping[str, Any], path: Path) -> None:
        """Draw the search, and log its picture and what the held-out seeds have shown."""
        played = np.cumsum([len(rung["seeds"]) for rung in report["rungs"]]).tolist()
        everyone = report["configurations"]
        title = f"{report['env_id']}: {len(everyone)} configurations, {report['episodes_played']} episodes"
        picture = plot_halving([one["return_means"] for one in everyone], played, report["winner"], 0, title)
        with naming(path), events(self._output, "tune") as writer:
            _log_progress(writer, report)
            for name, place in (("default", 0), ("winner", report["winner"])):
                if (result := report["holdout"][name]) is not None:
                    writer.add_scalar(f"tune/holdout_return_mean_{name}", result["return_mean"], 0)
                    writer.add_scalar(f"tune/plan_ms_{name}", everyone[place]["plan_ms"], 0)
            writer.add_image("tune/halving", figure_to_image(picture), 0, dataformats="HWC")
            picture.savefig(path, dpi=110)

    def write_chosen(self, report: dict[str, Any], write: bool) -> dict[str, Any]:
        """Write what was chosen into the folder as its defaults, with the evidence, and return the report.

        Where the defaults stay, the evidence for them is written.
        """
        store, path = self._store, self._output / "tuning.json"
        held_out, name = report["holdout"], report["chosen"]
        compared = [seen_from(name, *one) for one in held_out["differences"].items() if name in one[0]]
        with store.exclusively():
            # Defaults that fail give way even where there is nobody that the other could be compared with.
            if write and (compared or name != "default") and not store.known("written"):
                default, chosen = report["default_settings"], held_out[name]["settings"]
                store.fact("writing", lambda: chosen)  # the folder's defaults from now on, if all goes well
                evidence = {
                    "env_id": report["env_id"],
                    "kept": name == "default",
                    "first_seed": held_out["seeds"][0],
                    "last_seed": held_out["seeds"][-1],
                    "compared": compared,
                }
                update_defaults(
                    self._deployed.folder,
                    {setting: value for setting, value in chosen.items() if value != default[setting]},
                    evidence,
                )
                store.fact("written", lambda: True)
            report = report | {"written": bool(store.known("written"))}
            if not path.is_file() or path.read_text() != json.dumps(report, indent=2) + "\n":
                write_report(report, path)
        return report


def _log_progress(writer: SummaryWriter, report: Mapping[str, Any]) -> None:
    """Write the best mean return, and that of the defaults, after each rung."""
    played = 0
    for i, rung in enumerate(report["rungs"]):
        played += rung["configurations"] * len(rung["seeds"])
        means = [one["return_means"][i] for one in report["configurations"] if len(one["return_means"]) > i]
        writer.add_scalar("tune/return_mean_best", max(means), played)
        default = report["configurations"][0]
        if default["return_means"] and default["dropped"] != "failed":
            # Where they were eliminated, that is their mean from then on.
            writer.add_scalar("tune/return_mean_default", default["return_means"][: i + 1][-1], played)
