"""Evaluate: play one episode per seed, and report returns with confidence intervals.

Shapes: N environments, O observation and A action dimensions, both flat, in the environment's units.
"""

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
from vgp_lightning.agent.environments import Agent, check_seed
from vgp_lightning.agent.episodes import Result
from vgp_lightning.agent.mazes import choose_way, find_maze
from vgp_lightning.agent.origin import find_planner, hash_weights, name_of
from vgp_lightning.agent.played import find_film_error, say_played
from vgp_lightning.agent.playing import Film, Keeping, list_items, play
from vgp_lightning.agent.store import EpisodeStore
from vgp_lightning.evaluation.pages import describe_evaluation
from vgp_lightning.evaluation.scores import Reference, choose_reference, normalized_score
from vgp_lightning.evaluation.summary import print_summary, write, write_pictures
from vgp_lightning.pipeline.companions import CRITIC, HABIT
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.folders import prepare
from vgp_lightning.report.page import NAME, write_page
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
    player: int = 0,
    store: EpisodeStore | None = None,
    film: Film | None = None,
) -> dict[str, Any]:
    """Play one episode per seed and return their statistics, as ``evaluation.json`` holds them.

    Episodes that cannot be played to their end, such as by a reward that is not a number, are listed as failed; the
    statistics are of the others.

    Args:
        agent: What acts.
        environments: From ``make_environments``.
        seeds: Seeds of the environment, one for each episode.
        agent_seeds: Seeds of the agent, as many; by default the same.
        replan_every: The agent's replanning interval, which decides which of its calls count as planning; 0: it plans
            once an episode.
        reference: The reference of the normalised score.
        description: Text of the progress bar.
        player: Number of the agent in the store.
        store: Where results are kept, and where other processes may play some of the episodes; None: in memory.
        film: Films one of the episodes.

    Raises:
        ValueError: If all episodes have failed.
    """
    played = play(
        agent,
        environments,
        seeds,
        agent_seeds=agent_seeds,
        player=player,
        store=store,
        keeping=Keeping(steps=False, replan_every=replan_every),
        description=description,
        film=film,
    )
    results = played.results
    if not results:
        raise ValueError(f"none of {len(seeds)} episodes could be played to its end. The first: {played.failures[0]}")
    summary = summarize([result.total_reward for result in results])
    score, score_interval = None, None
    if reference is not None:
        score = normalized_score(summary.mean, reference)
        score_interval = summary.ci95 and [normalized_score(end, reference) for end in summary.ci95]
    successes = [result.success for result in results if result.success is not None]
    firsts = [result.first_success for result in results if result.first_success is not None]
    times = played.times
    return {
        **{f"return_{name}": value for name, value in asdict(summary).items()},
        "normalized_score": score,
        "normalized_score_ci95": score_interval,
        "reference": None if reference is None else asdict(reference),
        "success_rate": float(np.mean(successes)) if successes else None,
        "success_rate_ci95": wilson_interval(sum(successes), len(successes)) if successes else None,
        "first_success_mean": float(np.mean(firsts)) if firsts else None,
        "length_mean": float(np.mean([result.length for result in results])),
        "terminated_share": float(np.mean([result.terminated for result in results])),
        # The agent's time is noted with the episode that ends next: some episodes of a store may have none.
        "plan_ms": 1000 * times.planning_seconds / times.planning_calls if times.planning_calls else None,
        "act_ms": 1000 * times.seconds / times.calls if times.calls else None,
        "episodes": [_to_json(result, reference) for result in results],
        "failed_episodes": [asdict(failure) for failure in played.failures],
    }


def _to_json(result: Result, reference: Reference | None) -> dict[str, Any]:
    """Return the result as it stands in ``evaluation.json``."""
    return {
        "seed": result.seed,
        "sampler_seed": result.agent_seed,
        "return": result.total_reward,
        "length": result.length,
        "terminated": result.terminated,
        "truncated": result.truncated,
        "success": result.success,
        "first_success": result.first_success,
        "normalized_score": None if reference is None else normalized_score(result.total_reward, reference),
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
    max_episode_steps: int | None = None,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
    video: bool = True,
    again: bool = False,
    habit: bool = False,
    reach_goal: bool = False,
    follow_states: bool = False,
    device: str = "auto",
    delay: int = 0,
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Play episodes with an exported planner, or with its habit, and report their returns.

    The results are report.html (open it in a browser), evaluation.json, TensorBoard scalars and a video of the first
    episode. Finished episodes are kept in
    ``episodes`` of the output folder: after an interruption the same command goes on, with more ``--episodes`` it plays
    only the new ones, and several processes with the same command and output folder share the work.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote; hopper-example, which ships with the package; or a repository
            on the Hugging Face Hub, such as me/hopper, of which no code is fetched.
        episodes: Episodes to play, one for each of the seeds from ``seed`` on.
        output_dir: Where the results go; by default runs/evaluate/ and the folder's name.
        seed: First seed of the environment; the default is far from the seeds of collected episodes.
        sampler_seed: First seed of the planner's noise; by default the environment's.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        trust_environment: Make the environment that the folder specifies even if it is not the one that gymnasium or
            gymnasium-robotics registers under its id. This runs whatever code the folder names.
        environments: Environments that are played in at the same time and planned for in one batch; by default as many
            as episodes, but at most 16. No random number depends on it.
        max_episode_steps: Time limit of an episode; by default the environment's own.
        ref_min_score: Return that scores 0; by default the dataset's, else D4RL's for this family of environments.
        ref_max_score: Return that scores 100.
        video: Draw the first episode as rollout.gif.
        again: Play episodes anew that are kept in the output folder.
        habit: Let the folder's habit (``vgp distill``) act in place of its planner. The settings of planning are then
            those of its teacher, and only ``replan_every`` may be another.
        reach_goal: In a maze, let every plan end at the goal.
        follow_states: In a maze with a point in it, let a position controller follow the plans' states in place of
            executing the plans' own actions.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.
        delay: Steps between the observation that a plan is made from and the first step at which it is executed, as for
            a planner that plans while it acts (at most replan_every); 0: the environment waits for the plan.
        settings: Those in place of the folder's.

    Returns:
        What evaluation.json holds.

    Raises:
        ValueError: If the folder is not a planner's, does not fit the environment, a setting is wrong, all episodes
            fail, or another evaluation is running in the output folder.
        OSError: If the output folder cannot be written.
    """
    start = time.perf_counter()
    options = find_given(evaluate, locals()) | settings
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}: at least 1 is needed")
    check_seed(seed)
    check_seed(0 if sampler_seed is None else sampler_seed, "sampler_seed")
    deployed = Deployment(str(find_planner(pipeline_folder)), env_id, device, trust_environment)
    conditions = controller = None
    if reach_goal or follow_states:
        with deployed.environments(1, max_episode_steps=max_episode_steps) as one:
            maze = find_maze(first_of(one))
        conditions, controller = choose_way(maze, deployed.env_id, reach_goal, follow_states)
    agent = deployed.agent(conditions, controller, habit=habit, delay=delay, **settings)
    reference = choose_reference(deployed.env_id, deployed.pipeline.task, ref_min_score, ref_max_score)
    count = min(episodes, 16) if environments is None else environments
    sampler_seed = seed if sampler_seed is None else sampler_seed
    seeds, agent_seeds = range(seed, seed + episodes), range(sampler_seed, sampler_seed + episodes)
    output = Path(output_dir) if output_dir is not None else Path("runs", "evaluate", name_of(deployed.folder))
    with deployed.environments(count, video, max_episode_steps) as vector:
        prepare(output)
        asked = {"settings": dict(agent.resolved), "seed": seed, "sampler_seed": sampler_seed}
        if habit:
            asked["habit"] = hash_weights(deployed.folder, HABIT)
        elif agent.resolved["rank_by"] == "critic":
            asked["critic"] = hash_weights(deployed.folder, CRITIC)
        # Without these the identity is that of versions which had none of them, whose episodes are the same.
        special = {"delay": delay, "reach_goal": reach_goal, "follow_states": follow_states}
        used = {name: value for name, value in special.items() if value}
        identity = {"verb": "evaluate", **deployed.identify(vector), **asked, **used}
        with EpisodeStore(output / "episodes", identity, again=again) as store:
            items = list_items(seeds, agent_seeds)
            played = sum(item in store.finished for item in items)
            say_played(store, played, episodes)
            if not habit and played < episodes:
                deployed.choose_threads(count, **settings)
            results = evaluate_agent(
                agent,
                vector,
                seeds,
                agent_seeds=agent_seeds,
                replan_every=agent.replan_every,
                reference=reference,
                description=f"Playing {deployed.env_id}",
                store=store,
                film=Film(items[0], lambda recorder: write_pictures(recorder, store, deployed.env_id, seed, video)),
            )
            film = store.finished[items[0]].get("film")
            made = {
                **results,
                "environments": count,
                "env_id": deployed.env_id,
                **deployed.describe(vector),
                **asked,
                **special,
                "options": options,
                "video": "rollout.gif" if video and film is not None and film["error"] is None else None,
                "video_error": find_film_error(film) if video else None,
                "seconds": time.perf_counter() - start,
            }
            name = json.dumps([episodes, results["reference"], video, str(pipeline_folder)])
            report: dict[str, Any] = store.fact(f"report {name}", lambda: made)
            with store.exclusively():
                report = write(report, store, output)
                write_page(output / NAME, lambda: describe_evaluation(report, output))
    print_summary(report, output)
    return report
