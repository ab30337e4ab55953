"""Choice: does the planner choose the candidate that turns out well?

A value function that ranks windows of a dataset rightly may still not know which of the candidates from one observation
is better: these differ far less. So each candidate is tried: the simulator is brought back to where the plans were
made, the candidate's first actions are executed, and an unguided planner goes on from there, with the same random
numbers for all candidates of a state.

Shapes: S states, K candidates of each, R repeats, A action dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from vgp_lightning.agent.environments import environment_of
from vgp_lightning.agent.episodes import Episode
from vgp_lightning.agent.planning import Conditions, PlanningAgent
from vgp_lightning.agent.snapshots import Snapshot, restore, take_snapshot
from vgp_lightning.data.returns import discounted_returns
from vgp_lightning.diagnostics.candidates import Candidates, known, to_raw
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.diagnostics.plans import UNREPEATABLE
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import ONE_PLAN, Settings
from vgp_lightning.report.figures import BLUE, GREY, tidy
from vgp_lightning.report.statistics import bootstrap_interval, rank_correlation

REPEATS = 2  # with other random numbers for what follows: one says which is best, the other what that one is worth
_FIRST_SEED = 3_000_000  # of what follows: far from the seeds of evaluations

UNREACHED = (
    "the recorded seeds and actions lead to other observations here: the environment is not the recorded one (another "
    "version, other arguments or options of its reset), or its randomness does not come from its seed alone"
)

Interval = list[float] | None


@dataclass(frozen=True)
class Trial:
    """How candidates are tried.

    Attributes:
        steps: Steps whose rewards count, those of the candidate's own actions included.
        own: Actions of the candidate that are executed.
        discount: Of the rewards.
        termination_penalty: Added to the last reward where the environment ends the episode.
        conditions: What the plans of the planner that goes on pass through.
        settings: Of this planner.
        rank_by: What ranks the candidates that are tried: value or critic.
    """

    steps: int
    own: int
    discount: float
    termination_penalty: float
    conditions: Conditions | None
    settings: Settings
    rank_by: str


def why_no_choice(pipeline: ValueGuidedPlannerPipeline, settings: Settings, steps: int) -> str | None:
    """Return why candidates are not tried; None: they are."""
    if pipeline.value_function is None and settings["rank_by"] == "value":
        return "the folder has no value function: export with --value"
    if not steps:
        return "choice_steps is 0"
    if pipeline.task.get("discount") is None:
        return "the folder does not name the discount of its returns"
    if settings["batch_size"] == 1:
        return "batch_size is 1, so there is nothing to choose from: set it, such as --batch_size 16"
    return None


def make_trial(
    pipeline: ValueGuidedPlannerPipeline, settings: Settings, conditions: Conditions | None, steps: int
) -> Trial:
    """Return how a planner's candidates are tried, for so many steps: what follows is planned without any choice."""
    own = min(settings["replan_every"] or settings["planning_horizon"], steps)
    plain: Settings = {**settings, **ONE_PLAN, "warm_start_strength": 1.0}
    penalty = pipeline.task.get("termination_penalty") or 0.0
    return Trial(steps, own, pipeline.task["discount"], penalty, conditions, plain, settings["rank_by"])


def examine_choice(
    findings: Findings,
    pipeline: ValueGuidedPlannerPipeline,
    unguided: Candidates,
    guided: Candidates | None,
    environments: VectorEnv,
    places: Sequence[tuple[Episode, int]],
    trial: Trial,
    part: str = "choice",
    unrepeatable: str = UNREPEATABLE,
) -> None:
    """Try the candidates, and compare what they are worth with what was predicted.

    Args:
        findings: Where numbers and pictures go.
        pipeline: The planner.
        unguided: Candidates without guidance, with values.
        guided: Those with guidance, from the same noise; None: the planner does not guide.
        environments: At least K and at least two, from ``make_environments``.
        places: Where the S observations are from: an episode and the step in it.
        trial: How they are tried.
        part: Name of the part of the diagnosis.
        unrepeatable: What it means where the environment does not come to these places again.
    """
    snapshots = take_snapshots(environments, places)
    if snapshots is None:
        findings.miss(part, unrepeatable)
        return
    found: dict[str, Any] = {"states": len(places), "candidates": unguided.trajectories.shape[1], "steps": trial.steps}
    found |= {"rank_by": trial.rank_by, "own_steps": trial.own, "repeats": REPEATS, "discount": trial.discount}
    realised = try_candidates(pipeline, unguided, environments, snapshots, trial)
    shown = {"unguided": (known(unguided.scores), realised)}
    if guided is not None:
        moved = try_candidates(pipeline, guided, environments, snapshots, trial)
        shown["guided"] = (known(guided.scores), moved)
        rows = np.arange(len(places))
        found["guidance"] = {
            "mean": _mean((moved - realised).mean(axis=(1, 2))),
            "chosen": _mean((moved[rows, guided.best] - realised[rows, unguided.best]).mean(axis=1)),
        }
    found |= {name: judge(*values) for name, values in shown.items()}
    rankings = {"value": unguided.values, "critic": unguided.advantages}
    found["by"] = {
        name: found["unguided"] if ranks is unguided.scores else judge(ranks, realised)
        for name, ranks in rankings.items()
        if ranks is not None
    }
    findings.numbers[part] = found
    findings.figures[part] = plot_choice(shown, trial.steps)


def judge(predicted: NDArray[np.floating], realised: NDArray[np.floating]) -> dict[str, Any]:
    """Return how well predicted values choose among the candidates of a state.

    Args:
        predicted: (S, K).
        realised: (S, K, R), R at least 2.

    Returns:
        Means over the states, each with its 95 % interval: ``rank_correlation`` of predicted and realised values within
        a state; ``repeatability``, that of the realised values of two repeats, which no prediction can exceed by much;
        ``gain``, what the chosen candidate is worth beyond the mean of all; ``possible``, the same for the candidate
        that is best by another repeat; ``regret``, the difference of these two. ``spread``: the standard deviation of
        the realised values within a state.
    """
    means = realised.mean(axis=2)
    pairs = list(combinations(range(realised.shape[2]), 2))
    states = np.arange(len(means))
    gain = means[states, predicted.argmax(axis=1)] - means.mean(axis=1)
    # The best of noisy numbers looks better than it is. So one repeat says which is best, another what it is worth.
    found = [
        realised[states, realised[:, :, a].argmax(axis=1), b] for a, b in (*pairs, *(pair[::-1] for pair in pairs))
    ]
    possible = np.mean(found, axis=0) - means.mean(axis=1)
    repeated = [rank_correlation(state[:, a], state[:, b]) for state in realised for a, b in pairs]
    return {
        "rank_correlation": _mean([rank_correlation(*pair) for pair in zip(predicted, means, strict=True)]),
        "repeatability": _mean(repeated),
        "gain": _mean(gain),
        "possible": _mean(possible),
        "regret": _mean(possible - gain),
        "spread": float(means.std(axis=1).mean()),
    }


def _mean(numbers: Sequence[float | None] | NDArray[np.floating]) -> dict[str, Any]:
    """Return the mean of what is known, its interval and the number; None where nothing is known."""
    known = np.array([number for number in numbers if number is not None], dtype=np.float64)
    if not len(known):
        return {"mean": None, "ci95": None, "states": 0}
    return {"mean": float(known.mean()), "ci95": bootstrap_interval(known), "states": len(known)}


# ---------------------------------------------------------------- the simulator


def take_snapshots(environments: VectorEnv, places: Sequence[tuple[Episode, int]]) -> list[Snapshot] | None:
    """Return the states of the simulator at steps of episodes; None: it cannot be brought back there.

    Each episode is repeated once. In each state it is tried whether a restored environment does as the episode did.

    Args:
        environments: At least two; the first repeats the episodes, the second is restored.
        places: Episodes, and the step in each.
    """
    first, second = (environment_of(environments, row) for row in (0, 1))
    found: dict[tuple[int, int], Snapshot] = {}
    for episode in {id(episode): episode for episode, _ in places}.values():
        wanted = {step for other, step in places if other is episode}
        observation, _ = first.reset(seed=episode.seed)
        for step in range(max(wanted) + 1):
            # In float32, in which datasets are recorded.
            if not np.array_equal(np.float32(observation), np.float32(episode.observations[step])):
                return None
            if step in wanted:
                found[id(episode), step] = take_snapshot(first)
            observation, reward, *_ = first.step(_shaped(episode.actions[step], first))
            if step in wanted:
                second.reset(seed=0)
                restore(second, found[id(episode), step])
                again, paid, *_ = second.step(_shaped(episode.actions[step], second))
                if not (np.array_equal(again, observation) and paid == reward):
                    return None
    return [found[id(episode), step] for episode, step in places]


def _shaped(action: NDArray[np.floating], environment: gymnasium.Env[Any, Any]) -> NDArray[np.float32]:
    """Return a flat action (A,) in the environment's shape, as a copy: an environment may write into it."""
    return np.array(action, dtype=np.float32).reshape(environment.action_space.shape or ())


def try_candidates(
    pipeline: ValueGuidedPlannerPipeline,
    candidates: Candidates,
    environments: VectorEnv,
    snapshots: Sequence[Snapshot],
    trial: Trial,
) -> NDArray[np.float64]:
    """Return what the candidates are worth (S, K, R): the discounted rewards of so many steps from their states on.

    Args:
        pipeline: The planner that goes on.
        candidates: Those of S states.
        environments: At least K; with more of them several states are tried at once.
        snapshots: The simulator in the S states.
        trial: How they are tried.
    """
    raw = to_raw(pipeline, candidates.trajectories)[:, :, : trial.own, : pipeline.action_dim]
    own = pipeline.frame.clip_actions(torch.as_tensor(raw)).numpy()
    agent = PlanningAgent(pipeline, conditions=trial.conditions, **trial.settings)
    states, count = own.shape[:2]
    together = max(1, environments.num_envs // count)
    realised = np.zeros((states, count, REPEATS))
    groups = [range(first, min(first + together, states)) for first in range(0, states, together)]
    console = Console(stderr=True)
    for group in track(groups, "Trying candidates", console=console, disable=not console.is_terminal, transient=True):
        begins = [snapshots[state] for state in group for _ in range(count)]
        first_actions = own[group.start : group.stop].reshape(len(begins), *own.shape[2:])
        for repeat in range(REPEATS):
            # Common random numbers: all candidates of a state go on with the same.
            agent.reset([_FIRST_SEED + state * REPEATS + repeat for state in group for _ in range(count)])
            returns = _play(agent, environments, begins, first_actions, trial)
            realised[group.start : group.stop, :, repeat] = np.reshape(returns, (len(group), count))
    return realised


def _play(
    agent: PlanningAgent,
    environments: VectorEnv,
    begins: Sequence[Snapshot],
    own: NDArray[np.floating],
    trial: Trial,
) -> list[float]:
    """Return the return of each of n candidates, given where they begin and their own first actions (n, steps, A)."""
    rows = [environment_of(environments, row) for row in range(len(begins))]
    for environment, snapshot in zip(rows, begins, strict=True):
        environment.reset(seed=0)
        restore(environment, snapshot)
    rewards: list[list[float]] = [[] for _ in rows]
    terminated, active = np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)
    observations = np.zeros((len(rows), agent.pipeline.observation_dim))
    for step in range(trial.steps):
        if not active.any():
            break
        actions = own[:, step] if step < own.shape[1] else agent.act(observations, active)
        for row in np.flatnonzero(active).tolist():
            environment = rows[row]
            observations[row], reward, ended, truncated, _ = environment.step(_shaped(actions[row], environment))
            rewards[row].append(float(reward))
            terminated[row], active[row] = ended, not (ended or truncated)
    return [
        float(discounted_returns(np.array(paid), fell, trial.discount, trial.termination_penalty)[0])
        for paid, fell in zip(rewards, terminated.tolist(), strict=True)
    ]


# ---------------------------------------------------------------- the picture


def plot_choice(shown: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]], steps: int) -> Figure:
    """Draw predicted and realised values of all candidates as standard scores among those of their state.

    Args:
        shown: For each kind of candidates the predicted values (S, K) and the realised ones (S, K, R).
        steps: Whose rewards were counted.
    """
    figure = Figure(figsize=(4.6 * len(shown), 4), layout="constrained")
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (name, (predicted, realised)) in zip(panels, shown.items(), strict=True):
        x, y = _score(predicted), _score(realised.mean(axis=2))
        rows, best = np.arange(len(x)), predicted.argmax(axis=1)
        panel.plot(x.ravel(), y.ravel(), ".", color=GREY, alpha=0.5, markersize=4, label="candidates")
        panel.plot(x[rows, best], y[rows, best], ".", color=BLUE, markersize=7, label="chosen")
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("predicted value, standard score")
        tidy(panel)
    panels[0].set_ylabel(f"rewards of {steps} steps, standard score")
    panels[0].legend(fontsize=8, frameon=False)
    figure.suptitle(
        "Candidates from one observation, among themselves\nrising, and blue above the line: the choice is good",
        fontsize=10,
    )
    return figure


def _score(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return values (S, K) as standard scores within each state; 0 where all are equal."""
    centred = values - values.mean(axis=1, keepdims=True)
    deviation = values.std(axis=1, keepdims=True)
    scores: NDArray[np.floating] = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    return scores
