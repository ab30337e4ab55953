"""Diagnose: show why a planner returns what it returns, in numbers and pictures."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium.vector import SyncVectorEnv
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.deployment import describe_run, find_environment, load_pipeline, make_fitting
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.episodes import record
from vgp_lightning.agent.mazes import find_maze
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.diagnostics.findings import Findings, examine, goal_condition
from vgp_lightning.report.figures import figure_to_image
from vgp_lightning.report.files import write_report
from vgp_lightning.report.film import Recorder, gif_summary, write_gif

_PARTS = (
    *("calibration", "ranking", "horizon", "dynamics", "guidance"),
    *("denoising", "denoising_maze", "plans", "rollout"),
)


def diagnose(
    pipeline_folder: str,
    episodes: int = 5,
    output_dir: str | None = None,
    *,
    seed: int = 0,
    env_id: str | None = None,
    settings: dict[str, Any] | None = None,
    starts: int = 8,
    reach_goal: bool = False,
    video: bool = True,
    device: str = "auto",
) -> dict[str, Any]:
    """Let an exported planner act, and write diagnostics.json, pictures and TensorBoard events of why it does so well.

    Successive steps of an episode are much alike: a correlation over thousands of steps of few episodes says no more
    than those few episodes do. So their number stands beside it.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        episodes: Episodes to play, one for each of the seeds from ``seed`` on.
        output_dir: Where the results go; by default runs/diagnose/ and the folder's name.
        seed: First seed of the environment and of the planner's noise.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        settings: Planner settings that take the place of the folder's, such as ``--settings.scale 0.3``.
        starts: Plans of each episode, evenly spread, that are executed to their end and sampled anew.
        reach_goal: In a maze, let every plan end at the goal.
        video: Draw the first episode as rollout.gif.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.

    Returns:
        What diagnostics.json holds.

    Raises:
        ValueError: If the folder is no planner, does not fit the environment, or a setting is wrong.
    """
    start = time.perf_counter()
    for name, value in (("episodes", episodes), ("starts", starts)):
        if value < 1:
            raise ValueError(f"{name} is {value}: at least 1 is needed")
    folder = Path(pipeline_folder)
    pipeline = load_pipeline(folder, device)
    spec = find_environment(pipeline, env_id, folder)
    name = spec if isinstance(spec, str) else spec.id
    output = Path(output_dir) if output_dir is not None else Path("runs", "diagnose", folder.resolve().name)
    with ExitStack() as stack:
        environments = make_fitting(spec, min(episodes, 16), pipeline, folder, video)
        stack.callback(environments.close)
        single = cast(SyncVectorEnv, environments).envs[0]
        maze = find_maze(single)
        if reach_goal and maze is None:
            raise ValueError(f"reach_goal is for mazes, which {name} is not: leave it away")
        conditions = goal_condition(maze) if reach_goal and maze is not None else None
        try:
            resolved = pipeline.resolve_settings(**settings or {})
            agent = PlanningAgent(pipeline, conditions=conditions, **settings or {})
        except ValueError as error:
            raise ValueError(f"{folder} cannot plan so: {error}") from error
        if resolved["planning_horizon"] < 2:
            raise ValueError(f"planning_horizon is {resolved['planning_horizon']}: a diagnosis needs 2 steps or more")
        output.mkdir(parents=True, exist_ok=True)  # which fails now rather than when all is played
        recorder = Recorder(single)
        seeds = range(seed, seed + episodes)
        recordings = record(agent, environments, seeds, description=f"Playing {name}", recorder=recorder)
        replays = make_environments(spec, 1)
        stack.callback(replays.close)
        findings = examine(pipeline, recordings, replays, resolved, starts, conditions, maze)
        described = describe_run(folder, pipeline, single)
    if video and recorder.frames:
        findings.films["rollout"] = (recorder.frames, recorder.fps)
    report = {
        **findings.numbers,
        "missing": findings.missing,
        "episodes": [
            {
                "seed": recording.seed,
                "return": float(recording.rewards.sum()),
                "length": recording.length,
                "terminated": recording.terminated,
                "plans": len(recording.plans),
            }
            for recording in recordings
        ],
        "return_mean": float(np.mean([recording.rewards.sum() for recording in recordings])),
        "settings": resolved,
        "reach_goal": reach_goal,
        "env_id": name,
        **described,
        "seed": seed,
        "starts": starts,
        "pictures": [*(f"{part}.png" for part in findings.figures), *(f"{part}.gif" for part in findings.films)],
        "video_error": recorder.error if video else None,
        "seconds": time.perf_counter() - start,
    }
    _write(report, findings, output)
    _print(report, output)
    return report


# ---------------------------------------------------------------- what is written


def _write(report: dict[str, Any], findings: Findings, output: Path) -> None:
    """Write the JSON, the pictures and the TensorBoard events."""
    for path in (output / f"{part}.{kind}" for part in _PARTS for kind in ("png", "gif")):
        path.unlink(missing_ok=True)  # an earlier diagnosis'
    with SummaryWriter(str(output)) as writer:
        for name, number in _scalars(report).items():
            if number is not None:
                writer.add_scalar(f"diagnose/{name}", number, 0)
        for name, figure in findings.figures.items():
            image = figure_to_image(figure)
            Image.fromarray(image).save(output / f"{name}.png")
            writer.add_image(f"diagnose/{name}", image, 0, dataformats="HWC")
        for name, (frames, fps) in findings.films.items():
            write_gif(frames, output / f"{name}.gif", fps)
            writer._get_file_writer().add_summary(gif_summary(f"diagnose/{name}_film", frames, fps), 0)
    write_report(report, output / "diagnostics.json")


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
    """Return which returns the main numbers are of: those that were seen to their end, or all where there are none."""
    return "complete" if report["calibration"] and report["calibration"]["complete"] else "all"


_MEANINGS = {
    "return_mean": "return, mean of the episodes",
    "rank_correlation": "of promised and realised returns: 1: the better plan is known as such; 0: chance",
    "bias": "promised less realised return: above 0, too much is promised",
    "slope": "realised over promised: 1: differences are as large as promised; 0: the promise says nothing",
    "rank_correlation_clean": "of executed windows, clean: what choosing between candidates can rely on",
    "rank_correlation_noisy": "of executed windows, noisiest: what guidance can rely on when it begins",
    "one_step_error": "of a plan, as a share of the change: 0: plans obey the physics; 1: as good as no change",
    "foretold_replanned": "share of the steps ahead that plans foretell better than standing still would",
    "foretold_own_actions": "the same, where a plan's own actions are executed to its end",
    "guidance_gain": "in predicted return, by guidance, from the same noise",
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
    table.add_row("episodes", str(len(report["episodes"])), "successive steps are alike: few episodes say little")
    if calibration is not None:
        seen = calibration["complete"]["count"] if calibration["complete"] else 0
        meaning = "of their returns were seen to the end, and stand above; of the others the time limit cut the rest"
        if seen == 0:
            meaning = "of their returns were seen to the end: the time limit cut them all, so promises look too high"
        table.add_row("plans", f"{seen} of {calibration['all']['count']}", meaning)
    console = Console()
    console.print(table)
    console.print(f"Results: {output}", markup=False, soft_wrap=True)
    for name, reason in report["missing"].items():
        console.print(f"No {name.replace('_', ' ')}: {reason}", markup=False, soft_wrap=True)
    if report["video_error"] is not None:
        console.print(f"No video: {report['video_error']}", markup=False, soft_wrap=True)
