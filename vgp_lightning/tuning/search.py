"""Find the planner's settings that return most within a budget of episodes, and confirm them on held-out seeds."""

import json
import os
import time
from pathlib import Path
from typing import Any

from vgp_lightning.agent.account import find_given
from vgp_lightning.agent.deployment import Deployment
from vgp_lightning.agent.environments import check_seed
from vgp_lightning.agent.store import EpisodeStore, read_stores
from vgp_lightning.report.folders import prepare
from vgp_lightning.report.page import NAME, write_page
from vgp_lightning.tuning.contest import Contest
from vgp_lightning.tuning.halving import check_budget, plan_rungs
from vgp_lightning.tuning.page import describe_search
from vgp_lightning.tuning.space import choose_space, draw_configurations
from vgp_lightning.tuning.summary import print_summary

# Where the seeds of a search begin: far from those of collected episodes, which begin at 0, and from those of
# evaluations, which begin at 1,000,000. With the same seed an environment begins in the same state.
FIRST_SEED = 2_000_000

# ---------------------------------------------------------------- the command


def tune(
    pipeline_folder: str,
    episodes: int = 300,
    configurations: int = 27,
    output_dir: str | None = None,
    *,
    seed: int = FIRST_SEED,
    holdout_episodes: int = 50,
    latency_ms: float | None = None,
    space: dict[str, list[Any]] | None = None,
    env_id: str | None = None,
    trust_environment: bool = False,
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
    3 each, then 9 play 12 more and 3 another 37. The winner, the defaults, and one plan that is neither guided nor
    chosen among candidates then play held-out seeds, which had no part in the choice: only these returns are reported
    as a result. The winner becomes the default if the paired test tells that it returns more than the defaults do; one
    plan does, if the test tells that it returns more than that.

    Finished episodes are kept in ``episodes`` of the output folder: after an interruption the same command goes on, and
    several processes with the same command and output folder share the work.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        episodes: Maximum number of episodes of the whole search; those on held-out seeds are extra.
        configurations: Number of configurations, with the folder's defaults.
        output_dir: Where report.html (open it in a browser), tuning.json, tuning.png and TensorBoard's events go; by
            default runs/tune/ and the folder's name.
        seed: First seed of the search, of environment and planner; it also decides which configurations are drawn. The
            held-out seeds begin at this one plus ``episodes``.
        holdout_episodes: Episodes on held-out seeds, of the defaults, of the winner and of one plan. With fewer than
            six nothing is told apart.
        latency_ms: Longest time of one planning call for one observation on this machine, in milliseconds; slower
            configurations are left out before any episode is played. None: no limit.
        space: The values to choose from, such as ``{"batch_size": [4, 16], "sampler": ["ddim", "ddpm"]}``, in place of
            the default values of these settings; any setting of the planner can be given.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        trust_environment: Make the environment that the folder specifies even if it is not the one that gymnasium or
            gymnasium-robotics registers under its id. This runs whatever code the folder names.
        environments: Environments that are played in at the same time; by default as many as episodes of one
            configuration, but at most 16. No random number depends on it.
        max_episode_steps: Time limit of an episode; by default the environment's own.
        write: Write what was chosen into the folder as its defaults, and the evidence for it.
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
    check_seed(seed)
    deployed = Deployment(pipeline_folder, env_id, device, trust_environment)
    folder = deployed.folder
    if write and not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is not writable: make it so, or leave it unchanged with --write false")
    output = Path(output_dir) if output_dir is not None else Path("runs", "tune", folder.resolve().name)
    asked = {"seed": seed, "space": space, "latency_ms": latency_ms, "episodes": episodes}
    options = find_given(tune, locals())
    options |= {} if space is None else {"space": json.dumps(space)}
    with deployed.environments(1, max_episode_steps=max_episode_steps) as sample:
        identity = {
            "verb": "tune",
            **deployed.identify(sample, deployed.pipeline.has_critic),
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
        deployed.choose_threads(count)
        with EpisodeStore(output / "episodes", identity, again=again) as store:
            drawn = store.fact("drawn", lambda: drawn)
            asked |= {"space": drawn["space"], "options": options}
            contest = Contest(deployed, vector, drawn["settings"], output, asked, start, store)
            report = contest.run(held_out)
            report = contest.write_chosen(report, write)
            with store.exclusively():
                write_page(output / NAME, lambda: describe_search(report))
    print_summary(report, output)
    return report


def _find_own(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of the finished search that has made the folder's defaults what they are, if it is this one.

    Else a process that begins when the others have written the winner into the folder would search anew.
    """
    stores = list(read_stores(folder))
    if any(other == identity for other, _ in stores):  # such as one with --again true that was interrupted
        return identity
    for other, facts in stores:
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
