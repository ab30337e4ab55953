"""Statistics of episodes: summaries, confidence intervals, paired tests, calibration. Arrays in, numbers out.

Every function with random numbers makes a generator with a fixed seed: equal data give equal intervals.
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
FEWEST_RETURNS = 5  # with fewer, a bootstrap interval covers even a median in less than 90 of 100 cases
FEWEST_PAIRS = 6  # with fewer, even differences of one sign occur by chance in 2 of 2**5 cases, more than 5 %

# ---------------------------------------------------------------- one sample


@dataclass(frozen=True)
class Summary:
    """Statistics of a sample. Intervals are 95 % confidence intervals [low, high]; None: too few values for one.

    Attributes:
        mean: Mean.
        ci95: Interval of the mean.
        iqm: Interquartile mean (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264).
        iqm_ci95: Interval of the interquartile mean.
        median: Median.
        median_ci95: Interval of the median.
        std: Standard deviation of the sample (n - 1); None of a single value.
    """

    mean: float
    ci95: list[float] | None
    iqm: float
    iqm_ci95: list[float] | None
    median: float
    median_ci95: list[float] | None
    std: float | None


def interquartile_mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Return the mean without the lowest and the highest quarter of the values, each rounded down."""
    middle: NDArray[np.float64] = stats.trim_mean(values, 0.25, axis=axis)
    return middle


def bootstrap_interval(
    values: NDArray[np.float64], statistic: Callable[..., NDArray[np.float64]] = np.mean
) -> list[float] | None:
    """Return the 95 % bootstrap confidence interval of a statistic; None for fewer than five values.

    It is the percentile interval with smaller tails, so that for normal values it is as wide as Student's (Hesterberg
    2015, https://arxiv.org/abs/1411.5279). It was chosen for its coverage, which docs/evaluation.md compares with that
    of other intervals.

    Args:
        values: (n,).
        statistic: A function of an array and an ``axis``.
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
    """Return the exact 95 % interval of the median, between two of the values; None for fewer than six."""
    result = stats.quantile_test(values, p=0.5).confidence_interval(1 - LEVEL)
    return None if np.isnan(result.low) else [float(result.low), float(result.high)]


def wilson_interval(successes: int, count: int) -> list[float]:
    """Return Wilson's 95 % interval of a rate."""
    interval = stats.binomtest(successes, count).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def summarize(values: Sequence[float] | NDArray[np.float64]) -> Summary:
    """Return the statistics of values, such as one return for each episode.

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


# ---------------------------------------------------------------- several trainings


@dataclass(frozen=True)
class Trainings:
    """Statistics of several trainings of one recipe, each of which was evaluated on some episodes.

    Attributes:
        mean: Mean of the trainings' means: each training counts alike.
        ci95: 95 % confidence interval [low, high] of what the recipe returns, over trainings and episodes; None of a
            single training.
        lowest: The lowest training's mean.
        highest: The highest training's mean.
        count: Number of trainings.
    """

    mean: float
    ci95: list[float] | None
    lowest: float
    highest: float
    count: int


def summarize_trainings(values: Sequence[Sequence[float] | NDArray[np.float64]]) -> Trainings:
    """Return the statistics of trainings, given the values of each one's episodes.

    The interval is Student's of the trainings' means, which contain the chance of the episodes too. With three
    trainings it covers the truth in 95 of 100 cases, whatever share of the spread is the trainings'; the percentile
    interval of a hierarchical bootstrap (of trainings, then of their episodes) covers it in 76 to 98
    (docs/evaluation.md).

    Raises:
        ValueError: If there is no training, one has no values, or a value is not finite.
    """
    demand = "each training needs at least one value and finite ones only"
    means = _checked([_checked(one, demand).mean() for one in values], "at least one training is needed")
    half = 0.0
    if len(means) > 1:
        half = float(stats.t.ppf(1 - LEVEL / 2, len(means) - 1) * means.std(ddof=1) / sqrt(len(means)))
    mean = float(means.mean())
    ends = [mean - half, mean + half] if len(means) > 1 else None
    return Trainings(mean, ends, float(means.min()), float(means.max()), len(means))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number: those at most 0.05 are significant together (Holm 1979).

    The chance that any of them is a false alarm is then at most 5 %.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, dtype=np.float64)[order]), 1)
    found = np.empty(len(p_values))
    found[order] = adjusted
    return [float(p) for p in found]


def _checked(values: Sequence[float] | NDArray[np.floating], demand: str) -> NDArray[np.float64]:
    """Return the values as an array, or refuse them if there are none or one is not finite."""
    sample = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(sample))
    if len(sample) == 0 or len(wrong):
        found = f"number {wrong[0]} of {len(sample)} is {sample[wrong[0]]}" if len(sample) else "there are none"
        raise ValueError(f"{demand}; {found}")
    return sample


# ---------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Paired:
    """Statistics of the differences of pairs.

    Attributes:
        difference: Mean difference.
        ci95: Its 95 % interval, which excludes 0 exactly where permutation_p is at most 0.05; None for fewer than six.
        std: Standard deviation of the differences (n - 1); None of a single one.
        share_higher: Share of the pairs with a difference above 0.
        share_equal: Share of the pairs with a difference of 0.
        sign_test_p: p-value of the sign test.
        permutation_p: p-value of the permutation test of the mean.
        smallest_difference: Mean difference that so many pairs detect with 80 % power; None for fewer than six.
        pairs_needed: Pairs that detect the mean difference with 80 % power; None if it is 0 or there is one pair.
    """

    difference: float
    ci95: list[float] | None
    std: float | None
    share_higher: float
    share_equal: float
    sign_test_p: float
    permutation_p: float
    smallest_difference: float | None
    pairs_needed: int | None

    @property
    def told(self) -> bool:
        """Whether the mean differs significantly from 0, at the level of 5 %."""
        return self.permutation_p <= LEVEL


def compare_pairs(differences: Sequence[float] | NDArray[np.float64]) -> Paired:
    """Return the statistics of differences, one for each pair.

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
    """Return the exact p-value of the numbers of differences above and below 0; differences of 0 do not count."""
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    return float(stats.binomtest(above, above + below).pvalue) if above + below else 1.0


def permutation_test(differences: NDArray[np.float64], resamples: int = 9999) -> tuple[float, list[float] | None]:
    """Return the p-value of the paired permutation test of the mean, and the 95 % interval of the mean.

    Under the null hypothesis the two of a pair are exchangeable, so each difference has either sign with equal
    probability. p is twice the smaller share of the sign patterns whose mean is at least as high, or as low, as the
    observed one. Up to 13 differences all patterns are tried; for more, random ones and the observed one, which keeps
    the level (ties only lower the rate of false positives). The interval holds the values that the test does not reject
    at 5 % when they are subtracted from all differences: its ends are among the means of the subsets whose signs change
    (Hartigan 1969). It assumes that differences are symmetric about their mean. ``scipy.stats.permutation_test`` gives
    the same p-value, but no interval.
    """
    n = len(differences)
    rng = np.random.default_rng(0)
    exact = 2**n <= resamples
    total = 2**n if exact else resamples + 1
    sums, counts = np.zeros(total), np.zeros(total, dtype=np.int64)  # of the differences whose signs a pattern changes
    for first in range(0, n, 256):  # in parts, to limit the memory
        part = differences[first : first + 256]
        if exact:
            changed = (np.arange(total)[:, None] >> np.arange(n)) & 1
        else:
            changed = rng.integers(0, 2, (total, len(part)))
            changed[0] = 0  # the observed pattern
        sums += changed @ part
        counts += changed.sum(axis=1)
    sums[np.abs(sums) <= 1e-12 * np.abs(differences).sum()] = 0  # 0 up to rounding
    p = 2 * min((sums <= 0).mean(), (sums >= 0).mean())
    means = np.sort(sums[counts > 0] / counts[counts > 0])
    place = int(total * LEVEL / 2) - (total - len(means))
    interval = [float(means[place]), float(means[-1 - place])] if place >= 0 else None
    return min(1.0, float(p)), interval


def pairs_needed(differences: NDArray[np.float64]) -> int | None:
    """Return how many pairs detect a mean difference like this one at the level of 5 % with 80 % power.

    This is the sample size of Student's paired test, (z * std / mean)^2 + z_level^2 / 2 with z for level and power
    (Guenther 1981), which fits the permutation test as well; and enough pairs for six that are not equal. None if the
    mean is 0 or there is one pair.
    """
    mean, unequal = float(differences.mean()), float((differences != 0).mean())
    if len(differences) < 2 or mean == 0:
        return None
    needed = (_Z * float(differences.std(ddof=1)) / mean) ** 2 + _Z_LEVEL**2 / 2
    return max(ceil(needed), ceil(FEWEST_PAIRS / unequal))


def smallest_difference(differences: NDArray[np.float64]) -> float | None:
    """Return the mean that so many differences of this spread detect at the level of 5 % with 80 % power."""
    n = len(differences)
    if n < FEWEST_PAIRS or not differences.any():
        return None
    return float(_Z * differences.std(ddof=1) / sqrt(n - _Z_LEVEL**2 / 2))


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Calibration:
    """Agreement of predicted and realised values. Correlations are None if all predictions or all results are equal.

    Attributes:
        count: Number of pairs.
        spearman: Rank correlation.
        pearson: Linear correlation.
        slope: Of the regression line of realised over predicted values; 1: differences are as large as predicted.
        predicted_mean: Mean of the predictions.
        realised_mean: Mean of the realised values.
        bias: Their difference; above 0: too optimistic.
        curve: [mean predicted, mean realised] of each decile of the predictions, from the lowest on.
    """

    count: int
    spearman: float | None
    pearson: float | None
    slope: float | None
    predicted_mean: float
    realised_mean: float
    bias: float
    curve: list[list[float]]


def calibrate(predicted: NDArray[np.floating], realised: NDArray[np.floating]) -> Calibration:
    """Return how well predictions (n,) and realised values (n,) agree.

    Raises:
        ValueError: If there are none, or one is not finite.
    """
    predicted = _checked(predicted, "a calibration needs at least one prediction and finite ones only")
    realised = _checked(realised, "a calibration needs at least one realised value and finite ones only")
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(10, len(predicted)))
    varies = np.ptp(predicted) > 0 and np.ptp(realised) > 0
    return Calibration(
        count=len(predicted),
        spearman=rank_correlation(predicted, realised),
        pearson=float(stats.pearsonr(predicted, realised).statistic) if varies else None,
        slope=float(stats.linregress(predicted, realised).slope) if varies else None,
        predicted_mean=float(predicted.mean()),
        realised_mean=float(realised.mean()),
        bias=float((predicted - realised).mean()),
        curve=[[float(predicted[part].mean()), float(realised[part].mean())] for part in parts],
    )


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    """Return Spearman's rank correlation of (n,) and (n,); None if all of one are equal, or of one pair."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)
