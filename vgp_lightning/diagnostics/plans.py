"""Plans: do they come true, when the agent replans on the way and when a plan is executed to its end?

Shapes: n chosen plans, L steps of an episode, P plans made in it, H steps of a plan, A action and O observation
dimensions, T = A + O. Plans and episodes are in the environment's units, plans have the action first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vgp_lightning.agent.episodes import Episode
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.figures import BLUE, GREY, ORANGE, plot_bars, tidy
from vgp_lightning.report.names import name_dimensions

Numbers = list[float | None]

UNREPEATABLE = (
    "the same seed and the same actions lead to other observations: the environment's randomness does not come from "
    "its seed alone, so no plan can be executed again from where it was made"
)


def examine_plans(
    findings: Findings,
    pipeline: ValueGuidedPlannerPipeline,
    episodes: Sequence[Episode],
    replays: VectorEnv,
    chosen: Sequence[tuple[Episode, int]],
) -> None:
    """Compare plans with the observations that were visited, and with those that their own actions lead to.

    Args:
        findings: Where numbers and pictures go.
        pipeline: The planner.
        episodes: Episodes that it has played, with its plans.
        replays: A single environment to execute plans in.
        chosen: The plans to execute: an episode and the number of the plan in it.
    """
    actions = pipeline.action_dim
    scale = np.array(pipeline.normalization["scale"][actions:])
    horizon = follow_plans(episodes, actions, scale)
    horizon["foretold"] = foretold(horizon["replanned"], horizon["movement"])
    findings.numbers["horizon"] = horizon
    curves = {"movement of the state": horizon["movement"], "plan, with replanning": horizon["replanned"]}
    plans = np.stack([episode.plans[number] for episode, number in chosen])  # (n, H, T)
    observed = execute_plans(replays, plan_places(chosen), plans[:, :, :actions])
    if observed is None:
        findings.miss("own_actions", UNREPEATABLE)
    else:
        own = column_means(distances(plans[:, :, actions:], observed, scale))
        moved = column_means(distances(observed[:, :1], observed, scale))
        findings.numbers["own_actions"] = {
            "distance": own,
            "movement": moved,
            "starts": len(chosen),
            "foretold": foretold(own, moved),
        }
        curves["plan, its own actions to the end"] = own
    findings.figures["horizon"] = plot_curves(
        curves,
        "distance in normalised units",
        "Planned and visited observations\nfar below the grey line: plans come true",
    )
    names = list(name_dimensions(pipeline.task.get("env_id"), actions, len(scale)).observations)
    findings.numbers["dynamics"] = check_dynamics(episodes, actions) | {"names": names}
    findings.figures["dynamics"] = plot_bars(
        {"plan": findings.numbers["dynamics"]["dimensions"]},
        names,
        "error / change",
        "One step: error of the plan as a share of the change\n0: as the simulator; 1: as expecting no change",
        line=1,
    )


def choose_plans(episodes: Sequence[Episode], starts: int) -> list[tuple[Episode, int]]:
    """Return so many plans of each episode by their numbers, evenly spaced; all if there are no more."""
    return [
        (episode, number)
        for episode in episodes
        for number in np.unique(np.arange(starts) * len(episode.plans) // starts).tolist()
    ]


def plan_places(chosen: Sequence[tuple[Episode, int]]) -> list[tuple[Episode, int]]:
    """Return where plans were made: the episode and the step in it, for plans given by their numbers."""
    return [(episode, int(episode.plan_steps[number])) for episode, number in chosen]


# ---------------------------------------------------------------- plans and visited observations


def distances(
    first: NDArray[np.floating], second: NDArray[np.floating], scale: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the root mean square over the last dimension of the difference, divided by its scale."""
    result: NDArray[np.floating] = np.sqrt((((first - second) / scale) ** 2).mean(axis=-1))
    return result


def follow_plans(episodes: Sequence[Episode], action_dim: int, scale: NDArray[np.floating]) -> dict[str, Any]:
    """Compare each plan with the observations that were visited k steps later, and with expecting no change.

    Args:
        episodes: The episodes.
        action_dim: A.
        scale: (O,), the normaliser's.

    Returns:
        ``replanned``, ``movement`` and ``plans``, H numbers each: the mean distance of the planned observation from the
        visited one, that of the visited one from the observation planned from, and the number of plans in these means.
        None where no episode went on for so long.
    """
    horizon = episodes[0].plans.shape[1]
    errors, moves = [], []
    for episode in episodes:
        visited = np.full((episode.length + horizon, episode.observations.shape[1]), np.nan)
        visited[: episode.length + 1] = episode.observations
        later = visited[episode.plan_steps[:, None] + np.arange(horizon)]  # (P, H, O)
        errors.append(distances(episode.plans[:, :, action_dim:], later, scale))
        moves.append(distances(later[:, :1], later, scale))
    errors_, moves_ = np.concatenate(errors), np.concatenate(moves)  # (P, H) each
    return {
        "replanned": column_means(errors_),
        "movement": column_means(moves_),
        "plans": np.count_nonzero(~np.isnan(errors_), axis=0).tolist(),
    }


def column_means(numbers: NDArray[np.floating]) -> Numbers:
    """Return the mean of each column of (n, H) without its NaN; None where all is NaN."""
    known = ~np.isnan(numbers)
    sums, counts = np.where(known, numbers, 0).sum(axis=0), known.sum(axis=0)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def foretold(errors: Numbers, movement: Numbers) -> float | None:
    """Return the share of the steps ahead at which plans are better than expecting no change; None: no step is known.

    Step 0 is the present observation and does not count.
    """
    known = [(error, moved) for error, moved in zip(errors, movement, strict=True) if error is not None][1:]
    return float(np.mean([error < moved for error, moved in known if moved is not None])) if known else None


def plot_curves(curves: Mapping[str, Sequence[float | None]], axis: str, title: str) -> Figure:
    """Draw numbers over the steps of the horizon; the first curve is the reference for the others.

    Args:
        curves: H numbers each, None where there is none; at most three.
        axis: Label of the vertical axis.
        title: Title of the figure.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    for i, (name, numbers) in enumerate(curves.items()):
        heights = np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)
        panel.plot(heights, "-" if i else "--", color=(GREY, BLUE, ORANGE)[i], label=name, linewidth=1.6)
    panel.set_xlabel("steps ahead")
    panel.set_ylabel(axis)
    panel.set_ylim(bottom=0)
    panel.set_title(title, fontsize=10)
    panel.legend(fontsize=8, frameon=False)
    tidy(panel)
    return figure


# ---------------------------------------------------------------- plans and the simulator


def execute_plans(
    environment: VectorEnv, places: Sequence[tuple[Episode, int]], actions: NDArray[np.floating]
) -> NDArray[np.floating] | None:
    """Execute plans' own actions from steps of episodes.

    Args:
        environment: A single one, from ``make_environments``.
        places: n episodes, and the step in each at which the plan begins.
        actions: (n, H, A).

    Returns:
        The observations (n, H, O), NaN after an episode's end; None: the environment cannot be brought back to where
        the plans began.
    """
    horizon = actions.shape[1]
    observed = np.full((len(places), horizon, places[0][0].observations.shape[1]), np.nan)
    for row, (episode, step), own in zip(observed, places, actions, strict=True):
        seen = replay(environment, episode, step, own[:-1])
        if seen is None:
            return None
        row[: len(seen)] = seen
    return observed


def replay(
    environment: VectorEnv, episode: Episode, step: int, actions: NDArray[np.floating]
) -> NDArray[np.floating] | None:
    """Repeat an episode up to a step, then execute other actions.

    Args:
        environment: A single one, from ``make_environments``.
        episode: The episode.
        step: The step at which the other actions begin.
        actions: The other actions (n, A).

    Returns:
        The observations (m + 1, O) from the step on, where m is less than n if the episode ends before; None: with the
        same seed and the same actions the environment came to other observations, so it cannot be repeated.
    """
    observations, _ = environment.reset(seed=episode.seed)
    observed = [observations[0].copy()]
    ended = False
    for action in (*episode.actions[:step], *actions):
        t = len(observed) - 1
        # Simulators repeat exactly on one machine; the tolerance is for those that do so almost.
        if t <= step and (ended or not np.allclose(observed[t], episode.observations[t], rtol=1e-5, atol=1e-6)):
            return None
        if ended:
            break
        observations, _, terminated, truncated, _ = environment.step(action.reshape(environment.action_space.shape))
        observed.append(observations[0].copy())
        ended = bool(terminated[0] or truncated[0])
    return np.stack(observed[step:])


def step_errors(
    before: NDArray[np.floating], planned: NDArray[np.floating], after: NDArray[np.floating]
) -> dict[str, Any]:
    """Compare planned next observations with those that the plans' first actions led to.

    Args:
        before: (n, O), where the plans were made.
        planned: (n, O), the planned next observations.
        after: (n, O), where their first actions led.

    Returns:
        ``dimensions``: O numbers, the root mean square of planned - after divided by that of before - after, so that 1
        is the error of expecting no change; None where nothing changes. ``mean``: their mean; None if nothing changes
        at all. ``plans``: n.
    """
    change = np.sqrt(((before - after) ** 2).mean(axis=0))
    error = np.sqrt(((planned - after) ** 2).mean(axis=0))
    shares: Numbers = [float(e / c) if c > 0 else None for e, c in zip(error, change, strict=True)]
    known = [share for share in shares if share is not None]
    return {"dimensions": shares, "mean": float(np.mean(known)) if known else None, "plans": len(before)}


def check_dynamics(episodes: Sequence[Episode], action_dim: int) -> dict[str, Any]:
    """Return ``step_errors`` of all plans, whose first actions were executed where they were made."""
    return step_errors(
        np.concatenate([episode.observations[episode.plan_steps] for episode in episodes]),
        np.concatenate([episode.plans[:, 1, action_dim:] for episode in episodes]),
        np.concatenate([episode.observations[episode.plan_steps + 1] for episode in episodes]),
    )
