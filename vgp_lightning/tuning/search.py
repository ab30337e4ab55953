"""Find the planner's settings that return most within a budget of episodes, and confirm them on held-out seeds."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.deployment import Deployment, measure_latency
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.agent.playing import Keeping, gather, list_items, play_claimed
from vgp_lightning.agent.store import EpisodeStore, read_stores
from vgp_lightning.evaluation.comparison import say_difference
from vgp_lightning.evaluation.evaluation import evaluate_agent
from vgp_lightning.evaluation.scores import choose_reference
from vgp_lightning.export.folder import update_defaults
from vgp_lightning.report.figures import figure_to_image
from vgp_lightning.report.files import write_report
from vgp_lightning.report.folders import naming, prepare
from vgp_lightning.report.statistics import compare_pairs
from vgp_lightning.tuning.halving import Configuration, check_budget, drop_worst, plan_rungs, plot_halving, rank
from vgp_lightning.tuning.space import choose_space, draw_configurations
from vgp_lightning.tuning.summary import judge, print_summary

# Where the seeds of a search begin: far from those of collected episodes, which begin at 0, and from those of
# evaluations, which begin at 1,000,000. With the same seed an environment begins in the same state.
FIRST_SEED = 2_000_000
_WRITTEN = ("better", "default too slow")  # outcomes with which the winner becomes the folder's default

# ---------------------------------------------------------------- the command


def tune(
    pipeline_folder: str,
    episodes: int = 300,
    configurations: int = 27,
    output_dir: str | None = None,
    *,
    seed: int = FIRST_SEED,
    holdout_episodes: int = 20,
    latency_ms: float | None = None,
    space: dict[str, list[Any]] | None = None,
    env_id: str | None = None,
    environments: int | None = None,
    max_episode_steps: int | None = None,
    write: bool = True,
    again: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Find the settings that return most by successive halving, and write them into the folder as its defaults.

    Configurations are drawn from the space of settings; the folder's defaults are one of them. In each rung all
    remaining configurations play the same new seeds, and the third with the highest mean return over all seeds so far
    goes on (Jamieson & Talwalkar 2016; Karnin et al. 2013). Each rung gets an equal share of the remaining episodes:
    many configurations play few episodes each, few configurations play many. With 300 episodes, 27 configurations play
    3 each, then 9 play 12 more and 3 another 37. The winner and the defaults then play held-out seeds, which had no
    part in the choice: only these returns are reported as a result.

    Finished episodes are kept in ``episodes`` of the output folder: after an interruption the same command goes on, and
    several processes with the same command and output folder share the work.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        episodes: Maximum number of episodes of the whole search; those on held-out seeds are extra.
        configurations: Number of configurations, with the folder's defaults.
        output_dir: Where tuning.json, tuning.png and TensorBoard's events go; by default runs/tune/ and the folder's
            name.
        seed: First seed of the search, of environment and planner; it also decides which configurations are drawn. The
            held-out seeds begin at this one plus ``episodes``.
        holdout_episodes: Episodes on held-out seeds, of the defaults and of the winner.
        latency_ms: Longest time of one planning call for one observation on this machine, in milliseconds; slower
            configurations are left out before any episode is played. None: no limit.
        space: The values to choose from, such as ``{"batch_size": [4, 16], "sampler": ["ddim", "ddpm"]}``, in place of
            the default values of these settings; any setting of the planner can be given.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        environments: Environments that are played in at the same time; by default as many as episodes of one
            configuration, but at most 16. No random number depends on it.
        max_episode_steps: Time limit of an episode; by default the environment's own.
        write: Write the winner into the folder as its defaults, if it returns more than they do on the held-out seeds,
            or if they take longer than ``latency_ms``.
        again: Search anew, from the folder's present defaults.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.

    Returns:
        What tuning.json holds.

    Raises:
        ValueError: If the folder is not a planner's, cannot be written, or does not fit the environment, a setting is
            wrong, the budget is too small, no configuration keeps to ``latency_ms``, all configurations fail, or
            another search is running in the output folder.
        OSError: If the output folder cannot be written.
    """
    start = time.perf_counter()
    check_budget(configurations, holdout_episodes, latency_ms)
    deployed = Deployment(pipeline_folder, env_id, device)
    folder = deployed.folder
    if write and not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is not writable: make it so, or leave it unchanged with --write false")
    output = Path(output_dir) if output_dir is not None else Path("runs", "tune", folder.resolve().name)
    asked = {"seed": seed, "space": space, "latency_ms": latency_ms, "episodes": episodes}
    with deployed.environments(1, max_episode_steps=max_episode_steps) as sample:
        identity = {
            "verb": "tune",
            **deployed.identify(sample),
            **asked,
            "configurations": configurations,
            "holdout_episodes": holdout_episodes,
            "defaults": dict(deployed.pipeline.resolve_settings()),
        }
    identity = json.loads(json.dumps(identity))  # as a store holds it
    if not again:
        identity = _find_own(output / "episodes", identity)

    def draw() -> dict[str, Any]:
        lists = choose_space(deployed.pipeline, space)
        return {"space": lists, "settings": _draw(deployed, lists, configurations, seed, episodes)}

    drawn = None if again else _find_drawn(output / "episodes", identity)
    drawn = draw() if drawn is None else drawn  # what is wrong with it is found before anything is written
    longest = max(holdout_episodes, plan_rungs(len(drawn["settings"]), episodes)[-1][1])
    count = min(16, longest) if environments is None else environments
    held_out = range(seed + episodes, seed + episodes + holdout_episodes)
    with deployed.environments(count, max_episode_steps=max_episode_steps) as vector:
        prepare(output)
        with EpisodeStore(output / "episodes", identity, again=again) as store:
            drawn = store.fact("drawn", lambda: drawn)
            asked |= {"space": drawn["space"]}
            search = Search(deployed, vector, drawn["settings"], output, asked, start, store)
            report = search.run(held_out)
            report = search.write_winner(report, write)
    print_summary(report, output)
    return report


def _find_own(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of the finished search that has made the folder's defaults what they are, if it is this one.

    Else a process that begins when the others have written the winner into the folder would search anew.
    """
    for other, facts in read_stores(folder):
        same = {**other, "defaults": None} == {**identity, "defaults": None}
        if same and facts.get("writing") == identity["defaults"]:
            return other
    return identity


def _find_drawn(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the configurations that this search has drawn; None: it has not begun."""
    for other, facts in read_stores(folder):
        if other == identity:
            drawn: dict[str, Any] | None = facts.get("drawn")
            return drawn
    return None


def _draw(
    deployed: Deployment, space: dict[str, list[Any]], count: int, seed: int, episodes: int
) -> list[dict[str, Any]]:
    """Return the settings of the folder's defaults and of configurations that are drawn from the space."""
    try:
        settings = draw_configurations(deployed.pipeline, space, count, seed)
    except ValueError as error:
        raise ValueError(f"{deployed.folder} cannot plan with all settings of the space: {error}") from error
    if len(settings) == 1:
        raise ValueError(f"the space {space} holds only the folder's defaults: give more values with --space")
    plan_rungs(len(settings), episodes)  # which refuses too few episodes
    return settings


# ---------------------------------------------------------------- the search


class Search:
    """A search under way. Its state is its report, which is written after each rung.

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
        name = f"latency {self._configurations.index(one)}"
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
            default = self._configurations[0]
            with naming(self._output), SummaryWriter(str(self._output)) as writer:
                played = self.report["episodes_played"]
                writer.add_scalar("tune/return_mean_best", best, played)
                if default.dropped not in ("latency", "failed"):
                    writer.add_scalar("tune/return_mean_default", default.means[-1], played)
            plural = "" if each == 1 else "s"
            news = f"{size} configurations, {each} new episode{plural} each; the best mean is {best:.1f}"
            Console().print(f"rung {rung}: {news}", highlight=False, soft_wrap=True)
            self._save()
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
        return list_items(seeds, player=self._configurations.index(one))

    def _confirm(self, winner: Configuration, seeds: Sequence[int]) -> None:
        """Time the defaults and the winner, compare them on held-out seeds, and log the comparison."""
        contenders = {"default": self._configurations[0], "winner": winner}
        self._play(list({id(one): one for one in contenders.values()}.values()), seeds, "held-out seeds")
        for one in contenders.values():
            if one.plan_ms is None:
                one.plan_ms = self._measure(one)
        self.report["holdout"] = self._hold_out(contenders, seeds)
        self.report["outcome"] = judge(self.report, contenders["default"])

    def _hold_out(self, contenders: Mapping[str, Configuration], seeds: Sequence[int]) -> dict[str, Any]:
        """Return the results of the defaults and the winner on the held-out seeds, and compare them seed by seed."""
        reference = choose_reference(self._deployed.env_id, self._deployed.pipeline.task)
        result: dict[str, Any] = {"seeds": list(seeds), "default": None, "winner": None, "difference": None}
        for name, one in contenders.items():
            if name == "winner" and one is contenders["default"]:
                return result
            agent = self._agent(one)
            result[name] = evaluate_agent(
                agent,
                self._environments,
                seeds,
                replan_every=agent.replan_every,
                reference=reference,
                description=f"held-out seeds, {name}",
                player=self._configurations.index(one),
                store=self._store,
            )
        default, best = ({one["seed"]: one["return"] for one in result[name]["episodes"]} for name in contenders)
        common = [seed for seed in seeds if seed in default and seed in best]
        if not common:
            raise ValueError(f"no held-out seed of {list(seeds)} was played to its end by the defaults and the winner")
        paired = compare_pairs(np.array([best[seed] - default[seed] for seed in common]))
        result["difference"] = asdict(paired) | {
            "told": paired.told,
            "verdict": say_difference(paired, len(common), names=("the default", "the winner")),
        }
        return result

    def _agent(self, configuration: Configuration) -> PlanningAgent:
        settings: Any = configuration.settings
        return self._deployed.agent(**settings)

    def _draw(self, report: Mapping[str, Any], path: Path) -> None:
        """Draw the search, and log its picture and what the held-out seeds have shown."""
        played = np.cumsum([len(rung["seeds"]) for rung in report["rungs"]]).tolist()
        everyone = report["configurations"]
        title = f"{report['env_id']}: {len(everyone)} configurations, {report['episodes_played']} episodes"
        picture = plot_halving([one["return_means"] for one in everyone], played, report["winner"], 0, title)
        with naming(path), SummaryWriter(str(self._output)) as writer:
            for name, place in (("default", 0), ("winner", report["winner"])):
                if (result := report["holdout"][name]) is not None:
                    writer.add_scalar(f"tune/holdout_return_mean_{name}", result["return_mean"], 0)
                    writer.add_scalar(f"tune/plan_ms_{name}", everyone[place]["plan_ms"], 0)
            writer.add_image("tune/halving", figure_to_image(picture), 0, dataformats="HWC")
            picture.savefig(path, dpi=110)

    def write_winner(self, report: dict[str, Any], write: bool) -> dict[str, Any]:
        """Write the winner into the folder as its defaults, if the outcome says so, and return the report."""
        store, path = self._store, self._output / "tuning.json"
        with store.exclusively():
            if write and report["outcome"] in _WRITTEN and not store.known("written"):
                default, winner = report["default_settings"], report["winner_settings"]
                store.fact("writing", lambda: winner)  # the folder's defaults from now on, if all goes well
                changed = {name: value for name, value in winner.items() if value != default[name]}
                update_defaults(self._deployed.folder, changed)
                store.fact("written", lambda: True)
            report = report | {"written": bool(store.known("written"))}
            if not path.is_file() or path.read_text() != json.dumps(report, indent=2) + "\n":
                write_report(report, path)
        return report
