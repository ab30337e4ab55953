"""The return from each step of an episode, and what the end of an episode means for it."""

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
    """Return the discounted sum of one episode's rewards (n,) from each step to its end (n,).

    A terminated episode is worth nothing after its end; ``termination_penalty`` is added to its last reward. A
    truncated one would have gone on, so its recorded sum falls short: ``cut`` takes it as it is, as the paper does
    (all windows fall short alike, whatever their quality, so the ranking suffers little); ``continue`` adds what the
    episode's mean reward would bring for ever after.
    """
    rewards = rewards.astype(np.float64)
    tail = 0.0
    if terminated:
        rewards[-1] += termination_penalty
    elif truncation == "continue":
        tail = float(rewards.mean()) / (1 - discount)
    summed, _ = signal.lfilter([1.0], [1.0, -discount], rewards[::-1], zi=[discount * tail])
    return np.asarray(summed[::-1], dtype=np.float32)
