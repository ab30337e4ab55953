"""What a dataset's numbers are like: lengths, returns, ends, correlation lengths, constant dimensions.

Shapes: E episodes of n steps, A action and O observation dimensions, T = A + O, in physical units.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from vgp_lightning.data.cache import Episodes
from vgp_lightning.data.normalizer import CHUNK, Statistics, is_constant, measure

_EPISODES = 200  # of which correlations are taken, evenly spread
_CORRELATED = 1 / np.e  # the correlation at which two numbers count as unrelated, as is usual for a correlation length


@dataclass(frozen=True)
class Measures:
    """Measures of the episodes of a dataset.

    Attributes:
        lengths: (E,), steps.
        returns: (E,), sums of rewards.
        terminated: (E,), False: truncated.
        last_rewards: (E,), rewards of the last steps.
        reward_mean: Mean reward of a step.
        reward_size: Median of the absolute rewards that are not 0; 0 if all are.
        rewarded: Share of steps whose reward is not 0.
        equal_rewards: Whether all rewards are the same.
        actions: Statistics of the actions, (A,) each.
        observations: Statistics of the observations, (O,) each.
        constant_actions: Dimensions that never change.
        constant_observations: Dimensions that never change.
        observation_lags: (O,), steps until a dimension's correlation with itself falls below 1/e; NaN: it is constant,
            or stays above within the episodes.
        reward_lag: The same for the rewards; NaN: they are constant, or stay above.
    """

    lengths: NDArray[np.int64]
    returns: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    last_rewards: NDArray[np.float64]
    reward_mean: float
    reward_size: float
    rewarded: float
    equal_rewards: bool
    actions: Statistics
    observations: Statistics
    constant_actions: list[int]
    constant_observations: list[int]
    observation_lags: NDArray[np.float64]
    reward_lag: float


def measure_episodes(episodes: Episodes, action_dim: int) -> Measures:
    """Measure the episodes of a dataset.

    Args:
        episodes: From the cache.
        action_dim: A.
    """
    lengths = episodes.lengths
    ends = np.cumsum(lengths + 1)  # behind the last row of each episode
    firsts = ends - lengths - 1
    is_step = np.ones(len(episodes.rows), dtype=bool)
    is_step[ends - 1] = False
    rewards = np.asarray(episodes.rewards, dtype=np.float64)[is_step]
    sizes = np.abs(rewards[rewards != 0])
    actions = measure(_chunks(episodes.rows, slice(action_dim), is_step))
    observations = measure(_chunks(episodes.rows, slice(action_dim, None)))
    chosen = np.unique(np.linspace(0, len(lengths) - 1, _EPISODES).astype(int))
    return Measures(
        lengths=lengths,
        returns=np.add.reduceat(np.asarray(episodes.rewards, dtype=np.float64), firsts),
        terminated=episodes.terminated,
        last_rewards=np.asarray(episodes.rewards, dtype=np.float64)[ends - 2],
        reward_mean=float(rewards.mean()),
        reward_size=float(np.median(sizes)) if len(sizes) else 0.0,
        rewarded=float((rewards != 0).mean()),
        equal_rewards=bool(rewards.min() == rewards.max()),
        actions=actions,
        observations=observations,
        constant_actions=np.flatnonzero(is_constant(actions)).tolist(),
        constant_observations=np.flatnonzero(is_constant(observations)).tolist(),
        observation_lags=correlation_lengths(
            [episodes.rows[firsts[i] : ends[i], action_dim:] for i in chosen], observations.mean
        ),
        reward_lag=float(
            correlation_lengths(
                [episodes.rewards[firsts[i] : ends[i] - 1, None] for i in chosen], np.array([rewards.mean()])
            )[0]
        ),
    )


def _chunks(
    rows: NDArray[np.float32], columns: slice, chosen: NDArray[np.bool_] | None = None
) -> Iterator[NDArray[np.floating]]:
    """Yield parts of some columns of the rows, or of the chosen rows."""
    count = max(CHUNK // rows.shape[1], 1)
    for i in range(0, len(rows), count):
        part = rows[i : i + count, columns]
        yield part if chosen is None else part[chosen[i : i + count]]


def correlation_lengths(series: list[NDArray[np.float32]], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each dimension the lag at which its autocorrelation falls below 1/e, interpolated between two steps.

    The autocorrelation at a lag is the mean product of all pairs of deviations from ``mean`` that are so far apart in
    one episode, divided by their mean square. Lags are looked at up to half of the longest series, since of longer ones
    there are few pairs.

    Args:
        series: (n, D) for each episode.
        mean: (D,), of all of them.

    Returns:
        (D,); NaN where the dimension is constant, or its autocorrelation stays above.
    """
    lags = max(max(len(values) for values in series) // 2, 1) + 1
    products = np.zeros((lags, len(mean)))
    pairs = np.zeros((lags, 1))
    for values in series:
        deviations = np.asarray(values, dtype=np.float64) - mean
        count = min(lags, len(values))
        size = 2 * len(values)  # with as many zeros, since the transform's correlation is circular
        spectrum = fft.rfft(deviations, size, axis=0)
        products[:count] += fft.irfft(np.abs(spectrum) ** 2, size, axis=0)[:count]
        pairs[:count, 0] += len(values) - np.arange(count)
    covariance = products / np.maximum(pairs, 1)
    found = np.full(len(mean), np.nan)
    for dimension in range(len(mean)):
        variance = covariance[0, dimension]
        if variance <= 1e-12 * float(mean[dimension]) ** 2:  # constant up to the rounding of float32
            continue
        correlation = covariance[:, dimension] / variance
        below = np.flatnonzero((correlation < _CORRELATED) & (pairs[:, 0] > 0))
        if len(below):
            lag = int(below[0])
            before, here = correlation[lag - 1], correlation[lag]
            found[dimension] = lag - 1 + (before - _CORRELATED) / (before - here)
    return found
