"""Findings: the parts of a diagnosis, each measured and drawn.

Shapes: N observations, K candidates, S denoising steps, H steps, A action and O observation dimensions, T = A + O.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vgp_lightning.agent.episodes import Recording
from vgp_lightning.agent.mazes import Maze, plot_paths
from vgp_lightning.agent.planning import Conditions, clip_actions
from vgp_lightning.diagnostics.measures import (
    Sampled,
    check_dynamics,
    column_means,
    compare_guidance,
    distances,
    execute_plans,
    follow_plans,
    foretold,
    rank_executed,
    realise,
    sample,
    step_errors,
)
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.figures import (
    figure_to_image,
    plot_bars,
    plot_calibration,
    plot_curves,
    plot_denoising,
    plot_gains,
)
from vgp_lightning.report.film import Frames
from vgp_lightning.report.statistics import calibrate

_MAZE_PANELS = 6
_STRIP_COLUMNS = 6
_STRIP_ACTIONS, _STRIP_OBSERVATIONS = 2, 4  # dimensions
_GIF_FPS, _GIF_REST = 3.0, 6  # frames a second, and how many of them the last picture stays
_NO_VALUE = "the folder has no value function: export with --value"
_UNREPEATABLE = (
    "with the same seed and the same actions the environment goes another way: its randomness does not come from its "
    "seed alone, so no plan can be tried again from where it was made"
)


@dataclass(frozen=True)
class Findings:
    """What has been found: numbers, why some are missing, and pictures, all by the names of the parts."""

    numbers: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    films: dict[str, tuple[Frames, float]] = field(default_factory=dict)  # frames, frames a second

    def miss(self, name: str, reason: str) -> None:
        """Note that a part has no numbers, and why."""
        self.numbers[name] = None
        self.missing[name] = reason


def goal_condition(maze: Maze) -> Conditions:
    """Return what lets plans end at the goal, at any speed."""

    def reach(observations: NDArray[np.floating]) -> dict[int, NDArray[np.floating]]:
        last = np.full_like(observations, np.nan)
        last[:, maze.position] = observations[:, maze.goal]
        return {-1: last}

    return reach


def examine(
    pipeline: ValueGuidedPlannerPipeline,
    recordings: Sequence[Recording],
    replays: VectorEnv,
    settings: dict[str, Any],
    starts: int,
    conditions: Conditions | None,
    maze: Maze | None,
) -> Findings:
    """Measure and draw all parts."""
    findings = Findings()
    examine_values(findings, pipeline, recordings, settings["planning_horizon"])
    chosen = choose_plans(recordings, starts)
    examine_plans(findings, pipeline, recordings, replays, chosen)
    places = [(recording, int(recording.plan_steps[number])) for recording, number in chosen]
    standing = np.stack([recording.observations[step] for recording, step in places])
    call = {key: value for key, value in settings.items() if key != "replan_every"}  # an agent's
    sampled = sample(pipeline, standing, conditions, **call)
    if pipeline.value_function is None:
        findings.miss("guidance", _NO_VALUE)
    elif settings["n_guide_steps"] == 0:
        findings.miss("guidance", "n_guide_steps is 0: give some, such as --settings.n_guide_steps 2")
    else:
        # With a scale of 0, for without guide steps UniPC samples otherwise: it then corrects.
        unguided = sample(pipeline, standing, conditions, **call | {"scale": 0.0})
        examine_guidance(findings, pipeline, unguided, sampled, replays, places, standing)
    draw_samples(findings, pipeline, sampled, standing, maze)
    return findings


def choose_plans(recordings: Sequence[Recording], starts: int) -> list[tuple[Recording, int]]:
    """Return so many plans of each episode by their numbers, evenly spread; all where there are no more."""
    return [
        (recording, number)
        for recording in recordings
        for number in np.unique(np.arange(starts) * len(recording.plans) // starts).tolist()
    ]


def examine_values(
    findings: Findings, pipeline: ValueGuidedPlannerPipeline, recordings: Sequence[Recording], horizon: int
) -> None:
    """Hold predicted values against what came true."""
    discount, penalty = pipeline.task.get("discount"), pipeline.task.get("termination_penalty") or 0.0
    if pipeline.value_function is None or discount is None:
        reason = _NO_VALUE if pipeline.value_function is None else "the folder does not say its returns' discount"
        findings.miss("calibration", reason)
        findings.miss("ranking", reason)
        return
    realised = [realise(recording, discount, penalty) for recording in recordings]
    at_plans = [recording.plan_steps for recording in recordings]
    predicted = np.concatenate([recording.values for recording in recordings])
    returns = np.concatenate([truth.returns[steps] for truth, steps in zip(realised, at_plans, strict=True)])
    complete = np.concatenate([truth.complete[steps] for truth, steps in zip(realised, at_plans, strict=True)])
    everything = calibrate(predicted, returns)
    whole = calibrate(predicted[complete], returns[complete]) if complete.any() else None
    findings.numbers["calibration"] = {
        "discount": discount,
        "termination_penalty": penalty,
        "episodes": len(recordings),
        "all": asdict(everything),
        "complete": None if whole is None else asdict(whole),
    }
    title = f"On the line: promised = got ({len(recordings)} episodes)\nblack: " + (
        "of all plans; all are cut short" if whole is None else "of those seen to the end"
    )
    findings.figures["calibration"] = plot_calibration(predicted, returns, (whole or everything).curve, title, complete)
    ranked = rank_executed(pipeline, recordings, realised, horizon)
    if ranked is None:
        findings.miss("ranking", f"no episode lasts the {horizon} steps of a window")
        return
    findings.numbers["ranking"] = ranked
    bars = {"returns seen to the end": [entry["complete"] for entry in ranked]}
    if ranked[0]["complete_windows"] < ranked[0]["windows"]:
        bars["all returns"] = [entry["all"] for entry in ranked]
    findings.figures["ranking"] = plot_bars(
        bars,
        [str(entry["level"]) for entry in ranked],
        "rank correlation",
        "Executed windows, noised (0: clean): 1 ranks them rightly, 0 is chance",
    )
    findings.figures["ranking"].axes[0].set_xlabel("noise level")


def examine_plans(
    findings: Findings,
    pipeline: ValueGuidedPlannerPipeline,
    recordings: Sequence[Recording],
    replays: VectorEnv,
    chosen: Sequence[tuple[Recording, int]],
) -> None:
    """Hold plans against what was visited, and against what their own actions lead to."""
    actions = pipeline.action_dim
    scale = np.array(pipeline.normalization["scale"][actions:])
    horizon = follow_plans(recordings, actions, scale)
    plans = np.stack([recording.plans[number] for recording, number in chosen])  # (n, H, T)
    places = [(recording, int(recording.plan_steps[number])) for recording, number in chosen]
    observed = execute_plans(replays, places, plans[:, :, :actions])
    if observed is None:
        findings.miss("own_actions", _UNREPEATABLE)
        own = None
    else:
        own = column_means(distances(plans[:, :, actions:], observed, scale))
        moved = column_means(distances(observed[:, :1], observed, scale))
        findings.numbers["own_actions"] = {
            "distance": own,
            "movement": moved,
            "starts": len(chosen),
            "foretold": foretold(own, moved),
        }
    horizon["foretold"] = foretold(horizon["replanned"], horizon["movement"])
    findings.numbers["horizon"] = horizon
    curves = {"how far the state itself moves": horizon["movement"], "plan, replanned on the way": horizon["replanned"]}
    findings.figures["horizon"] = plot_curves(
        curves | ({} if own is None else {"plan, its own actions to the end": own}),
        "distance in normalised units",
        "Planned against visited observations\nfar below the grey line: plans come true",
    )
    findings.numbers["dynamics"] = check_dynamics(recordings, actions)
    findings.figures["dynamics"] = plot_bars(
        {"plan": findings.numbers["dynamics"]["dimensions"]},
        [str(i) for i in range(len(scale))],
        "error / change",
        "One step: the plan's error as a share of the change\n0: the simulator's own; 1: no better than no change",
        line=1,
    )
    findings.figures["dynamics"].axes[0].set_xlabel("observation dimension")


def examine_guidance(
    findings: Findings,
    pipeline: ValueGuidedPlannerPipeline,
    unguided: Sampled,
    guided: Sampled,
    replays: VectorEnv,
    places: Sequence[tuple[Recording, int]],
    standing: NDArray[np.floating],
) -> None:
    """Hold guided candidates against unguided ones from the same noise."""
    gains = compare_guidance(unguided, guided)
    for name, sampled in (("unguided", unguided), ("guided", guided)):
        plans = _raw(pipeline, sampled.chosen[:, :2])
        observed = execute_plans(replays, places, clip_actions(plans[..., : pipeline.action_dim], pipeline))
        planned = plans[:, 1, pipeline.action_dim :]
        gains[f"one_step_{name}"] = None if observed is None else step_errors(standing, planned, observed[:, 1])["mean"]
    if gains["one_step_guided"] is None:
        findings.missing["guidance.one_step"] = _UNREPEATABLE
    findings.numbers["guidance"] = gains
    middle = cast(NDArray[np.float32], unguided.values).mean(axis=1, keepdims=True)
    findings.figures["guidance"] = plot_gains(
        cast(NDArray[np.float32], unguided.values) - middle,
        cast(NDArray[np.float32], guided.values) - middle,
        f"Guidance moves candidates to the right, if it works: {len(standing)} observations, the same noise",
    )


def _raw(pipeline: ValueGuidedPlannerPipeline, trajectories: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return normalised trajectories (..., T) in the environment's units."""
    statistics = pipeline.normalization
    raw: NDArray[np.floating] = trajectories * np.array(statistics["scale"]) + np.array(statistics["shift"])
    return raw


# ---------------------------------------------------------------- pictures of plans


def draw_samples(
    findings: Findings,
    pipeline: ValueGuidedPlannerPipeline,
    sampled: Sampled,
    standing: NDArray[np.floating],
    maze: Maze | None,
) -> None:
    """Draw how the first observation's candidates lose their noise, and in a maze the plans from several places."""
    raw = _raw(pipeline, sampled.history)  # (S, K, H, T)
    best, levels = int(sampled.best[0]), sampled.levels
    shown = np.unique(np.linspace(0, len(levels) - 1, min(len(levels), _STRIP_COLUMNS)).round().astype(int))
    names = [levels[i] for i in shown]
    count = pipeline.action_dim
    # The observations that the chosen plan changes most say most.
    changes = sampled.chosen[0, :, count:].std(axis=0)
    dimensions = np.sort(np.argsort(-changes, kind="stable")[:_STRIP_OBSERVATIONS])
    shown_actions = range(min(count, _STRIP_ACTIONS))
    lines = raw[..., [*shown_actions, *(count + dimensions)]]
    titles = [f"action {i}" for i in shown_actions] + [f"observation {i}" for i in dimensions]
    title = "One plan on its way out of the noise: candidates, and bold the chosen one"
    findings.figures["denoising"] = plot_denoising(lines[shown], best, names, titles, title)
    low, high = lines.min(axis=(0, 1, 2)), lines.max(axis=(0, 1, 2))
    frames = []
    for i, level in enumerate(levels):
        figure = plot_denoising(lines[[i]], best, [level], titles, "")
        for panel, bottom, top in zip(figure.axes, low, high, strict=True):
            panel.set_ylim(bottom, top)
        frames.append(figure_to_image(figure))
    findings.films["denoising"] = (frames + frames[-1:] * _GIF_REST, _GIF_FPS)
    if maze is None:
        return
    goal = standing[:1, maze.goal]
    paths = raw[..., count:][..., maze.position]  # (S, K, H, 2)
    findings.figures["denoising_maze"] = plot_paths(
        paths[shown], np.repeat(goal, len(shown), axis=0), [best] * len(shown), maze, title, names
    )
    frames = [
        figure_to_image(plot_paths(paths[[i]], goal, [best], maze, "", [level])) for i, level in enumerate(levels)
    ]
    findings.films["denoising_maze"] = (frames + frames[-1:] * _GIF_REST, _GIF_FPS)
    some = np.unique(np.linspace(0, len(standing) - 1, min(len(standing), _MAZE_PANELS)).round().astype(int))
    findings.figures["plans"] = plot_paths(
        _raw(pipeline, sampled.trajectories[some])[..., count:][..., maze.position],
        standing[some][:, maze.goal],
        sampled.best[some].tolist(),
        maze,
        "Plans from places that were visited: good ones keep off the walls and head for the star",
    )
