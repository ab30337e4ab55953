"""Find the planner's settings that return most within a budget of episodes, and confirm them on other seeds."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.deployment import describe_run, find_environment, load_pipeline, make_fitting
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.evaluation.comparison import say_difference
from vgp_lightning.evaluation.evaluation import evaluate_agent, play
from vgp_lightning.evaluation.scores import choose_reference
from vgp_lightning.export.folder import update_defaults
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.figures import figure_to_image, plot_halving
from vgp_lightning.report.files import write_report
from vgp_lightning.report.statistics import compare_pairs
from vgp_lightning.tuning.halving import Configuration, drop_worst, plan_rungs
from vgp_lightning.tuning.space import choose_space, draw_configurations

FIRST_SEED = 10_000  # far from the seeds that vgp evaluate plays if it is not told others
_LATENCY_WARM_UP, _LATENCY_CALLS = 2, 7

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
    write: bool = True,
    device: str = "auto",
) -> dict[str, Any]:
    """Find the settings that return most by successive halving, and write them into the folder as its defaults.

    Configurations are drawn from the space of settings, the folder's defaults among them. In each rung all that are
    left play the same new seeds, and by their mean return over all seeds so far a third goes on (Jamieson & Talwalkar
    2016; Karnin et al. 2013). Each rung gets an equal share of the episodes that are left: many configurations play a
    few each, few play many. 27 with 300 episodes play 3 each, then 9 play 12 more and 3 another 37. The last one and
    the defaults then play held-out seeds, which had no part in the choice: only what they say is a result.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        episodes: Most episodes of the whole search; those on held-out seeds come on top.
        configurations: How many configurations are drawn, with the folder's defaults.
        output_dir: Where tuning.json, tuning.png and TensorBoard's events go; by default runs/tune/ and the folder's
            name.
        seed: First seed of the search, of environment and planner; the draw of configurations follows from it. The
            held-out seeds begin at this one plus ``episodes``.
        holdout_episodes: Episodes on held-out seeds, of the defaults and of the winner.
        latency_ms: Longest time of one planning call for one observation on this machine, in milliseconds;
            configurations that take longer are left out before any episode is played. None: no limit.
        space: The values to choose from, such as ``{"batch_size": [4, 16], "sampler": ["ddim", "ddpm"]}``, in place of
            the defaults for these settings; any setting of the planner can stand here.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        environments: Environments that are played in at the same time; by default as many as episodes of one
            configuration, but at most 16. No random number depends on it.
        write: Write the winner into the folder as its defaults, if it returns more than they do on the held-out seeds,
            or if they take longer than ``latency_ms``.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.

    Returns:
        What tuning.json holds.

    Raises:
        ValueError: If the folder is no planner, cannot be written, or does not fit the environment, a setting is wrong,
            the budget is too small, or no configuration keeps to ``latency_ms``.
    """
    start = time.perf_counter()
    if configurations < 2:
        raise ValueError(f"configurations is {configurations}: at least 2 are needed, the folder's defaults among them")
    if holdout_episodes < 1:
        raise ValueError(f"holdout_episodes is {holdout_episodes}: at least 1 is needed")
    if latency_ms is not None and not latency_ms > 0:
        raise ValueError(f"latency_ms is {latency_ms}: milliseconds above 0 are needed")
    folder = Path(pipeline_folder)
    pipeline = load_pipeline(folder, device)
    if write and not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written: allow it, or leave it as it is with --write false")
    lists = choose_space(pipeline, space)
    try:
        drawn = [Configuration(settings) for settings in draw_configurations(pipeline, lists, configurations, seed)]
    except ValueError as error:
        raise ValueError(f"{folder} cannot plan with all of the space: {error}") from error
    if len(drawn) == 1:
        raise ValueError(f"the space {lists} holds nothing but the folder's defaults: give more values, as --space")
    default = drawn[0]
    planned = plan_rungs(len(drawn), episodes)

    spec = find_environment(pipeline, env_id, folder)
    name = spec if isinstance(spec, str) else spec.id
    count = min(16, max(holdout_episodes, planned[-1][1])) if environments is None else environments
    vector = make_fitting(spec, count, pipeline, folder, video=False)
    output = Path(output_dir) if output_dir is not None else Path("runs", "tune", folder.resolve().name)
    output.mkdir(parents=True, exist_ok=True)
    (output / "tuning.png").unlink(missing_ok=True)  # an earlier search's
    holdout_seeds = range(seed + episodes, seed + episodes + holdout_episodes)
    report: dict[str, Any] = {
        "env_id": name,
        **describe_run(folder, pipeline, cast(SyncVectorEnv, vector).envs[0]),
        "environments": count,
        "seed": seed,
        "space": lists,
        "default_settings": default.settings,
        "latency_ms": latency_ms,
        "over_latency": 0,
        "episodes": episodes,
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

    def save() -> None:
        report["configurations"] = [one.to_json(report["rungs"]) for one in drawn]
        report["seconds"] = time.perf_counter() - start
        write_report(report, output / "tuning.json")

    try:
        left = list(drawn) if latency_ms is None else _quick_enough(pipeline, drawn, latency_ms)
        report["over_latency"] = len(drawn) - len(left)
        save()
        with SummaryWriter(str(output)) as writer:
            for rung, (size, each) in enumerate(plan_rungs(len(left), episodes), start=1):
                first = seed + sum(len(earlier["seeds"]) for earlier in report["rungs"])
                seeds = list(range(first, first + each))
                _play_rung(pipeline, vector, left, seeds, f"rung {rung}")
                report["rungs"].append({"configurations": size, "seeds": seeds})
                report["episodes_played"] += size * each
                best = left[0]
                _log_rung(writer, report["episodes_played"], best, default)
                plural = "" if each == 1 else "s"
                news = f"{size} configurations, {each} new episode{plural} each; the best mean is {best.means[-1]:.1f}"
                Console().print(f"rung {rung}: {news}", highlight=False, soft_wrap=True)
                left = drop_worst(left, rung)
                save()
            (winner,) = left
            report["winner"] = drawn.index(winner)
            report["winner_settings"] = winner.settings
            for one in (default, winner):
                if one.plan_ms is None:
                    one.plan_ms = measure_latency(pipeline, **one.settings)
            report["holdout"] = _hold_out(pipeline, vector, default, winner, holdout_seeds, name)
            report["outcome"] = _judge(report)
            save()
            _draw_search(writer, report, drawn, output)
    finally:
        vector.close()
    if report["outcome"] in ("better", "default too slow") and write:
        update_defaults(folder, {k: v for k, v in winner.settings.items() if v != default.settings[k]})
        report["written"] = True
    save()
    _print(report, output)
    return report


# ---------------------------------------------------------------- the search


def _quick_enough(
    pipeline: ValueGuidedPlannerPipeline, drawn: Sequence[Configuration], latency_ms: float
) -> list[Configuration]:
    """Measure all, and return those within the budget."""
    for one in drawn:
        one.plan_ms = measure_latency(pipeline, **one.settings)
        one.dropped = "latency" if one.plan_ms > latency_ms else None
    if left := [one for one in drawn if one.dropped is None]:
        return left
    quickest = min(drawn, key=lambda one: cast(float, one.plan_ms))
    raise ValueError(
        f"latency_ms is {latency_ms:g}, but none of {len(drawn)} configurations plans in that time here; the quickest "
        f"takes {quickest.plan_ms:.1f} ms: {quickest.settings}. Allow as much, or give quicker ones with --space"
    )


def _play_rung(
    pipeline: ValueGuidedPlannerPipeline,
    environments: VectorEnv,
    left: list[Configuration],
    seeds: Sequence[int],
    rung: str,
) -> None:
    """Let all play the seeds, and put them in the order of their means; of equals the earlier goes first."""
    for i, one in enumerate(left, start=1):
        agent = PlanningAgent(pipeline, **one.settings)
        played = play(agent, environments, seeds, description=f"{rung}, configuration {i} of {len(left)}")
        one.returns.append([episode.episode_return for episode in played.episodes])
    left.sort(key=lambda one: -one.means[-1])


# ---------------------------------------------------------------- what it comes to


def _hold_out(
    pipeline: ValueGuidedPlannerPipeline,
    environments: VectorEnv,
    default: Configuration,
    winner: Configuration,
    seeds: Sequence[int],
    env_id: str,
) -> dict[str, Any]:
    """Let the defaults and the winner play the held-out seeds, and compare them seed by seed."""
    reference = choose_reference(env_id, pipeline.task)
    result: dict[str, Any] = {"seeds": list(seeds), "default": None, "winner": None, "difference": None}
    for name, one in {"default": default, "winner": winner}.items():
        if name == "winner" and winner is default:
            return result
        agent = PlanningAgent(pipeline, **one.settings)
        description = f"held-out seeds, {name}"
        result[name] = evaluate_agent(
            agent, environments, seeds, replan_every=agent.replan_every, reference=reference, description=description
        )
    returns = [np.array([episode["return"] for episode in result[name]["episodes"]]) for name in ("default", "winner")]
    paired = compare_pairs(returns[1] - returns[0])
    result["difference"] = asdict(paired) | {
        "told": paired.told,
        "verdict": say_difference(paired, len(seeds), names=("the default", "the winner")),
    }
    return result


def _judge(report: Mapping[str, Any]) -> str:
    """Return what the winner is worth, in a word or two that tuning.json holds."""
    if report["winner"] == 0:
        return "default won"
    if report["configurations"][0]["dropped"] == "latency":
        return "default too slow"
    default, winner = (report["holdout"][name]["return_mean"] for name in ("default", "winner"))
    return "better" if winner > default else "not better"


def _log_rung(writer: SummaryWriter, played: int, best: Configuration, default: Configuration) -> None:
    """Log the best mean and the defaults', as long as they are in."""
    writer.add_scalar("tune/return_mean_best", best.means[-1], played)
    if default.dropped is None:
        writer.add_scalar("tune/return_mean_default", default.means[-1], played)


def _draw_search(
    writer: SummaryWriter, report: Mapping[str, Any], drawn: Sequence[Configuration], output: Path
) -> None:
    """Draw the search, and log it with what the held-out seeds said."""
    for name in ("default", "winner"):
        if (result := report["holdout"][name]) is not None:
            writer.add_scalar(f"tune/holdout_return_mean_{name}", result["return_mean"], 0)
            writer.add_scalar(f"tune/plan_ms_{name}", drawn[0 if name == "default" else report["winner"]].plan_ms, 0)
    if not report["rungs"]:
        return  # only one was quick enough
    played = np.cumsum([len(rung["seeds"]) for rung in report["rungs"]]).tolist()
    title = f"{report['env_id']}: {len(drawn)} configurations, {report['episodes_played']} episodes"
    picture = plot_halving([one.means for one in drawn], played, report["winner"], 0, title)
    picture.savefig(output / "tuning.png", dpi=110)
    writer.add_image("tune/halving", figure_to_image(picture), 0, dataformats="HWC")


def _print(report: Mapping[str, Any], output: Path) -> None:
    """Print the winner's settings beside the defaults, and what the held-out seeds said."""
    columns = {"default": report["configurations"][0]}
    if report["winner"] != 0:
        columns["winner"] = report["configurations"][report["winner"]]
    table = Table()
    table.add_column("")
    for name in columns:
        table.add_column("default, and winner" if len(columns) == 1 else name)
    for setting in report["default_settings"]:
        values = [_say(column["settings"][setting]) for column in columns.values()]
        if setting in report["space"] or len(set(values)) > 1:
            table.add_row(setting, *(value if value == values[0] else f"[bold]{value}[/]" for value in values))
    table.add_section()
    held_out = [report["holdout"][name] for name in columns]
    seeds = report["holdout"]["seeds"]
    table.add_row("held-out return, mean", *(f"{result['return_mean']:.1f}" for result in held_out))
    if held_out[0]["return_ci95"] is not None:
        table.add_row("95 %", *("{:.1f} to {:.1f}".format(*result["return_ci95"]) for result in held_out))
    table.add_row("planning, one call", *(f"{column['plan_ms']:.1f} ms" for column in columns.values()))
    console = Console()
    console.print(f"{report['pipeline']} in {report['env_id']}", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    slow = "" if report["latency_ms"] is None else f", {report['over_latency']} of them too slow"
    console.print(
        f"{len(report['configurations'])} configurations{slow}; "
        f"{report['episodes_played']} of {report['episodes']} episodes from seed {report['seed']} on; "
        f"held-out seeds {seeds[0]} to {seeds[-1]}",
        highlight=False,
        soft_wrap=True,
    )
    if report["holdout"]["difference"] is not None:
        console.print(report["holdout"]["difference"]["verdict"], markup=False, highlight=False, soft_wrap=True)
    outcome = {
        "default won": "Nothing that was tried returned more than the folder's defaults: ",
        "not better": "On the held-out seeds the winner returns no more: ",
        "default too slow": f"The defaults take longer than {report['latency_ms']} ms: ",
        "better": "On the held-out seeds the winner returns more: ",
    }[report["outcome"]]
    if report["written"]:
        outcome += f"the winner's settings are now the defaults of {report['pipeline']}"
    else:
        outcome += f"{report['pipeline']} stays as it is"
        if report["outcome"] in ("better", "default too slow"):
            outcome += ", for --write is false"
    console.print(f"{outcome}. Results: {output}", markup=False, highlight=False, soft_wrap=True)


def _say(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
