"""Guidance: what does it add to the predicted return, and at what price?

Shapes: N observations, K candidates for each, H steps of a plan, A action and O observation dimensions, T = A + O.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vgp_lightning.agent.episodes import Episode
from vgp_lightning.diagnostics.candidates import Candidates, known, to_raw
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.diagnostics.plans import UNREPEATABLE, execute_plans, step_errors
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.figures import BLUE, GREY, tidy


def examine_guidance(
    findings: Findings,
    pipeline: ValueGuidedPlannerPipeline,
    unguided: Candidates,
    guided: Candidates,
    replays: VectorEnv,
    places: Sequence[tuple[Episode, int]],
) -> None:
    """Compare guided candidates with unguided ones from the same noise.

    Args:
        findings: Where numbers and pictures go.
        pipeline: The planner.
        unguided: Candidates without guidance, with values.
        guided: Candidates with guidance, with values.
        replays: A single environment to execute first actions in.
        places: Where the N observations are from: an episode and the step in it.
    """
    gains = compare_guidance(unguided, guided)
    for name, candidates in (("unguided", unguided), ("guided", guided)):
        gains[f"one_step_{name}"] = _one_step_error(pipeline, candidates, replays, places)
    if gains["one_step_guided"] is None:
        findings.missing["guidance.one_step"] = UNREPEATABLE
    findings.numbers["guidance"] = gains
    before, after = known(unguided.values), known(guided.values)
    middle = before.mean(axis=1, keepdims=True)
    findings.figures["guidance"] = plot_gains(
        before - middle,
        after - middle,
        f"Predicted return without and with guidance, from the same noise ({len(places)} observations)",
    )


def _one_step_error(
    pipeline: ValueGuidedPlannerPipeline,
    candidates: Candidates,
    replays: VectorEnv,
    places: Sequence[tuple[Episode, int]],
) -> float | None:
    """Return the error of the chosen candidates' first step as a share of the change; None: it cannot be executed."""
    plans = to_raw(pipeline, candidates.chosen[:, :2])[:, :2]
    actions, planned = plans[..., : pipeline.action_dim], plans[:, 1, pipeline.action_dim :]
    observed = execute_plans(replays, places, pipeline.frame.clip_actions(torch.as_tensor(actions)).numpy())
    if observed is None:
        return None
    standing = np.stack([episode.observations[step] for episode, step in places])
    error: float | None = step_errors(standing, planned, observed[:, 1])["mean"]
    return error


def compare_guidance(unguided: Candidates, guided: Candidates) -> dict[str, Any]:
    """Return what guidance adds to the predicted return, and how far it moves the plans, from the same noise.

    Raises:
        ValueError: If there are no values.
    """
    before, after = known(unguided.values), known(guided.values)
    moved = np.sqrt(((guided.trajectories - unguided.trajectories) ** 2).mean(axis=(2, 3)))
    # Candidates that were drawn one after the other are independent samples.
    apart = np.sqrt(((unguided.trajectories - np.roll(unguided.trajectories, 1, axis=1)) ** 2).mean(axis=(2, 3)))
    return {
        "observations": len(moved),
        "candidates": moved.shape[1],
        "gain_mean": float((after - before).mean()),
        "gain_best": float((after.max(axis=1) - before.max(axis=1)).mean()),
        "selection_gain": float((before.max(axis=1) - before.mean(axis=1)).mean()),
        "spread": float(before.std(axis=1).mean()),
        "moved": float(moved.mean()),
        "apart": float(apart.mean()) if moved.shape[1] > 1 else None,
    }


def plot_gains(unguided: ArrayLike, guided: ArrayLike, title: str) -> Figure:
    """Draw histograms of predicted values without and with guidance: of all candidates, and of the best.

    Values outside the middle 98 % are counted in the outermost bars.

    Args:
        unguided: (N, K), relative to the mean of the unguided candidates of the same observation.
        guided: (N, K), relative to the same means.
        title: Title of the figure.
    """
    groups = {"unguided": (np.asarray(unguided), GREY), "guided": (np.asarray(guided), BLUE)}
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    low, high = np.percentile(np.concatenate([values.ravel() for values, _ in groups.values()]), [1, 99])
    edges = np.histogram_bin_edges([low, high], bins=40)  # numpy widens an interval of no width
    for panel, what in zip(figure.subplots(1, 2, sharex=True), ("all candidates", "best candidate"), strict=True):
        for name, (values, colour) in groups.items():
            shown = values.ravel() if what == "all candidates" else values.max(axis=1)
            weights = np.full(len(shown), 1 / len(shown))
            panel.hist(shown.clip(edges[0], edges[-1]), edges, weights=weights, color=colour, alpha=0.55, label=name)
            panel.axvline(shown.mean(), color=colour, linewidth=1.8)
        panel.set_title(what, fontsize=10)
        panel.set_xlabel("predicted return minus unguided mean")
        panel.set_ylabel("share")
        tidy(panel)
    panel.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure
