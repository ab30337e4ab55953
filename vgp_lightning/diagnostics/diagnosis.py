"""Diagnose: show why a planner returns what it returns, in numbers and pictures."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from gymnasium.vector import VectorEnv

from vgp_lightning.agent.account import find_given
from vgp_lightning.agent.deployment import FIRST_SEED, Deployment, first_of
from vgp_lightning.agent.environments import check_seed
from vgp_lightning.agent.episodes import Episode
from vgp_lightning.agent.mazes import Maze, end_at_goal, find_maze, need_maze
from vgp_lightning.agent.origin import find_planner, name_of
from vgp_lightning.agent.planning import Conditions
from vgp_lightning.agent.played import find_film_error, say_played
from vgp_lightning.agent.playing import Film, Keeping, list_items, play
from vgp_lightning.agent.store import EpisodeStore
from vgp_lightning.diagnostics.candidates import sample_candidates
from vgp_lightning.diagnostics.choice import UNREACHED, Trial, examine_choice, make_trial, why_no_choice
from vgp_lightning.diagnostics.denoising import draw_denoising, draw_maze
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.diagnostics.guidance import examine_guidance
from vgp_lightning.diagnostics.page import describe_diagnosis
from vgp_lightning.diagnostics.plans import choose_plans, examine_plans, plan_places
from vgp_lightning.diagnostics.summary import is_written, print_summary, write
from vgp_lightning.diagnostics.values import examine_values
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.film import Recorder, write_film
from vgp_lightning.report.folders import prepare
from vgp_lightning.report.page import NAME, write_page

_TRIED = 64  # candidates that are tried at once
_CANDIDATES = 16  # of a planner that makes one plan


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
    choice_steps: int = 50,
    recorded_episodes: int = 0,
    reach_goal: bool = False,
    video: bool = True,
    again: bool = False,
    device: str = "auto",
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Play episodes with an exported planner, and write numbers and pictures that explain its returns.

    The results are report.html (open it in a browser), diagnostics.json, pictures and TensorBoard events. Successive
    steps of an episode are correlated: a correlation over thousands of steps of few episodes is worth only that many
    episodes. So the number of episodes is reported beside it. Finished episodes are kept in ``episodes`` of the output
    folder: after an interruption the same command goes on, and several processes with the same command and output
    folder share the episodes.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote, hopper-example, or a repository on the Hugging Face Hub, such
            as me/hopper, of which no code is fetched.
        episodes: Episodes to play, one for each of the seeds from ``seed`` on.
        output_dir: Where the results go; by default runs/diagnose/ and the folder's name.
        seed: First seed of the environment and of the planner's noise; the default is far from the seeds of collected
            episodes.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        trust_environment: Make the environment that the folder specifies even if it is not the one that gymnasium or
            gymnasium-robotics registers under its id. This runs whatever code the folder names.
        max_episode_steps: Time limit of an episode; by default the environment's own.
        starts: Plans of each episode, evenly spaced, that are executed to their end and sampled anew.
        choice_steps: Steps for which each candidate of these plans is tried in the simulator; 0: none is.
        recorded_episodes: Episodes of the planner's training data in which candidates are tried too, in ``starts``
            states of each; the dataset has to be here, and to name the seeds of its episodes.
        reach_goal: In a maze, let every plan end at the goal.
        video: Draw the first episode as rollout.gif.
        again: Play episodes anew that are kept in the output folder, and measure anew.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.
        settings: Those in place of the folder's. Where they make one plan, 16 candidates are drawn all the same in the
            states that are looked at, to see whether choosing among them would help; ``batch_size`` gives another
            number.

    Returns:
        What diagnostics.json holds.

    Raises:
        ValueError: If the folder is not a planner's, does not fit the environment, a setting is wrong, all episodes
            fail, or another diagnosis is running in the output folder.
        OSError: If the output folder cannot be written.
    """
    start = time.perf_counter()
    options = find_given(diagnose, locals()) | settings
    for name, value in (("episodes", episodes), ("starts", starts)):
        if value < 1:
            raise ValueError(f"{name} is {value}: at least 1 is needed")
    for name, value in (("choice_steps", choice_steps), ("recorded_episodes", recorded_episodes)):
        if value < 0:
            raise ValueError(f"{name} is {value}: a whole number from 0 on is needed")
    check_seed(seed)
    deployed = Deployment(str(find_planner(pipeline_folder)), env_id, device, trust_environment)
    output = Path(output_dir) if output_dir is not None else Path("runs", "diagnose", name_of(deployed.folder))
    with (
        deployed.environments(min(episodes, 16), video, max_episode_steps) as environments,
        deployed.environments(1, max_episode_steps=max_episode_steps) as replays,
    ):
        maze = find_maze(first_of(environments))
        conditions = end_at_goal(need_maze(maze, "reach_goal", deployed.env_id)) if reach_goal else None
        agent = deployed.agent(conditions, **settings)
        resolved = deployed.pipeline.resolve_settings(**settings)
        if resolved["planning_horizon"] < 2:
            raise ValueError(f"planning_horizon is {resolved['planning_horizon']}: a diagnosis needs at least 2 steps")
        prepare(output)
        deployed.choose_threads(environments.num_envs, **settings)
        asked = {"settings": dict(resolved), "reach_goal": reach_goal, "seed": seed}
        identity = {"verb": "diagnose", **deployed.identify(environments, deployed.pipeline.has_critic), **asked}
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
            asked |= {"episodes": episodes, "starts": starts, "choice_steps": choice_steps, "video": video}
            asked["recorded_episodes"] = recorded_episodes
            asked["pipeline"] = str(pipeline_folder)
            name = f"report {json.dumps(asked, sort_keys=True)}"
            with store.exclusively():
                known: dict[str, Any] | None = store.known(name)
                report = known
                if report is None or not is_written(report, output):
                    # Whether choosing would choose is asked of a planner too that makes one plan.
                    alone = resolved["batch_size"] == 1 and "batch_size" not in settings
                    sampled: Settings = {**resolved, "batch_size": _CANDIDATES} if alone else resolved
                    tried = why_no_choice(deployed.pipeline, sampled, choice_steps) is None
                    several = sampled["batch_size"] * max(1, _TRIED // sampled["batch_size"]) if tried else 1
                    with deployed.environments(several, max_episode_steps=max_episode_steps) as tries:
                        findings = examine(
                            deployed.pipeline,
                            played.episodes,
                            (replays, tries),
                            sampled,
                            starts,
                            conditions,
                            maze,
                            choice_steps,
                            recorded_episodes,
                        )
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
                        "candidates": sampled["batch_size"],
                        "reach_goal": reach_goal,
                        "env_id": deployed.env_id,
                        **deployed.describe(environments),
                        "seed": seed,
                        "starts": starts,
                        "choice_steps": choice_steps,
                        "recorded_episodes": recorded_episodes,
                        "options": options,
                        "pictures": findings.pictures,
                        "video_error": video_error,
                        "seconds": time.perf_counter() - start,
                    }
                    made = report
                    report = write(store.fact(name, lambda: made), findings, output)
                shown = report
                write_page(output / NAME, lambda: describe_diagnosis(shown, output))
    print_summary(report, output)
    return report


def examine(
    pipeline: ValueGuidedPlannerPipeline,
    episodes: Sequence[Episode],
    replays: tuple[VectorEnv, VectorEnv],
    settings: Settings,
    starts: int,
    conditions: Conditions | None,
    maze: Maze | None,
    choice_steps: int,
    recorded_episodes: int,
) -> Findings:
    """Measure and draw all parts.

    Args:
        pipeline: The planner.
        episodes: Episodes that it has played, with its plans.
        replays: A single environment to execute plans in; and at least as many as candidates, where these are tried.
        settings: All settings of the planner, with as many candidates as shall be looked at.
        starts: Plans of each episode that are executed to their end and sampled anew.
        conditions: What the plans pass through.
        maze: The maze of the environment; None: it has none.
        choice_steps: Steps for which each candidate is tried; 0: none is.
        recorded_episodes: Episodes of the training data in whose states candidates are tried.
    """
    findings, (single, several) = Findings(), replays
    examine_values(findings, pipeline, episodes, settings["planning_horizon"])
    chosen = choose_plans(episodes, starts)
    examine_plans(findings, pipeline, episodes, single, chosen)
    places = plan_places(chosen)
    standing = np.stack([episode.observations[step] for episode, step in places])
    guided = sample_candidates(pipeline, standing, conditions, **settings)
    unguided = guided
    if pipeline.value_function is None:
        findings.miss("guidance", "the folder has no value function: export with --value")
    elif settings["n_guide_steps"] == 0:
        findings.miss("guidance", "n_guide_steps is 0: set it, such as --n_guide_steps 2")
    else:
        # A scale of 0 and not 0 guide steps: without guide steps UniPC applies its corrector and samples differently.
        idle: Settings = {**settings, "scale": 0.0}
        unguided = sample_candidates(pipeline, standing, conditions, **idle)
        examine_guidance(findings, pipeline, unguided, guided, single, places)
    if reason := why_no_choice(pipeline, settings, choice_steps):
        findings.miss("choice", reason)
        if recorded_episodes:
            findings.miss("choice_recorded", reason)
    else:
        trial = make_trial(pipeline, settings, conditions, choice_steps)
        examine_choice(findings, pipeline, unguided, None if guided is unguided else guided, several, places, trial)
        if recorded_episodes:
            try_recorded(findings, pipeline, several, settings, conditions, trial, recorded_episodes, starts)
    draw_denoising(findings, pipeline, guided)
    if maze is not None:
        draw_maze(findings, pipeline, guided, standing, maze)
    return findings


def try_recorded(
    findings: Findings,
    pipeline: ValueGuidedPlannerPipeline,
    environments: VectorEnv,
    settings: Settings,
    conditions: Conditions | None,
    trial: Trial,
    episodes: int,
    starts: int,
) -> None:
    """Try unguided candidates in states of the training data, as in those of the planner's own episodes.

    Args:
        findings: Where numbers and pictures go.
        pipeline: The planner.
        environments: At least as many as candidates.
        settings: All settings of the planner.
        conditions: What the plans pass through.
        trial: How candidates are tried.
        episodes: Recorded episodes.
        starts: States of each.
    """
    # Here, because it imports Minari, which takes a second and which a folder's other parts do not need.
    from vgp_lightning.diagnostics.recorded import find_recorded

    part = "choice_recorded"
    try:
        places = find_recorded(pipeline.task, episodes, starts)
    except ValueError as error:
        findings.miss(part, str(error))
        return
    observations = np.stack([episode.observations[step] for episode, step in places])
    plain: Settings = {**settings, "n_guide_steps": 0}
    candidates = sample_candidates(pipeline, observations, conditions, **plain)
    examine_choice(findings, pipeline, candidates, None, environments, places, trial, part, UNREACHED)


def _to_json(episode: Episode) -> dict[str, Any]:
    """Return the episode as it stands in ``diagnostics.json``."""
    return {
        "seed": episode.seed,
        "return": episode.total_reward,
        "length": episode.length,
        "terminated": episode.terminated,
        "plans": len(episode.plans),
    }
