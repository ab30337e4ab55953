"""Candidates: all plans that are sampled from some observations, with their way out of the noise.

Shapes: N observations, K candidates for each, S denoising steps, H steps of a plan, A action and O observation
dimensions, T = A + O, action first.
"""

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from vgp_lightning.agent.planning import Conditions
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings

_TOGETHER = 16  # observations that are planned from in a batch


@dataclass(frozen=True)
class Candidates:
    """All candidates from N observations, in the order in which they were drawn.

    Attributes:
        trajectories: (N, K, H, T), normalised.
        values: (N, K), predicted returns; None without a value function.
        scores: (N, K), what ranks them: the values, or what the critic says; None without either.
        advantages: (N, K), what the folder's critic says, whatever ranks; None without one.
        history: (S, K, H, T), normalised: the first observation's candidates after each denoising step.
        levels: S names of the remaining noise.
    """

    trajectories: NDArray[np.float32]
    values: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    advantages: NDArray[np.float32] | None
    history: NDArray[np.float32]
    levels: list[str]

    @property
    def best(self) -> NDArray[np.int64]:
        """The best candidates (N,): those of the highest score, or without scores the first ones."""
        if self.scores is None:
            return np.zeros(len(self.trajectories), dtype=np.int64)
        best: NDArray[np.int64] = self.scores.argmax(axis=1)
        return best

    @property
    def chosen(self) -> NDArray[np.float32]:
        """The trajectories (N, H, T) of the best candidates."""
        chosen: NDArray[np.float32] = self.trajectories[np.arange(len(self.trajectories)), self.best]
        return chosen


def sample_candidates(
    pipeline: ValueGuidedPlannerPipeline,
    observations: NDArray[np.floating],
    conditions: Conditions | None = None,
    **settings: Unpack[Settings],
) -> Candidates:
    """Plan from observations (N, O), number i with noise of the seed i, and keep every candidate.

    Args:
        pipeline: The planner.
        observations: (N, O).
        conditions: What the plans must pass through.
        settings: Those in place of the folder's.
    """
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
    values, frame = None, pipeline.frame.to(trajectories.device)
    if pipeline.value_function is not None:
        value = pipeline.learned_value.prepared(trajectories.shape[2] * frame.stride, frame)
        with torch.no_grad():
            parts = [value.values(plans.flatten(0, 1), 0, frame) for plans in ends]
        values = torch.cat(parts).view(trajectories.shape[:2]).cpu().numpy()
    advantages = None
    if pipeline.has_critic:
        observed, actions = (part[:, :, 0] for part in frame.to_raw(trajectories))  # of the first step
        with torch.no_grad():
            advantages = pipeline.load_critic().rank(observed, frame.clip_actions(actions)).cpu().numpy()
    scores = advantages if pipeline.resolve_settings(**settings)["rank_by"] == "critic" else values
    left = [f"noise level {timestep}" for timestep in visited[1 : len(history)]]
    return Candidates(trajectories.cpu().numpy(), values, scores, advantages, np.stack(history), [*left, "clean"])


def known(numbers: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return the values or scores (N, K) of candidates.

    Raises:
        ValueError: If they have none.
    """
    if numbers is None:
        raise ValueError("candidates have no values or scores: a value function or a critic is needed")
    return numbers


def to_raw(pipeline: ValueGuidedPlannerPipeline, trajectories: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return normalised trajectories in the environment's units, (..., H, T)."""
    raw: NDArray[np.float64] = pipeline.frame.denormalise(torch.as_tensor(trajectories).double()).numpy()
    return raw
