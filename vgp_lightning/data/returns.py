"""Discounted returns (Monte Carlo returns) of episodes, and what the end of an episode means for them.

Shapes: E episodes, n steps of one.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import signal

Truncation = Literal["cut", "continue"]


def discounted_returns(
    rewards: NDArray[np.floating],
    terminated: bool,
    discount: float,
    termination_penalty: float = 0.0,
    truncation: Truncation = "cut",
) -> NDArray[np.float32]:
    """Return the discounted return-to-go of one episode: from each step, the sum of the rewards up to the end.

    Args:
        rewards: (n,), of the episode's steps.
        terminated: Whether the episode ended in a terminal state, after which there is no reward. If not, it was
            truncated: it would have gone on, so the sum of the recorded rewards is too small.
        discount: In [0, 1]; below 1 if ``truncation`` is ``continue``.
        termination_penalty: Added to the last reward of a terminated episode.
        truncation: ``cut`` ignores what would follow the end of a truncated episode, as the paper does: all windows
            lose in the same way, whatever their quality, so their ranking changes little. ``continue`` adds the
            return of receiving the episode's mean reward for ever.

    Returns:
        (n,), in the unit of the rewards.
    """
    rewards = rewards.astype(np.float64)
    tail = 0.0
    if terminated:
        rewards[-1] += termination_penalty
    elif truncation == "continue":
        tail = float(rewards.mean()) / (1 - discount)
    summed, _ = signal.lfilter([1.0], [1.0, -discount], rewards[::-1], zi=[discount * tail])
    return np.asarray(summed[::-1], dtype=np.float32)


def returns_by_row(
    rewards: NDArray[np.float32],
    lengths: NDArray[np.int64],
    terminated: NDArray[np.bool_],
    discount: float,
    termination_penalty: float,
    truncation: Truncation,
) -> Iterator[NDArray[np.float32]]:
    """Yield the returns of one episode after the other, for the rows of the cache: n + 1 for n steps, the last one 0.

    Args:
        rewards: (sum of n + 1,), of all rows.
        lengths: (E,), the episodes' n.
        terminated: (E,).
        discount: See ``discounted_returns``, as for the next two.
        termination_penalty: Added to the last reward of a terminated episode.
        truncation: ``cut`` or ``continue``.
    """
    first = 0
    for length, ended in zip(lengths, terminated, strict=True):
        steps = rewards[first : first + length]
        returns = discounted_returns(steps, bool(ended), discount, termination_penalty, truncation)
        yield np.append(returns, np.float32(0))
        first += length + 1
