"""Evaluate: play one episode per seed, and report returns with confidence intervals.

Shapes: N environments, O observation and A action dimensions, both flat, in the environment's units.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.deployment import FIRST_SEED, Deployment, first_of
from vgp_lightning.agent.environments import Agent, check_seed
from vgp_lightning.agent.episodes import Episode, play
from vgp_lightning.evaluation.scores import Reference, choose_reference, normalized_score
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.figures import figure_to_image, plot_episode
from vgp_lightning.report.files import write_report
from vgp_lightning.report.film import Recorder, log_gif, write_gif
from vgp_lightning.report.statistics import summarize, wilson_interval


def evaluate_agent(
    agent: Agent,
    environments: VectorEnv,
    seeds: Sequence[int],
    *,
    agent_seeds: Sequence[int] | None = None,
    replan_every: int = 1,
    reference: Reference | None = None,
    description: str = "Playing",
    recorder: Recorder | None = None,
) -> dict[str, Any]:
    """Play one episode per seed and return their statistics, as ``evaluation.json`` holds them.

    Args:
        agent: What acts.
        environments: From ``make_environments``.
        seeds: Seeds of the environment, one for each episode.
        agent_seeds: Seeds of the agent, as many; by default the same.
        replan_every: The agent's replanning interval, which decides which of its calls count as planning; 0: it plans
            once an episode.
        reference: The reference of the normalised score.
        description: Text of the progress bar.
        recorder: Records the first episode, if given.
    """
    played = play(agent, environments, seeds, agent_seeds=agent_seeds, description=description, recorder=recorder)
    summary = summarize([episode.total_reward for episode in played.episodes])
    score, score_interval = None, None
    if reference is not None:
        score = normalized_score(summary.mean, reference)
        score_interval = summary.ci95 and [normalized_score(end, reference) for end in summary.ci95]
    successes = [episode.success for episode in played.episodes if episode.success is not None]
    # A call plans if at least one environment needs a new plan.
    calls = zip(played.act_seconds, played.ages, strict=True)
    planned = [seconds for seconds, ages in calls if (ages % (replan_every or np.inf) == 0).any()]
    return {
        **{f"return_{name}": value for name, value in asdict(summary).items()},
        "normalized_score": score,
        "normalized_score_ci95": score_interval,
        "reference": None if reference is None else asdict(reference),
        "success_rate": float(np.mean(successes)) if successes else None,
        "success_rate_ci95": wilson_interval(sum(successes), len(successes)) if successes else None,
        "length_mean": float(np.mean([episode.length for episode in played.episodes])),
        "terminated_share": float(np.mean([episode.terminated for episode in played.episodes])),
        "plan_ms": 1000 * float(np.mean(planned)),
        "act_ms": 1000 * float(np.mean(played.act_seconds)),
        "episodes": [_to_json(episode, reference) for episode in played.episodes],
    }


def _to_json(episode: Episode, reference: Reference | None) -> dict[str, Any]:
    """Return the episode as it stands in ``evaluation.json``."""
    return {
        "seed": episode.seed,
        "sampler_seed": episode.agent_seed,
        "return": episode.total_reward,
        "length": episode.length,
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "success": episode.success,
        "normalized_score": None if reference is None else normalized_score(episode.total_reward, reference),
    }


# ---------------------------------------------------------------- a pipeline folder


def evaluate(
    pipeline_folder: str,
    episodes: int = 20,
    output_dir: str | None = None,
    *,
    seed: int = FIRST_SEED,
    sampler_seed: int | None = None,
    env_id: str | None = None,
    trust_environment: bool = False,
    environments: int | None = None,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
    video: bool = True,
    device: str = "auto",
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Play episodes with an exported planner, and report their returns.

    The results are evaluation.json, TensorBoard scalars and a video of the first episode.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        episodes: Episodes to play, one for each of the seeds from ``seed`` on.
        output_dir: Where the results go; by default runs/evaluate/ and the folder's name.
        seed: First seed of the environment; the default is far from the seeds of collected episodes.
        sampler_seed: First seed of the planner's noise; by default the environment's.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        trust_environment: Make the environment that the folder specifies even if it is not the one that gymnasium or
            gymnasium-robotics registers under its id. This runs whatever code the folder names.
        environments: Environments that are played in at the same time and planned for in one batch; by default as many
            as episodes, but at most 16. No random number depends on it.
        ref_min_score: Return that scores 0; by default the dataset's, else D4RL's for this family of environments.
        ref_max_score: Return that scores 100.
        video: Draw the first episode as rollout.gif.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.
        settings: Those in place of the folder's.

    Returns:
        What evaluation.json holds.

    Raises:
        ValueError: If the folder is not a planner's, does not fit the environment, or a setting is wrong.
    """
    start = time.perf_counter()
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}: at least 1 is needed")
    check_seed(seed)
    check_seed(0 if sampler_seed is None else sampler_seed, "sampler_seed")
    deployed = Deployment(pipeline_folder, env_id, device, trust_environment)
    agent = deployed.agent(**settings)
    reference = choose_reference(deployed.env_id, deployed.pipeline.task, ref_min_score, ref_max_score)
    count = min(episodes, 16) if environments is None else environments
    sampler_seed = seed if sampler_seed is None else sampler_seed
    with deployed.environments(count, video) as vector:
        recorder = Recorder(first_of(vector))
        report = evaluate_agent(
            agent,
            vector,
            range(seed, seed + episodes),
            agent_seeds=range(sampler_seed, sampler_seed + episodes),
            replan_every=agent.replan_every,
            reference=reference,
            description=f"Playing {deployed.env_id}",
            recorder=recorder,
        )
        report |= {
            "environments": count,
            "settings": deployed.pipeline.resolve_settings(**settings),
            "env_id": deployed.env_id,
            **deployed.describe(vector),
            "seed": seed,
            "sampler_seed": sampler_seed,
            "video": "rollout.gif" if video and recorder.frames else None,
            "video_error": recorder.error if video else None,
            "seconds": time.perf_counter() - start,
        }
    output = Path(output_dir) if output_dir is not None else Path("runs", "evaluate", deployed.folder.resolve().name)
    _write(report, recorder, output)
    _print(report, output)
    return report


def _write(report: dict[str, Any], recorder: Recorder, output: Path) -> None:
    """Write the JSON, the pictures and the TensorBoard events."""
    output.mkdir(parents=True, exist_ok=True)
    gif = output / "rollout.gif"
    for earlier in (gif, output / "rollout.png"):  # a link as well, so that its target is not written
        earlier.unlink(missing_ok=True)
    picture = plot_episode(recorder.actions, recorder.observations, f"{report['env_id']}, seed {report['seed']}")
    picture.savefig(output / "rollout.png")
    with SummaryWriter(str(output)) as writer:
        for tag, key in {
            "eval/return_mean": "return_mean",
            "eval/return_iqm": "return_iqm",
            "eval/normalized_score": "normalized_score",
            "eval/success_rate": "success_rate",
            "eval/ep_len_mean": "length_mean",
            "eval/plan_time_ms": "plan_ms",
        }.items():
            if report[key] is not None:
                writer.add_scalar(tag, report[key], 0)
        writer.add_image("eval/rollout_lines", figure_to_image(picture), 0, dataformats="HWC")
        if report["video"] is not None:
            write_gif(recorder.frames, gif, recorder.fps)
            log_gif(output, "eval/rollout", recorder.frames, recorder.fps)
    write_report(report, output / "evaluation.json")


def _print(report: dict[str, Any], output: Path) -> None:
    """Print the statistics as a table."""
    table = Table(title=f"{report['pipeline']} in {report['env_id']}", show_header=False, title_justify="left")
    table.add_row("return, mean", f"{report['return_mean']:.1f}{_interval(report['return_ci95'])}")
    table.add_row("return, middle half", f"{report['return_iqm']:.1f}{_interval(report['return_iqm_ci95'])}")
    table.add_row("return, median", f"{report['return_median']:.1f}{_interval(report['return_median_ci95'])}")
    if report["reference"] is not None:
        score = f"{report['normalized_score']:.1f}{_interval(report['normalized_score_ci95'])}"
        table.add_row("normalised score", f"{score}; {report['reference']['name']}")
    if report["success_rate"] is not None:
        table.add_row("success", f"{report['success_rate']:.0%}{_interval(report['success_rate_ci95'], '.0%')}")
    table.add_row("episodes", f"{len(report['episodes'])}, from seed {report['seed']} on")
    table.add_row("length, mean", f"{report['length_mean']:.0f} ({report['terminated_share']:.0%} terminated)")
    table.add_row("planning", f"{report['plan_ms']:.1f} ms a call for {report['environments']} environments")
    table.add_row("results", str(output))
    console = Console(markup=False)
    console.print(table)
    if report["video_error"] is not None:
        console.print(f"No video: {report['video_error']}", markup=False, soft_wrap=True)


def _interval(ends: list[float] | None, form: str = ".1f") -> str:
    """Return the interval as text, or nothing if there is none."""
    return "" if ends is None else f" (95 %: {ends[0]:{form}} to {ends[1]:{form}})"
