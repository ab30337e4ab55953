"""Find the planner's settings that return most within a budget of episodes, and confirm them on held-out seeds."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.deployment import Deployment, measure_latency
from vgp_lightning.agent.environments import check_seed
from vgp_lightning.agent.episodes import play
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.evaluation.comparison import say_difference
from vgp_lightning.evaluation.evaluation import evaluate_agent
from vgp_lightning.evaluation.scores import choose_reference
from vgp_lightning.export.folder import update_defaults
from vgp_lightning.report.figures import figure_to_image
from vgp_lightning.report.files import write_report
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
    trust_environment: bool = False,
    environments: int | None = None,
    write: bool = True,
    device: str = "auto",
) -> dict[str, Any]:
    """Find the settings that return most by successive halving, and write them into the folder as its defaults.

    Configurations are drawn from the space of settings; the folder's defaults are one of them. In each rung all
    remaining configurations play the same new seeds, and the third with the highest mean return over all seeds so far
    goes on (Jamieson & Talwalkar 2016; Karnin et al. 2013). Each rung gets an equal share of the remaining episodes:
    many configurations play few episodes each, few configurations play many. With 300 episodes, 27 configurations play
    3 each, then 9 play 12 more and 3 another 37. The winner and the defaults then play held-out seeds, which had no
    part in the choice: only these returns are reported as a result.

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
        trust_environment: Make the environment that the folder specifies even if it is not the one that gymnasium or
            gymnasium-robotics registers under its id. This runs whatever code the folder names.
        environments: Environments that are played in at the same time; by default as many as episodes of one
            configuration, but at most 16. No random number depends on it.
        write: Write the winner into the folder as its defaults, if it returns more than they do on the held-out seeds,
            or if they take longer than ``latency_ms``.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.

    Returns:
        What tuning.json holds.

    Raises:
        ValueError: If the folder is not a planner's, cannot be written, or does not fit the environment, a setting is
            wrong, the budget is too small, or no configuration keeps to ``latency_ms``.
    """
    start = time.perf_counter()
    check_budget(configurations, holdout_episodes, latency_ms)
    check_seed(seed)
    deployed = Deployment(pipeline_folder, env_id, device, trust_environment)
    folder = deployed.folder
    if write and not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is not writable: make it so, or leave it unchanged with --write false")
    lists = choose_space(deployed.pipeline, space)
    drawn = _draw(deployed, lists, configurations, seed)
    longest = max(holdout_episodes, plan_rungs(len(drawn), episodes)[-1][1])

    output = Path(output_dir) if output_dir is not None else Path("runs", "tune", folder.resolve().name)
    asked = {"seed": seed, "space": lists, "latency_ms": latency_ms, "episodes": episodes}
    held_out = range(seed + episodes, seed + episodes + holdout_episodes)
    with deployed.environments(min(16, longest) if environments is None else environments) as vector:
        search = Search(deployed, vector, drawn, output, asked, start)
        quick = search.leave_out_slow()
        with SummaryWriter(str(output)) as writer:
            winner = search.halve(quick, writer)
            search.confirm(winner, held_out, writer)
    if write:
        search.write_winner(winner)
    print_summary(search.report, output)
    return search.report


def _draw(deployed: Deployment, space: dict[str, list[Any]], count: int, seed: int) -> list[Configuration]:
    """Return the folder's defaults and configurations that are drawn from the space."""
    try:
        settings = draw_configurations(deployed.pipeline, space, count, seed)
    except ValueError as error:
        raise ValueError(f"{deployed.folder} cannot plan with all settings of the space: {error}") from error
    if len(settings) == 1:
        raise ValueError(f"the space {space} holds only the folder's defaults: give more values with --space")
    return [Configuration(one) for one in settings]


# ---------------------------------------------------------------- the search


class Search:
    """A search under way. Its state is its report, which is written after each rung.

    Attributes:
        report: What tuning.json holds.
    """

    def __init__(
        self,
        deployed: Deployment,
        environments: VectorEnv,
        configurations: Sequence[Configuration],
        output: Path,
        asked: Mapping[str, Any],
        start: float,
    ) -> None:
        """Begin a search, and remove an earlier one's picture from the output folder.

        Args:
            deployed: The planner.
            environments: Where it plays.
            configurations: Those to choose from; the first has the folder's defaults.
            output: Folder of the report.
            asked: ``seed``, ``space``, ``latency_ms`` and ``episodes``, as ``tune`` was given them.
            start: ``time.perf_counter()`` when the search began.
        """
        self._deployed = deployed
        self._environments = environments
        self._configurations = configurations
        self._output = output
        self._start = start
        output.mkdir(parents=True, exist_ok=True)
        (output / "tuning.png").unlink(missing_ok=True)
        self.report: dict[str, Any] = {
            "env_id": deployed.env_id,
            **deployed.describe(environments),
            "environments": environments.num_envs,
            **asked,
            "default_settings": configurations[0].settings,
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

    def _save(self) -> None:
        self.report["configurations"] = [one.to_json(self.report["rungs"]) for one in self._configurations]
        self.report["seconds"] = time.perf_counter() - self._start
        write_report(self.report, self._output / "tuning.json")

    def leave_out_slow(self) -> list[Configuration]:
        """Return the configurations whose planning call is within the latency budget; all, unmeasured, without one.

        Raises:
            ValueError: If none is.
        """
        limit = self.report["latency_ms"]
        if limit is not None:
            for one in self._configurations:
                one.plan_ms = measure_latency(self._deployed.pipeline, **one.settings)
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
        self._save()
        return quick

    def halve(self, left: list[Configuration], writer: SummaryWriter) -> Configuration:
        """Play the rungs of successive halving, and return the winner."""
        report, default = self.report, self._configurations[0]
        seed = report["seed"]
        for rung, (size, each) in enumerate(plan_rungs(len(left), report["episodes"]), start=1):
            seeds = list(range(seed, seed := seed + each))
            for i, one in enumerate(left, start=1):
                agent, description = self._agent(one), f"rung {rung}, configuration {i} of {size}"
                played = play(agent, self._environments, seeds, description=description)
                one.returns.append([episode.total_reward for episode in played.episodes])
            left = rank(left)
            report["rungs"].append({"configurations": size, "seeds": seeds})
            report["episodes_played"] += size * each
            best = left[0].means[-1]
            writer.add_scalar("tune/return_mean_best", best, report["episodes_played"])
            if default.dropped is None:
                writer.add_scalar("tune/return_mean_default", default.means[-1], report["episodes_played"])
            plural = "" if each == 1 else "s"
            news = f"{size} configurations, {each} new episode{plural} each; the best mean is {best:.1f}"
            Console().print(f"rung {rung}: {news}", highlight=False, soft_wrap=True)
            left = drop_worst(left, rung)
            self._save()
        (winner,) = left
        report["winner"] = self._configurations.index(winner)
        report["winner_settings"] = winner.settings
        return winner

    def confirm(self, winner: Configuration, seeds: Sequence[int], writer: SummaryWriter) -> None:
        """Time the defaults and the winner, compare them on held-out seeds, and log and draw the search."""
        contenders = {"default": self._configurations[0], "winner": winner}
        for one in contenders.values():
            if one.plan_ms is None:
                one.plan_ms = measure_latency(self._deployed.pipeline, **one.settings)
        self.report["holdout"] = self._hold_out(contenders, seeds)
        self.report["outcome"] = judge(self.report, contenders["default"])
        self._save()
        for name, one in contenders.items():
            if (result := self.report["holdout"][name]) is not None:
                writer.add_scalar(f"tune/holdout_return_mean_{name}", result["return_mean"], 0)
                writer.add_scalar(f"tune/plan_ms_{name}", one.plan_ms, 0)
        self._draw(writer)

    def _hold_out(self, contenders: Mapping[str, Configuration], seeds: Sequence[int]) -> dict[str, Any]:
        """Play the held-out seeds with the defaults and the winner, and compare them seed by seed."""
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
            )
        default, best = (np.array([one["return"] for one in result[name]["episodes"]]) for name in contenders)
        paired = compare_pairs(best - default)
        result["difference"] = asdict(paired) | {
            "told": paired.told,
            "verdict": say_difference(paired, len(seeds), names=("the default", "the winner")),
        }
        return result

    def _agent(self, configuration: Configuration) -> PlanningAgent:
        settings: Any = configuration.settings
        return self._deployed.agent(**settings)

    def _draw(self, writer: SummaryWriter) -> None:
        """Draw the search, unless only one configuration was quick enough."""
        report = self.report
        if not report["rungs"]:
            return
        played = np.cumsum([len(rung["seeds"]) for rung in report["rungs"]]).tolist()
        title = f"{report['env_id']}: {len(self._configurations)} configurations, {report['episodes_played']} episodes"
        picture = plot_halving([one.means for one in self._configurations], played, report["winner"], 0, title)
        picture.savefig(self._output / "tuning.png", dpi=110)
        writer.add_image("tune/halving", figure_to_image(picture), 0, dataformats="HWC")

    def write_winner(self, winner: Configuration) -> None:
        """Write the winner into the folder as its defaults, if the outcome says so."""
        if self.report["outcome"] in _WRITTEN:
            default = self._configurations[0].settings
            changed = {name: value for name, value in winner.settings.items() if value != default[name]}
            update_defaults(self._deployed.folder, changed)
            self.report["written"] = True
        self._save()
