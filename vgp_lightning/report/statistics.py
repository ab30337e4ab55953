"""What numbers of episodes mean and how sure that is: returns, scores, intervals, tests. Arrays in, numbers out.

Every random number comes from a generator of its own with a fixed seed: equal data give equal intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL, POWER = 0.05, 0.8
_Z_LEVEL = float(stats.norm.ppf(1 - LEVEL / 2))
_Z = _Z_LEVEL + float(stats.norm.ppf(POWER))
FEWEST_RETURNS = 5  # a bootstrap's interval of fewer covers even a median in less than 90 of 100 cases
FEWEST_PAIRS = 6  # of fewer differences even the clearest, all of one sign, come about by chance in 2 of 2**5 cases

# ---------------------------------------------------------------- one sample


@dataclass(frozen=True)
class Summary:
    """Statistics of a sample. Intervals are [low, high], of 95 %; None where there are too few values for one."""

    mean: float
    ci95: list[float] | None  # of the mean
    iqm: float  # mean of the middle half: Agarwal et al. 2021, https://arxiv.org/abs/2108.13264
    iqm_ci95: list[float] | None
    median: float
    median_ci95: list[float] | None
    std: float | None  # of the sample (n - 1); None for a single value


def interquartile_mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Return the mean of what is left when a quarter of the values, rounded down, is cut off at either end."""
    middle: NDArray[np.float64] = stats.trim_mean(values, 0.25, axis=axis)
    return middle


def bootstrap_interval(
    values: NDArray[np.float64], statistic: Callable[..., NDArray[np.float64]] = np.mean
) -> list[float] | None:
    """Return the 95 % bootstrap interval of a statistic of a sample; None of fewer than five values.

    It is the percentile interval, whose tails are made smaller so that for normal values it is as wide as Student's
    (Hesterberg 2015, https://arxiv.org/abs/1411.5279). It was chosen by the share of intervals that covered the truth:
    docs/evaluation.md has the figures, for this one and those that were not taken.

    Args:
        values: (n,).
        statistic: What it is the interval of, with an ``axis``.
    """
    n = len(values)
    if n < FEWEST_RETURNS:
        return None
    tail = stats.norm.cdf(-sqrt(n / (n - 1)) * stats.t.ppf(1 - LEVEL / 2, n - 1))
    result = stats.bootstrap(
        (values,), statistic, confidence_level=1 - 2 * tail, method="percentile", rng=np.random.default_rng(0)
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def median_interval(values: NDArray[np.float64]) -> list[float] | None:
    """Return the 95 % interval of the median between two of the values, which is exact; None of fewer than six."""
    result = stats.quantile_test(values, p=0.5).confidence_interval(1 - LEVEL)
    return None if np.isnan(result.low) else [float(result.low), float(result.high)]


def wilson_interval(successes: int, count: int) -> list[float]:
    """Return Wilson's 95 % interval of a share."""
    interval = stats.binomtest(successes, count).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def summarize(values: Sequence[float] | NDArray[np.float64]) -> Summary:
    """Return the statistics of values, one for each episode.

    Raises:
        ValueError: If there are no values, or one is not finite.
    """
    sample = _checked(values, "statistics need at least one value and finite ones only")
    return Summary(
        mean=float(sample.mean()),
        ci95=bootstrap_interval(sample),
        iqm=float(interquartile_mean(sample)),
        iqm_ci95=bootstrap_interval(sample, interquartile_mean),
        median=float(np.median(sample)),
        median_ci95=median_interval(sample),
        std=float(sample.std(ddof=1)) if len(sample) > 1 else None,
    )


def _checked(values: Sequence[float] | NDArray[np.floating], demand: str) -> NDArray[np.float64]:
    """Return the values as an array, if there are any and all are finite."""
    sample = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(sample))
    if len(sample) == 0 or len(wrong):
        found = f"number {wrong[0]} of {len(sample)} is {sample[wrong[0]]}" if len(sample) else "there are none"
        raise ValueError(f"{demand}; {found}")
    return sample


# ---------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Paired:
    """What the differences of pairs tell."""

    difference: float  # their mean
    ci95: list[float] | None  # of the mean; leaves 0 out exactly where p is at most 0.05; None of fewer than six
    std: float | None  # of the differences (n - 1); None for a single one
    share_higher: float  # of the pairs, those whose difference is above 0
    share_equal: float
    sign_test_p: float
    permutation_p: float
    smallest_difference: float | None  # that this many pairs tell in 80 of 100 cases; None of fewer than six
    pairs_needed: int | None  # to tell this difference in 80 of 100 cases; None where it is 0 or there is one pair

    @property
    def told(self) -> bool:
        """Whether the mean differs from 0, at the level of 5 %."""
        return self.permutation_p <= LEVEL


def compare_pairs(differences: Sequence[float] | NDArray[np.float64]) -> Paired:
    """Return what the differences tell, one for each pair.

    Raises:
        ValueError: If there are no differences, or one is not finite.
    """
    sample = _checked(differences, "a comparison needs at least one pair and finite differences")
    p, interval = permutation_test(sample)
    return Paired(
        difference=float(sample.mean()),
        ci95=interval,
        std=float(sample.std(ddof=1)) if len(sample) > 1 else None,
        share_higher=float((sample > 0).mean()),
        share_equal=float((sample == 0).mean()),
        sign_test_p=sign_test(sample),
        permutation_p=p,
        smallest_difference=smallest_difference(sample),
        pairs_needed=pairs_needed(sample),
    )


def sign_test(differences: NDArray[np.float64]) -> float:
    """Return the exact p of as uneven a split into above and below 0; differences of 0 do not count."""
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    return float(stats.binomtest(above, above + below).pvalue) if above + below else 1.0


def permutation_test(differences: NDArray[np.float64], resamples: int = 9999) -> tuple[float, list[float] | None]:
    """Return the p of the differences' mean under changes of sign, and the 95 % interval of the mean.

    If either of a pair could as well have been the other, a difference's sign is the toss of a coin. p is twice the
    smaller share of the sign patterns whose mean is at least as high, or as low, as the one that was found: all
    patterns of up to 13 differences, else random ones and the one that was found, so that the level is kept in any
    case (ties only lower the rate of false alarms). The interval holds what the test, at 5 %, does not refute if it is
    subtracted from all differences: its ends are among the means of the subsets whose signs change (Hartigan 1969).
    It presumes differences that lie about their mean evenly. ``scipy.stats.permutation_test`` gives the same p, but no
    interval.
    """
    n = len(differences)
    rng = np.random.default_rng(0)
    exact = 2**n <= resamples
    total = 2**n if exact else resamples + 1
    sums, counts = np.zeros(total), np.zeros(total, dtype=np.int64)  # of each pattern's changed differences
    for first in range(0, n, 256):  # not all the patterns of a long sample at once
        part = differences[first : first + 256]
        if exact:
            changed = (np.arange(total)[:, None] >> np.arange(n)) & 1
        else:
            changed = rng.integers(0, 2, (total, len(part)))
            changed[0] = 0  # the pattern that was found
        sums += changed @ part
        counts += changed.sum(axis=1)
    sums[np.abs(sums) <= 1e-12 * np.abs(differences).sum()] = 0  # they are 0 but for rounding
    p = 2 * min((sums <= 0).mean(), (sums >= 0).mean())
    means = np.sort(sums[counts > 0] / counts[counts > 0])
    place = int(total * LEVEL / 2) - (total - len(means))
    interval = [float(means[place]), float(means[-1 - place])] if place >= 0 else None
    return min(1.0, float(p)), interval


def pairs_needed(differences: NDArray[np.float64]) -> int | None:
    """Return how many pairs tell a mean difference like this one from 0: at 5 %, in 80 of 100 cases.

    The formula of Student's paired test, (z * std / mean)^2 + z_level^2 / 2 with z of both (Guenther 1981), which the
    permutation test needs as well; and so many that six are not equal. None where the mean is 0 or there is one pair.
    """
    mean, unequal = float(differences.mean()), float((differences != 0).mean())
    if len(differences) < 2 or mean == 0:
        return None
    needed = (_Z * float(differences.std(ddof=1)) / mean) ** 2 + _Z_LEVEL**2 / 2
    return max(ceil(needed), ceil(FEWEST_PAIRS / unequal))


def smallest_difference(differences: NDArray[np.float64]) -> float | None:
    """Return the mean that differences of this spread and number tell from 0: at 5 %, in 80 of 100 cases."""
    n = len(differences)
    if n < FEWEST_PAIRS or not differences.any():
        return None
    return float(_Z * differences.std(ddof=1) / sqrt(n - _Z_LEVEL**2 / 2))


# ---------------------------------------------------------------- promises


@dataclass(frozen=True)
class Calibration:
    """How predictions and what came true hang together. None where all predictions, or all results, are equal."""

    count: int
    spearman: float | None  # rank correlation: whether the better was known as the better
    pearson: float | None
    slope: float | None  # of the line through what came true over what was predicted; 1: differences are as large
    predicted_mean: float
    realised_mean: float
    bias: float  # their difference: above 0, too much was promised
    curve: list[list[float]]  # [mean predicted, mean realised] of each tenth, from the lowest prediction on


def calibrate(predicted: NDArray[np.floating], realised: NDArray[np.floating]) -> Calibration:
    """Return how predictions (n,) and what came true (n,) hang together.

    Raises:
        ValueError: If there are none, or one is not finite.
    """
    promise = _checked(predicted, "a calibration needs at least one prediction and finite ones only")
    result = _checked(realised, "a calibration needs at least one result and finite ones only")
    parts = np.array_split(np.argsort(promise, kind="stable"), min(10, len(promise)))
    varies = np.ptp(promise) > 0 and np.ptp(result) > 0
    return Calibration(
        count=len(promise),
        spearman=rank_correlation(promise, result),
        pearson=float(stats.pearsonr(promise, result).statistic) if varies else None,
        slope=float(stats.linregress(promise, result).slope) if varies else None,
        predicted_mean=float(promise.mean()),
        realised_mean=float(result.mean()),
        bias=float((promise - result).mean()),
        curve=[[float(promise[part].mean()), float(result[part].mean())] for part in parts],
    )


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    """Return Spearman's rank correlation of (n,) and (n,); None where all of one are equal, or there is one pair."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)
