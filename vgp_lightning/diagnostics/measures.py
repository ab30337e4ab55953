"""Measure a planner: whether its values rank, whether its plans come true, what guidance brings.

Shapes: N observations, K candidates for each, S denoising steps, H steps of a plan, A action and O observation
dimensions, T = A + O. Recordings are in physical units, trajectories inside normalised; both action first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from vgp_lightning.agent.episodes import Recording, replay
from vgp_lightning.agent.planning import Conditions
from vgp_lightning.data.returns import discounted_returns
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.statistics import rank_correlation

_LEVELS = 5  # noise levels at which values are ranked, evenly spread
_WINDOWS = 2048  # at most so many executed windows are ranked
_REST = 0.1  # a return is complete where its missing rest weighs at most this
_TOGETHER = 16  # observations that are planned from in a batch
_SEED = 0  # of the noise

Numbers = list[float | None]


# ---------------------------------------------------------------- values


@dataclass(frozen=True)
class Realised:
    """What came true from each step of an episode."""

    returns: NDArray[np.float32]  # (L,), discounted, to the episode's end
    complete: NDArray[np.bool_]  # (L,), whether the end was the environment's, or so far away that it hardly counts


def realise(recording: Recording, discount: float, termination_penalty: float) -> Realised:
    """Return what came true, as training reckons the returns that the value function learns."""
    remaining = recording.length - np.arange(recording.length)
    returns = discounted_returns(recording.rewards, recording.terminated, discount, termination_penalty)
    return Realised(returns, recording.terminated | (discount**remaining <= _REST))


def rank_executed(
    pipeline: ValueGuidedPlannerPipeline, recordings: Sequence[Recording], realised: Sequence[Realised], horizon: int
) -> list[dict[str, Any]] | None:
    """Return the rank correlation of predicted and realised return at noise levels; None: no episode lasts H steps.

    The windows are H executed steps of one episode each, the same ones and the same noise at every level but 0, where
    they are clean: that is what candidates are when they are ranked. (Validation adds that level's noise, too.)
    """
    windows, returns, complete = [], [], []
    for recording, truth in zip(recordings, realised, strict=True):
        rows = np.concatenate([recording.actions, recording.observations[:-1]], axis=1)  # (L, T)
        count = recording.length - horizon + 1
        if count > 0:
            windows.append(np.lib.stride_tricks.sliding_window_view(rows, horizon, axis=0).swapaxes(1, 2))
            returns.append(truth.returns[:count])
            complete.append(truth.complete[:count])
    if not windows:
        return None
    result, whole = np.concatenate(returns), np.concatenate(complete)
    chosen = np.unique(np.linspace(0, len(result) - 1, min(len(result), _WINDOWS)).round().astype(int))
    result, whole = result[chosen], whole[chosen]
    value = pipeline.learned_value
    value = value.prepared(horizon, value.frame)
    raw = torch.as_tensor(np.concatenate(windows)[chosen].astype(np.float32), device=pipeline.device)
    clean = (raw - value.frame.shift) / value.frame.scale
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(_SEED)).to(clean)
    trained = len(value.alphas_cumprod)
    ranked = []
    for level in np.linspace(0, trained - 1, min(_LEVELS, trained)).round().astype(int).tolist():
        alpha = float(value.alphas_cumprod[level]) if level else 1.0
        noised = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
        noised[:, 0, pipeline.action_dim :] = clean[:, 0, pipeline.action_dim :]  # pinned, as in planning
        with torch.no_grad():
            predicted = value.values(noised, level, value.frame).cpu().numpy()
        ranked.append(
            {
                "level": level,
                "all": rank_correlation(predicted, result),
                "complete": rank_correlation(predicted[whole], result[whole]),
                "windows": len(result),
                "complete_windows": int(whole.sum()),
            }
        )
    return ranked


# ---------------------------------------------------------------- plans against what was then observed


def distances(
    first: NDArray[np.floating], second: NDArray[np.floating], scale: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the root mean square over the last dimension of the difference, each part divided by its scale."""
    result: NDArray[np.floating] = np.sqrt((((first - second) / scale) ** 2).mean(axis=-1))
    return result


def follow_plans(recordings: Sequence[Recording], action_dim: int, scale: NDArray[np.floating]) -> dict[str, Any]:
    """Compare each plan with the observations that were then visited, k steps on, and with standing still.

    Args:
        recordings: The episodes.
        action_dim: A.
        scale: (O,), the normaliser's.

    Returns:
        ``replanned``, ``movement`` and ``plans``, H numbers each: mean distance of the planned observation from the
        visited one, of the visited one from that of the plan's making, and of how many plans; None where no episode
        went on for so long.
    """
    horizon = recordings[0].plans.shape[1]
    errors, moves = [], []
    for recording in recordings:
        visited = np.full((recording.length + horizon, recording.observations.shape[1]), np.nan)
        visited[: recording.length + 1] = recording.observations
        later = visited[recording.plan_steps[:, None] + np.arange(horizon)]  # (P, H, O)
        errors.append(distances(recording.plans[:, :, action_dim:], later, scale))
        moves.append(distances(later[:, :1], later, scale))
    errors_, moves_ = np.concatenate(errors), np.concatenate(moves)  # (P, H) each
    return {
        "replanned": column_means(errors_),
        "movement": column_means(moves_),
        "plans": np.count_nonzero(~np.isnan(errors_), axis=0).tolist(),
    }


def execute_plans(
    environment: VectorEnv, starts: Sequence[tuple[Recording, int]], actions: NDArray[np.floating]
) -> NDArray[np.floating] | None:
    """Execute plans' own actions (n, H, A) from steps of episodes and return what is observed (n, H, O).

    After an episode's end there is NaN. None: the environment cannot be brought back to where the plans began.
    """
    horizon = actions.shape[1]
    observed = np.full((len(starts), horizon, starts[0][0].observations.shape[1]), np.nan)
    for row, (recording, step), own in zip(observed, starts, actions, strict=True):
        seen = replay(environment, recording, step, own[:-1])
        if seen is None:
            return None
        row[: len(seen)] = seen
    return observed


def column_means(numbers: NDArray[np.floating]) -> Numbers:
    """Return the mean of each column of (n, H), without what is NaN; None where nothing else is."""
    known = ~np.isnan(numbers)
    sums, counts = np.where(known, numbers, 0).sum(axis=0), known.sum(axis=0)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def foretold(errors: Numbers, movement: Numbers) -> float | None:
    """Return the share of the steps ahead for which a plan tells more than standing still would; None: of none."""
    known = [(error, moved) for error, moved in zip(errors, movement, strict=True) if error is not None][1:]
    return float(np.mean([error < moved for error, moved in known if moved is not None])) if known else None


def step_errors(
    before: NDArray[np.floating], planned: NDArray[np.floating], after: NDArray[np.floating]
) -> dict[str, Any]:
    """Compare a plan's next observation with the one that its action led to, as a share of the change.

    Args:
        before: (n, O), where the plans stood.
        planned: (n, O), where they expected to be next.
        after: (n, O), where their first actions led.

    Returns:
        ``dimensions``: O numbers, the root mean square of planned - after over that of before - after, so that 1 is no
        better than to expect no change; None where nothing changes. ``mean``: theirs; None if nothing changes at all.
    """
    change = np.sqrt(((before - after) ** 2).mean(axis=0))
    error = np.sqrt(((planned - after) ** 2).mean(axis=0))
    shares: Numbers = [float(e / c) if c > 0 else None for e, c in zip(error, change, strict=True)]
    known = [share for share in shares if share is not None]
    return {"dimensions": shares, "mean": float(np.mean(known)) if known else None, "plans": len(before)}


def check_dynamics(recordings: Sequence[Recording], action_dim: int) -> dict[str, Any]:
    """Return ``step_errors`` of all plans: each was made where its first action was then executed."""
    return step_errors(
        np.concatenate([recording.observations[recording.plan_steps] for recording in recordings]),
        np.concatenate([recording.plans[:, 1, action_dim:] for recording in recordings]),
        np.concatenate([recording.observations[recording.plan_steps + 1] for recording in recordings]),
    )


# ---------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Sampled:
    """All candidates from N observations, in the order in which they were drawn."""

    trajectories: NDArray[np.float32]  # (N, K, H, T), normalised
    values: NDArray[np.float32] | None  # (N, K), predicted returns; None without a value function
    history: NDArray[np.float32]  # (S, K, H, T), normalised: those of the first observation after each denoising
    levels: list[str]  # S names of the noise that is left

    @property
    def best(self) -> NDArray[np.int64]:
        """The candidates (N,) that are chosen: of the highest value, or without values the first ones."""
        if self.values is None:
            return np.zeros(len(self.trajectories), dtype=np.int64)
        best: NDArray[np.int64] = self.values.argmax(axis=1)
        return best

    @property
    def chosen(self) -> NDArray[np.float32]:
        """The chosen candidates (N, H, T)."""
        chosen: NDArray[np.float32] = self.trajectories[np.arange(len(self.trajectories)), self.best]
        return chosen


def sample(
    pipeline: ValueGuidedPlannerPipeline,
    observations: NDArray[np.floating],
    conditions: Conditions | None = None,
    **settings: Any,
) -> Sampled:
    """Plan from observations (N, O), each from noise of its own number, and keep every candidate."""
    history: list[NDArray[np.float32]] = []
    visited: list[int] = []
    ends: list[torch.Tensor] = []
    for first in range(0, len(observations), _TOGETHER):
        some = observations[first : first + _TOGETHER]
        steps: list[torch.Tensor] = []

        def keep(_: Any, index: int, timestep: int, state: dict[str, torch.Tensor], steps: Any = steps) -> None:
            del index
            steps.append(state["trajectories"])
            visited.append(timestep)

        pipeline(
            some,
            conditions=None if conditions is None else conditions(some),
            generator=[torch.Generator(pipeline.device).manual_seed(first + i) for i in range(len(some))],
            callback_on_step_end=keep,
            **settings,
        )
        if first == 0:
            history = [trajectories[0].cpu().numpy() for trajectories in steps]
        ends.append(steps[-1])
    trajectories = torch.cat(ends)
    values = None
    if pipeline.value_function is not None:
        value = pipeline.learned_value
        value = value.prepared(trajectories.shape[2], value.frame)
        with torch.no_grad():
            parts = [value.values(plans.flatten(0, 1), 0, value.frame) for plans in ends]
        values = torch.cat(parts).view(trajectories.shape[:2]).cpu().numpy()
    left = [f"noise level {timestep}" for timestep in visited[1 : len(history)]]
    return Sampled(trajectories.cpu().numpy(), values, np.stack(history), [*left, "clean"])


def compare_guidance(unguided: Sampled, guided: Sampled) -> dict[str, Any]:
    """Return what guidance brings in predicted return, and how far it moves the plans, from the same noise.

    Raises:
        ValueError: If there are no values.
    """
    if unguided.values is None or guided.values is None:
        raise ValueError("candidates have no values: guidance needs a value function")
    moved = np.sqrt(((guided.trajectories - unguided.trajectories) ** 2).mean(axis=(2, 3)))
    # Two candidates that were drawn side by side differ by chance alone.
    apart = np.sqrt(((unguided.trajectories - np.roll(unguided.trajectories, 1, axis=1)) ** 2).mean(axis=(2, 3)))
    return {
        "observations": len(moved),
        "candidates": moved.shape[1],
        "gain_mean": float((guided.values - unguided.values).mean()),
        "gain_best": float((guided.values.max(axis=1) - unguided.values.max(axis=1)).mean()),
        "selection_gain": float((unguided.values.max(axis=1) - unguided.values.mean(axis=1)).mean()),
        "spread": float(unguided.values.std(axis=1).mean()),
        "moved": float(moved.mean()),
        "apart": float(apart.mean()) if moved.shape[1] > 1 else None,
    }
