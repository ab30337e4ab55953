"""Values: do the predicted returns come true, and do they rank plans correctly?

Shapes: L steps of an episode, P plans made in it, H steps of a plan, A action and O observation dimensions, T = A + O.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vgp_lightning.agent.episodes import Episode
from vgp_lightning.data.returns import discounted_returns
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.figures import plot_bars, plot_calibration
from vgp_lightning.report.statistics import calibrate, rank_correlation

_LEVELS = 5  # noise levels at which values are ranked, evenly spaced
_WINDOWS = 2048  # ranked windows at most
_REST = 0.1  # a return is complete if the discount of what is missing is at most this
_SEED = 0  # of the noise


def examine_values(
    findings: Findings, pipeline: ValueGuidedPlannerPipeline, episodes: Sequence[Episode], horizon: int
) -> None:
    """Compare predicted values with realised returns.

    Args:
        findings: Where numbers and pictures go.
        pipeline: The planner.
        episodes: Episodes that it has played, with its plans.
        horizon: H.
    """
    discount, penalty = pipeline.task.get("discount"), pipeline.task.get("termination_penalty") or 0.0
    if pipeline.value_function is None or discount is None:
        no_value = "the folder has no value function: export with --value"
        reason = no_value if pipeline.value_function is None else "the folder does not name the discount of its returns"
        findings.miss("calibration", reason)
        findings.miss("ranking", reason)
        return
    realised = [realise(episode, discount, penalty) for episode in episodes]
    at_plans = [truth.at(episode.plan_steps) for truth, episode in zip(realised, episodes, strict=True)]
    predicted = np.concatenate([episode.values for episode in episodes])
    returns = np.concatenate([truth.returns for truth in at_plans])
    complete = np.concatenate([truth.complete for truth in at_plans])
    everything = calibrate(predicted, returns)
    whole = calibrate(predicted[complete], returns[complete]) if complete.any() else None
    findings.numbers["calibration"] = {
        "discount": discount,
        "termination_penalty": penalty,
        "episodes": len(episodes),
        "all": asdict(everything),
        "complete": None if whole is None else asdict(whole),
    }
    title = f"Predicted and realised return of executed plans ({len(episodes)} episodes)\nblack: " + (
        "means of all returns, all truncated" if whole is None else "means of complete returns"
    )
    findings.figures["calibration"] = plot_calibration(predicted, returns, (whole or everything).curve, title, complete)
    ranked = rank_executed(pipeline, episodes, realised, horizon)
    if ranked is None:
        findings.miss("ranking", f"no episode lasts the {horizon} steps of a window")
        return
    findings.numbers["ranking"] = ranked
    bars = {"complete returns": [entry["complete"] for entry in ranked]}
    if ranked[0]["complete_windows"] < ranked[0]["windows"]:
        bars["all returns"] = [entry["all"] for entry in ranked]
    findings.figures["ranking"] = plot_bars(
        bars,
        [str(entry["level"]) for entry in ranked],
        "rank correlation",
        "Predicted and realised return of executed windows\n1: all ranked correctly; 0: chance",
    )
    findings.figures["ranking"].axes[0].set_xlabel("noise level (0: clean)")


@dataclass(frozen=True)
class Realised:
    """The realised returns from some steps of an episode.

    Attributes:
        returns: (L,), discounted, to the episode's end.
        complete: (L,), whether the environment ended the episode, or so late that the rest hardly counts.
    """

    returns: NDArray[np.float32]
    complete: NDArray[np.bool_]

    def at(self, steps: NDArray[np.int64] | slice) -> "Realised":
        """Return those from some of the steps."""
        return Realised(self.returns[steps], self.complete[steps])


def realise(episode: Episode, discount: float, termination_penalty: float) -> Realised:
    """Return the realised returns from all steps, computed as the value function's training targets are."""
    remaining = episode.length - np.arange(episode.length)
    returns = discounted_returns(episode.rewards, episode.terminated, discount, termination_penalty)
    return Realised(returns, episode.terminated | (discount**remaining <= _REST))


def rank_executed(
    pipeline: ValueGuidedPlannerPipeline, episodes: Sequence[Episode], realised: Sequence[Realised], horizon: int
) -> list[dict[str, Any]] | None:
    """Return the rank correlation of predicted and realised return at several noise levels.

    The windows are H consecutive executed steps of an episode. All levels have the same windows and the same noise; at
    level 0 the windows are clean, as candidates are when they are ranked. (In validation level 0 has its noise.)

    Returns:
        An entry for each level; None: no episode lasts H steps.
    """
    windows, parts = [], []
    for episode, truth in zip(episodes, realised, strict=True):
        rows = np.concatenate([episode.actions, episode.observations[:-1]], axis=1)  # (L, T)
        count = episode.length - horizon + 1
        if count > 0:
            windows.append(np.lib.stride_tricks.sliding_window_view(rows, horizon, axis=0).swapaxes(1, 2))
            parts.append(truth.at(slice(count)))
    if not windows:
        return None
    returns = np.concatenate([truth.returns for truth in parts])
    complete = np.concatenate([truth.complete for truth in parts])
    chosen = np.unique(np.linspace(0, len(returns) - 1, min(len(returns), _WINDOWS)).round().astype(int))
    returns, complete = returns[chosen], complete[chosen]
    frame = pipeline.frame.to(pipeline.device)
    value = pipeline.learned_value.prepared(horizon, frame)
    raw = torch.as_tensor(np.concatenate(windows)[chosen].astype(np.float32), device=pipeline.device)
    clean = frame.normalise(raw)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(_SEED)).to(clean)
    trained = len(value.alphas_cumprod)
    ranked = []
    for level in np.linspace(0, trained - 1, min(_LEVELS, trained)).round().astype(int).tolist():
        alpha = float(value.alphas_cumprod[level]) if level else 1.0
        noised = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
        seen = slice(frame.action_entries, None)
        noised[:, 0, seen] = clean[:, 0, seen]  # pinned, as in planning
        with torch.no_grad():
            predicted = value.values(noised, level, frame).cpu().numpy()
        ranked.append(
            {
                "level": level,
                "all": rank_correlation(predicted, returns),
                "complete": rank_correlation(predicted[complete], returns[complete]),
                "windows": len(returns),
                "complete_windows": int(complete.sum()),
            }
        )
    return ranked
