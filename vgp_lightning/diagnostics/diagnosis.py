"""Diagnose: show why a planner returns what it returns, in numbers and pictures."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from gymnasium.vector import VectorEnv
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.deployment import FIRST_SEED, Deployment, first_of
from vgp_lightning.agent.environments import check_seed
from vgp_lightning.agent.episodes import Episode, Failure
from vgp_lightning.agent.mazes import Maze, end_at_goal, find_maze
from vgp_lightning.agent.planning import Conditions
from vgp_lightning.agent.playing import Film, Keeping, find_film_error, list_items, play, say_played
from vgp_lightning.agent.store import EpisodeStore
from vgp_lightning.diagnostics.candidates import sample_candidates
from vgp_lightning.diagnostics.denoising import draw_denoising, draw_maze
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.diagnostics.guidance import examine_guidance
from vgp_lightning.diagnostics.plans import choose_plans, examine_plans, plan_places
from vgp_lightning.diagnostics.values import examine_values
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.figures import figure_to_image
from vgp_lightning.report.files import write_report
from vgp_lightning.report.film import Recorder, log_gif, write_film, write_gif
from vgp_lightning.report.folders import naming, prepare

_PARTS = (
    *("calibration", "ranking", "horizon", "dynamics", "guidance"),
    *("denoising", "denoising_maze", "plans", "rollout"),
)


def diagnose(
    pipeline_folder: str,
    episodes: int = 5,
    output_dir: str | None = None,
    *,
    seed: int = FIRST_SEED,
    env_id: str | None = None,
    trust_environment: bool = False,
    max_episode_steps: int | None = None,
    starts: int = 8,
    reach_goal: bool = False,
    video: bool = True,
    again: bool = False,
    device: str = "auto",
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Play episodes with an exported planner, and write numbers and pictures that explain its returns.

    The results are diagnostics.json, pictures and TensorBoard events. Successive steps of an episode are correlated: a
    correlation over thousands of steps of few episodes is worth only that many episodes. So the number of episodes is
    reported beside it. Finished episodes are kept in ``episodes`` of the output folder: after an interruption the same
    command goes on, and several processes with the same command and output folder share the episodes.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        episodes: Episodes to play, one for each of the seeds from ``seed`` on.
        output_dir: Where the results go; by default runs/diagnose/ and the folder's name.
        seed: First seed of the environment and of the planner's noise; the default is far from the seeds of collected
            episodes.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        trust_environment: Make the environment that the folder specifies even if it is not the one that gymnasium or
            gymnasium-robotics registers under its id. This runs whatever code the folder names.
        max_episode_steps: Time limit of an episode; by default the environment's own.
        starts: Plans of each episode, evenly spaced, that are executed to their end and sampled anew.
        reach_goal: In a maze, let every plan end at the goal.
        video: Draw the first episode as rollout.gif.
        again: Play episodes anew that are kept in the output folder, and measure anew.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.
        settings: Those in place of the folder's.

    Returns:
        What diagnostics.json holds.

    Raises:
        ValueError: If the folder is not a planner's, does not fit the environment, a setting is wrong, all episodes
            fail, or another diagnosis is running in the output folder.
        OSError: If the output folder cannot be written.
    """
    start = time.perf_counter()
    for name, value in (("episodes", episodes), ("starts", starts)):
        if value < 1:
            raise ValueError(f"{name} is {value}: at least 1 is needed")
    check_seed(seed)
    deployed = Deployment(pipeline_folder, env_id, device, trust_environment)
    output = Path(output_dir) if output_dir is not None else Path("runs", "diagnose", deployed.folder.resolve().name)
    with (
        deployed.environments(min(episodes, 16), video, max_episode_steps) as environments,
        deployed.environments(1, max_episode_steps=max_episode_steps) as replays,
    ):
        maze = find_maze(first_of(environments))
        if reach_goal and maze is None:
            raise ValueError(f"reach_goal is for mazes, and {deployed.env_id} is none: leave it out")
        conditions = end_at_goal(maze) if reach_goal and maze is not None else None
        agent = deployed.agent(conditions, **settings)
        resolved = deployed.pipeline.resolve_settings(**settings)
        if resolved["planning_horizon"] < 2:
            raise ValueError(f"planning_horizon is {resolved['planning_horizon']}: a diagnosis needs at least 2 steps")
        prepare(output)
        asked = {"settings": dict(resolved), "reach_goal": reach_goal, "seed": seed}
        identity = {"verb": "diagnose", **deployed.identify(environments), **asked}
        with EpisodeStore(output / "episodes", identity, again=again) as store:
            items = list_items(range(seed, seed + episodes))
            say_played(store, sum(item in store.finished for item in items), episodes)
            gif = output / "episodes" / f"{store.key}.gif"

            def film(recorder: Recorder) -> dict[str, Any]:
                return {"video": video, "error": write_film(recorder, gif)}

            played = play(
                agent,
                environments,
                [item[1] for item in items],
                store=store,
                keeping=Keeping(steps=True, plans=True),
                description=f"Playing {deployed.env_id}",
                film=Film(items[0], film),
            )
            if not played.episodes:
                first = played.failures[0]
                raise ValueError(f"none of {episodes} episodes could be played to its end. The first: {first}")
            asked |= {"episodes": episodes, "starts": starts, "video": video, "pipeline": str(pipeline_folder)}
            name = f"report {json.dumps(asked, sort_keys=True)}"
            with store.exclusively():
                known: dict[str, Any] | None = store.known(name)
                report = known
                if report is None or not _is_written(report, output):
                    findings = examine(deployed.pipeline, played.episodes, replays, resolved, starts, conditions, maze)
                    filmed = played.records[0].get("film")
                    video_error = find_film_error(filmed) if video else None
                    if video and video_error is None:
                        findings.copies["rollout"] = gif
                    report = known or {
                        **findings.numbers,
                        "missing": findings.missing,
                        "episodes": [_to_json(episode) for episode in played.episodes],
                        "failed_episodes": [asdict(failure) for failure in played.failures],
                        "return_mean": float(np.mean([episode.total_reward for episode in played.episodes])),
                        "settings": dict(resolved),
                        "reach_goal": reach_goal,
                        "env_id": deployed.env_id,
                        **deployed.describe(environments),
                        "seed": seed,
                        "starts": starts,
                        "pictures": findings.pictures,
                        "video_error": video_error,
                        "seconds": time.perf_counter() - start,
                    }
                    made = report
                    report = _write(store.fact(name, lambda: made), findings, output)
    _print(report, output)
    return report


def examine(
    pipeline: ValueGuidedPlannerPipeline,
    episodes: Sequence[Episode],
    replays: VectorEnv,
    settings: Settings,
    starts: int,
    conditions: Conditions | None,
    maze: Maze | None,
) -> Findings:
    """Measure and draw all parts.

    Args:
        pipeline: The planner.
        episodes: Episodes that it has played, with its plans.
        replays: A single environment to execute plans in.
        settings: All settings of the planner.
        starts: Plans of each episode that are executed to their end and sampled anew.
        conditions: What the plans pass through.
        maze: The maze of the environment; None: it has none.
    """
    findings = Findings()
    examine_values(findings, pipeline, episodes, settings["planning_horizon"])
    chosen = choose_plans(episodes, starts)
    examine_plans(findings, pipeline, episodes, replays, chosen)
    places = plan_places(chosen)
    standing = np.stack([episode.observations[step] for episode, step in places])
    guided = sample_candidates(pipeline, standing, conditions, **settings)
    if pipeline.value_function is None:
        findings.miss("guidance", "the folder has no value function: export with --value")
    elif settings["n_guide_steps"] == 0:
        findings.miss("guidance", "n_guide_steps is 0: set it, such as --n_guide_steps 2")
    else:
        # A scale of 0 and not 0 guide steps: without guide steps UniPC applies its corrector and samples differently.
        idle: Settings = {**settings, "scale": 0.0}
        unguided = sample_candidates(pipeline, standing, conditions, **idle)
        examine_guidance(findings, pipeline, unguided, guided, replays, places)
    draw_denoising(findings, pipeline, guided)
    if maze is not None:
        draw_maze(findings, pipeline, guided, standing, maze)
    return findings


def _to_json(episode: Episode) -> dict[str, Any]:
    """Return the episode as it stands in ``diagnostics.json``."""
    return {
        "seed": episode.seed,
        "return": episode.total_reward,
        "length": episode.length,
        "terminated": episode.terminated,
        "plans": len(episode.plans),
    }


# ---------------------------------------------------------------- output


def _is_written(report: dict[str, Any], output: Path) -> bool:
    """Return whether a report and all its pictures are in the output folder."""
    path = output / "diagnostics.json"
    same = path.is_file() and path.read_text() == json.dumps(report, indent=2) + "\n"
    return same and all((output / name).is_file() for name in report["pictures"])


def _write(report: dict[str, Any], findings: Findings, output: Path) -> dict[str, Any]:
    """Write the pictures, the JSON and the TensorBoard events, and return the report.

    At any moment the JSON names the pictures that are there: it is removed before they change.
    """
    path = output / "diagnostics.json"
    path.unlink(missing_ok=True)
    for picture in (output / f"{part}.{kind}" for part in _PARTS for kind in ("png", "gif")):
        picture.unlink(missing_ok=True)  # of an earlier diagnosis
    errors = {}
    for name in findings.pictures:
        try:
            with naming(output / name):
                _draw(findings, output / name)
        except Exception as error:  # the numbers are worth more than a picture, whatever is wrong with it
            (output / name).unlink(missing_ok=True)
            errors[name] = f"{name} cannot be written: {type(error).__name__}: {error}"
    if errors:
        there = [name for name in report["pictures"] if name not in errors]
        report = report | {"pictures": there, "video_error": "; ".join(errors.values())}
    with naming(path):
        write_report(report, path)
    with naming(output), SummaryWriter(str(output)) as writer:
        for name, number in _scalars(report).items():
            if number is not None:
                writer.add_scalar(f"diagnose/{name}", number, 0)
        for name in report["pictures"]:
            part, _, kind = name.partition(".")
            if kind == "gif":
                log_gif(output, f"diagnose/{part}_film", output / name)
            else:
                image = figure_to_image(findings.figures[part])
                writer.add_image(f"diagnose/{part}", image, 0, dataformats="HWC")
    return report


def _draw(findings: Findings, path: Path) -> None:
    """Write one picture."""
    if path.stem in findings.copies and path.suffix == ".gif":
        shutil.copyfile(findings.copies[path.stem], path)
    elif path.suffix == ".gif":
        frames, fps = findings.films[path.stem]
        write_gif(frames, path, fps)
    else:
        Image.fromarray(figure_to_image(findings.figures[path.stem])).save(path)


def _scalars(report: dict[str, Any]) -> dict[str, float | None]:
    """Return the main numbers by their names in TensorBoard."""
    calibration, ranking, guidance, own = (
        report[name] for name in ("calibration", "ranking", "guidance", "own_actions")
    )
    kind = _kind(report)
    best = calibration and calibration[kind]
    return {
        "return_mean": report["return_mean"],
        "rank_correlation": best and best["spearman"],
        "bias": best and best["bias"],
        "slope": best and best["slope"],
        "rank_correlation_clean": ranking and ranking[0][kind],
        "rank_correlation_noisy": ranking and ranking[-1][kind],
        "one_step_error": report["dynamics"]["mean"],
        "foretold_replanned": report["horizon"]["foretold"],
        "foretold_own_actions": own and own["foretold"],
        "guidance_gain": guidance and guidance["gain_mean"],
        "guidance_moved": guidance and guidance["moved"],
    }


def _kind(report: dict[str, Any]) -> str:
    """Return which returns the main numbers are about: the complete ones, or all where none is complete."""
    return "complete" if report["calibration"] and report["calibration"]["complete"] else "all"


_MEANINGS = {
    "return_mean": "mean return of the episodes",
    "rank_correlation": "predicted and realised returns; 1: plans are ranked correctly; 0: chance",
    "bias": "predicted minus realised return; above 0: too optimistic",
    "slope": "of realised over predicted return; 1: differences are as large as predicted; 0: unrelated",
    "rank_correlation_clean": "of clean executed windows: what best-of-K selection relies on",
    "rank_correlation_noisy": "of the noisiest executed windows: what guidance relies on at its first step",
    "one_step_error": "of plans, as a share of the change; 0: as the simulator; 1: as expecting no change",
    "foretold_replanned": "share of the steps ahead at which plans predict better than expecting no change",
    "foretold_own_actions": "the same, if a plan's own actions are executed to its end",
    "guidance_gain": "in predicted return, from the same noise",
    "guidance_moved": "distance by which guidance moves plans, in normalised units",
}


def _print(report: dict[str, Any], output: Path) -> None:
    """Print the main numbers with what they mean."""
    table = Table(title=f"{report['pipeline']} in {report['env_id']}", title_justify="left")
    for heading in ("number", "value", "what it means"):
        table.add_column(heading, justify="right" if heading == "value" else "left", no_wrap=heading != "what it means")
    for name, number in _scalars(report).items():
        if number is not None:
            shown = f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
            table.add_row(name.replace("_", " "), shown, _MEANINGS[name])
    calibration = report["calibration"]
    table.add_row("episodes", str(len(report["episodes"])), "successive steps are correlated: few episodes say little")
    if calibration is not None:
        complete = calibration["complete"]["count"] if calibration["complete"] else 0
        meaning = "have complete returns, which the numbers above are about; the time limit truncated the others"
        if complete == 0:
            meaning = "have complete returns: the time limit truncated all, so predictions look too high"
        table.add_row("plans", f"{complete} of {calibration['all']['count']}", meaning)
    console = Console(markup=False)
    console.print(table)
    console.print(f"Results: {output}", markup=False, soft_wrap=True)
    for failure in report["failed_episodes"]:
        console.print(f"Failed, and not in the numbers: {Failure(**failure)}", markup=False, soft_wrap=True)
    for name, reason in report["missing"].items():
        console.print(f"No {name.replace('_', ' ')}: {reason}", markup=False, soft_wrap=True)
    if report["video_error"] is not None:
        console.print(f"No video: {report['video_error']}", markup=False, soft_wrap=True)
