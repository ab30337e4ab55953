"""Evaluate: play one episode per seed, and say what the returns mean and how sure that is.

Shapes: N environments, O observation and A action dimensions, both flat, in physical units.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.deployment import describe_run, find_environment, load_pipeline, make_fitting
from vgp_lightning.agent.planning import Agent, PlanningAgent, rollout
from vgp_lightning.report.figures import figure_to_image, plot_episode
from vgp_lightning.report.files import write_report
from vgp_lightning.report.film import Recorder, gif_summary, write_gif
from vgp_lightning.report.statistics import Reference, choose_reference, normalized_score, summarize, wilson_interval

_SUCCESS = ("success", "is_success")  # what environments call it in their infos

# ---------------------------------------------------------------- playing


@dataclass(frozen=True)
class Episode:
    """One episode that was played to its end."""

    seed: int  # of the environment
    sampler_seed: int  # of the agent
    episode_return: float  # the sum of all rewards, the last step's included
    length: int
    terminated: bool  # by the environment, such as a fall
    truncated: bool  # by the time limit
    success: bool | None  # whether a step reported one; None: the environment reports neither success nor failure

    def to_json(self, reference: Reference | None) -> dict[str, Any]:
        """Return the episode as it stands in ``evaluation.json``."""
        return {
            "seed": self.seed,
            "sampler_seed": self.sampler_seed,
            "return": self.episode_return,
            "length": self.length,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "success": self.success,
            "normalized_score": None if reference is None else normalized_score(self.episode_return, reference),
        }


@dataclass(frozen=True)
class Played:
    """All episodes, in the order of the seeds, and how long the agent took."""

    episodes: list[Episode]
    act_seconds: list[float]  # of each call of the agent
    ages: list[NDArray[np.int64]]  # at each call, the step at which each environment's episode was


def play(
    agent: Agent,
    environments: VectorEnv,
    seeds: Sequence[int],
    *,
    sampler_seeds: Sequence[int] | None = None,
    description: str = "Playing",
    recorder: Recorder | None = None,
) -> Played:
    """Play exactly one episode per seed and return them in the seeds' order; the bar shows on a terminal only."""
    sampler_seeds = seeds if sampler_seeds is None else sampler_seeds
    returns = np.zeros(len(seeds))
    lengths = np.zeros(len(seeds), dtype=np.int64)
    terminated, truncated, success = np.zeros((3, len(seeds)), dtype=bool)
    reports_success = False
    act_seconds: list[float] = []
    ages: list[NDArray[np.int64]] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=len(seeds))
        for step in rollout(agent, environments, seeds, sampler_seeds):
            active = step.episode >= 0
            episode = step.episode[active]
            act_seconds.append(step.seconds)
            ages.append(lengths[episode])
            returns[episode] += step.rewards[active]
            lengths[episode] += 1
            terminated[episode] = step.terminated[active]
            truncated[episode] = step.truncated[active]
            for name in _SUCCESS:
                reported = active & step.infos.get(f"_{name}", False)
                reports_success |= bool(reported.any())
                succeeded = np.asarray(step.infos.get(name, False)).astype(bool) & reported
                success[step.episode[succeeded]] = True
            ended = np.count_nonzero((step.terminated | step.truncated)[active])
            # The first seed is always played in the first environment.
            if recorder is not None and step.episode[0] == 0:
                recorder.record(step.observations[0], step.actions[0])
            progress.update(task, advance=int(ended), description=f"{description}: {lengths.sum()} steps, episodes")
    episodes = [
        Episode(
            seed,
            sampler_seed,
            float(returns[i]),
            int(lengths[i]),
            bool(terminated[i]),
            bool(truncated[i]),
            bool(success[i]) if reports_success else None,
        )
        for i, (seed, sampler_seed) in enumerate(zip(seeds, sampler_seeds, strict=True))
    ]
    return Played(episodes, act_seconds, ages)


def evaluate_agent(
    agent: Agent,
    environments: VectorEnv,
    seeds: Sequence[int],
    *,
    sampler_seeds: Sequence[int] | None = None,
    replan_every: int = 1,
    reference: Reference | None = None,
    description: str = "Playing",
    recorder: Recorder | None = None,
) -> dict[str, Any]:
    """Play one episode per seed and return their statistics, as ``evaluation.json`` holds them.

    Args:
        agent: What acts.
        environments: From ``make_environments``.
        seeds: The environment's, one for each episode.
        sampler_seeds: The agent's, as many; by default the same.
        replan_every: The agent's, to tell the time of a planning call from that of following a plan; 0: it plans
            once an episode.
        reference: What the normalised score refers to.
        description: What the progress bar says.
        recorder: Keeps the first episode, if given.
    """
    played = play(agent, environments, seeds, sampler_seeds=sampler_seeds, description=description, recorder=recorder)
    summary = summarize([episode.episode_return for episode in played.episodes])
    score, score_interval = None, None
    if reference is not None:
        score = normalized_score(summary.mean, reference)
        score_interval = summary.ci95 and [normalized_score(end, reference) for end in summary.ci95]
    successes = [episode.success for episode in played.episodes if episode.success is not None]
    # A call plans when at least one environment's plan is used up.
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
        "episodes": [episode.to_json(reference) for episode in played.episodes],
    }


# ---------------------------------------------------------------- a pipeline folder


def evaluate(
    pipeline_folder: str,
    episodes: int = 20,
    output_dir: str | None = None,
    *,
    seed: int = 0,
    sampler_seed: int | None = None,
    env_id: str | None = None,
    environments: int | None = None,
    replan_every: int | None = None,
    batch_size: int | None = None,
    planning_horizon: int | None = None,
    num_inference_steps: int | None = None,
    sampler: str | None = None,
    n_guide_steps: int | None = None,
    scale: float | None = None,
    guide_scaling: str | None = None,
    guide_on: str | None = None,
    t_stopgrad: int | None = None,
    max_grad_norm: float | None = None,
    temperature: float | None = None,
    warm_start_strength: float | None = None,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
    video: bool = True,
    device: str = "auto",
) -> dict[str, Any]:
    """Let an exported planner act, and write evaluation.json, TensorBoard scalars and a video of the first episode.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        episodes: Episodes to play, one for each of the seeds from ``seed`` on.
        output_dir: Where the results go; by default runs/evaluate/ and the folder's name.
        seed: First seed of the environment.
        sampler_seed: First seed of the planner's noise; by default the environment's.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        environments: Environments that are played in at the same time, planned for in one batch; by default as many as
            episodes, but at most 16. No random number depends on it.
        replan_every: Steps that are executed from one plan before the next is made; 0: one plan an episode. This and
            the next twelve are the folder's own by default.
        batch_size: Candidates for each plan.
        planning_horizon: Steps of a plan.
        num_inference_steps: Noise levels that are visited, at most as many as in training.
        sampler: ddpm, ddim, dpmsolver or unipc.
        n_guide_steps: Gradient steps up the value before each denoising; 0: no guidance.
        scale: Length of a gradient step.
        guide_scaling: What multiplies the gradient: variance, std, none, or diffusers' stock factor.
        guide_on: What guidance moves: the noisy sample, or the predicted clean plan.
        t_stopgrad: No guidance at noise levels below this one.
        max_grad_norm: Length to which a plan's gradient is shortened.
        temperature: Factor on the standard deviation of all noise that is drawn.
        warm_start_strength: Share of the denoising steps that a plan takes from the last one; 1: all, from noise.
        ref_min_score: Return that scores 0; by default the dataset's, else D4RL's for the environment's family.
        ref_max_score: Return that scores 100.
        video: Draw the first episode as rollout.gif.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.

    Returns:
        What evaluation.json holds.

    Raises:
        ValueError: If the folder is no planner, does not fit the environment, or a setting is wrong.
    """
    start = time.perf_counter()
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}: at least 1 is needed")
    folder = Path(pipeline_folder)
    pipeline = load_pipeline(folder, device)
    settings: dict[str, Any] = {
        "replan_every": replan_every,
        "batch_size": batch_size,
        "planning_horizon": planning_horizon,
        "num_inference_steps": num_inference_steps,
        "sampler": sampler,
        "n_guide_steps": n_guide_steps,
        "scale": scale,
        "guide_scaling": guide_scaling,
        "guide_on": guide_on,
        "t_stopgrad": t_stopgrad,
        "max_grad_norm": max_grad_norm,
        "temperature": temperature,
        "warm_start_strength": warm_start_strength,
    }
    try:
        agent = PlanningAgent(pipeline, **settings)
    except ValueError as error:
        raise ValueError(f"{folder} cannot plan so: {error}") from error

    spec = find_environment(pipeline, env_id, folder)
    name = spec if isinstance(spec, str) else spec.id
    reference = choose_reference(name, pipeline.task, ref_min_score, ref_max_score)
    count = min(episodes, 16) if environments is None else environments
    vector = make_fitting(spec, count, pipeline, folder, video)
    single = cast(SyncVectorEnv, vector).envs[0]
    recorder = Recorder(single)
    sampler_seed = seed if sampler_seed is None else sampler_seed
    try:
        report = evaluate_agent(
            agent,
            vector,
            range(seed, seed + episodes),
            sampler_seeds=range(sampler_seed, sampler_seed + episodes),
            replan_every=agent.replan_every,
            reference=reference,
            description=f"Playing {name}",
            recorder=recorder,
        )
    finally:
        vector.close()
    report |= {
        "environments": count,
        "settings": pipeline.resolve_settings(**settings),
        "env_id": name,
        **describe_run(folder, pipeline, single),
        "seed": seed,
        "sampler_seed": sampler_seed,
        "video": "rollout.gif" if video and recorder.frames else None,
        "video_error": recorder.error if video else None,
        "seconds": time.perf_counter() - start,
    }
    output = Path(output_dir) if output_dir is not None else Path("runs", "evaluate", folder.resolve().name)
    _write(report, recorder, output)
    _print(report, output)
    return report


def _write(report: dict[str, Any], recorder: Recorder, output: Path) -> None:
    """Write the JSON, the pictures and the TensorBoard events."""
    output.mkdir(parents=True, exist_ok=True)
    gif = output / "rollout.gif"
    gif.unlink(missing_ok=True)  # an earlier evaluation's
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
            moving = gif_summary("eval/rollout", recorder.frames, recorder.fps)
            writer._get_file_writer().add_summary(moving, 0)
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
    console = Console()
    console.print(table)
    if report["video_error"] is not None:
        console.print(f"No video: {report['video_error']}", markup=False, soft_wrap=True)


def _interval(ends: list[float] | None, form: str = ".1f") -> str:
    """Return the interval in words, or nothing where there is none."""
    return "" if ends is None else f" (95 %: {ends[0]:{form}} to {ends[1]:{form}})"
