"""Statistics: by hand, against scipy, and by what they are for: coverage, false alarms, power."""

import numpy as np
import pytest
from scipy import stats

from vgp_lightning.report.statistics import (
    bootstrap_interval,
    calibrate,
    compare_pairs,
    holm,
    interquartile_mean,
    median_interval,
    pairs_needed,
    permutation_test,
    rank_correlation,
    sign_test,
    smallest_difference,
    summarize,
    summarize_trainings,
    wilson_interval,
)


def normal(rng, n):
    return rng.normal(100, 30, n)


def bimodal(rng, n):
    """Fall early or finish, as a gait does."""
    return np.where(rng.random(n) < 0.5, rng.normal(300, 100, n), rng.normal(3000, 150, n))


def skewed(rng, n):
    return rng.lognormal(0, 1, n)


# ---------------------------------------------------------------- one sample


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    values = [1000.0, 4.0, 1.0, 3.0, -500.0, 2.0, 5.0, 9.0]
    assert summarize(values).iqm == (2 + 3 + 4 + 5) / 4
    # A quarter of ten is two and a half: two are cut off at either end.
    assert summarize([9, 0, 1, 2, 3, 4, 5, 6, 7, 100]).iqm == (2 + 3 + 4 + 5 + 6 + 7) / 6
    assert summarize(values).median == 3.5
    assert summarize(values).std == pytest.approx(np.sqrt(np.var(values) * 8 / 7))


@pytest.mark.parametrize(
    ("draw", "mean", "low", "high"),
    [
        (normal, 100, 0.92, 0.97),
        (bimodal, 1650, 0.92, 0.98),
        (skewed, np.exp(0.5), 0.84, 0.93),  # too often too low, as every interval of so few skewed values
    ],
)
@pytest.mark.slow
def test_the_interval_of_20_episodes_covers_the_true_mean_as_often_as_the_docs_say(draw, mean, low, high):
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(draw(rng, 20)) for _ in range(300)]
    assert low <= np.mean([a <= mean <= b for a, b in intervals]) <= high


@pytest.mark.parametrize("between", [0, 0.3, 1])  # standard deviation of the trainings, in that of the episodes
def test_the_interval_of_three_trainings_covers_the_truth_whatever_the_trainings_share_of_the_spread(between):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1500):
        trainings = rng.normal(0, between, (3, 1)) + rng.normal(0, 1, (3, 20))
        low, high = summarize_trainings(list(trainings)).ci95
        covered += low <= 0 <= high
    assert 0.93 <= covered / 1500 <= 0.97


def test_each_training_counts_alike_however_many_episodes_it_has():
    found = summarize_trainings([[1.0, 3.0], [4.0], [3.0, 3.0, 3.0, 3.0]])
    assert (found.mean, found.lowest, found.highest, found.count) == (3.0, 2.0, 4.0, 3)
    # Student's quantile of two degrees of freedom, by hand: 4.3027 times 1 / sqrt(3).
    assert found.ci95 == pytest.approx([3 - 2.4842, 3 + 2.4842], abs=1e-3)
    assert summarize_trainings([[1.0, 2.0]]).ci95 is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "at least one training is needed; there are none"),
        ([[1.0], []], "there are none"),
        ([[1.0, np.nan]], "nan"),
    ],
)
def test_trainings_without_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        summarize_trainings(values)


def test_holms_p_values_by_hand():
    # Smallest first: 0.01 x 4, 0.02 x 3, 0.03 x 2 (not below the one before), 0.9 x 1.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm():
    rng = np.random.default_rng(0)
    alarms = [min(holm(list(rng.uniform(size=5)))) <= 0.05 for _ in range(4000)]
    assert 0.04 <= np.mean(alarms) <= 0.06


def test_the_interval_of_10_normal_values_is_about_as_wide_as_students():
    rng = np.random.default_rng(0)
    samples = [normal(rng, 10) for _ in range(100)]
    widths = [np.ptp(bootstrap_interval(sample)) for sample in samples]
    students = [np.ptp(stats.ttest_1samp(sample, 0).confidence_interval(0.95)) for sample in samples]
    assert 0.95 <= np.mean(widths) / np.mean(students) <= 1.01


@pytest.mark.parametrize(("draw", "iqm"), [(normal, 100.0), (bimodal, 1650.0)])
@pytest.mark.slow
def test_the_interval_of_the_middle_half_covers_its_true_value(draw, iqm):
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval(draw(rng, 20), interquartile_mean) for _ in range(150)]
    assert 0.9 <= np.mean([a <= iqm <= b for a, b in intervals]) <= 0.99


def test_the_interval_of_the_median_lies_between_two_of_the_values():
    # Of 20 the 6th and the 15th: P(fewer than 6 of 20 tosses are heads) = 0.0207.
    assert median_interval(np.arange(1.0, 21.0)) == [6, 15]
    # Of 6 the least and the greatest: 2 / 2**6 = 0.03; of 5 it would be 0.06.
    assert median_interval(np.array([3.0, 9.0, 1.0, 4.0, 7.0, 5.0])) == [1, 9]
    assert median_interval(np.arange(5.0)) is None


def test_equal_values_have_equal_statistics():
    values = np.random.default_rng(0).normal(size=20)
    assert summarize(values) == summarize(list(values))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_values_have_no_intervals(count):
    few = summarize([7.0] * count)
    assert (few.mean, few.iqm, few.median) == (7, 7, 7)
    assert (few.ci95, few.iqm_ci95, few.median_ci95) == (None, None, None)
    assert few.std == (None if count == 1 else 0)


def test_constant_values_have_intervals_of_no_width():
    same = summarize([3.5] * 6)
    assert same.ci95 == same.iqm_ci95 == same.median_ci95 == [3.5, 3.5]


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_statistics_are_made_of_nothing_or_of_what_is_not_finite(values):
    with pytest.raises(ValueError, match="at least one value and finite"):
        summarize(values)
    with pytest.raises(ValueError, match="at least one pair and finite"):
        compare_pairs(values)


def test_the_interval_of_a_share_is_wilsons():
    # (0.8 + z^2/20 -+ z sqrt(0.016 + z^2/400)) / (1 + z^2/10) with z = 1.96
    assert wilson_interval(8, 10) == pytest.approx([0.49016, 0.94331], abs=1e-4)
    assert wilson_interval(20, 20) == pytest.approx([20 / (20 + 1.96**2), 1], abs=1e-4)


# ---------------------------------------------------------------- pairs


def test_the_sign_test_by_hand():
    # 8 above and 2 below: as uneven or more in 2 * (1 + 10 + 45) of 2**10 cases; those of 0 do not count.
    differences = np.array([1, 2, 3, 4, 5, 6, 7, 8, -100, -1, 0, 0, 0], dtype=float)
    assert sign_test(differences) == pytest.approx(112 / 1024)
    assert sign_test(np.zeros(3)) == 1
    assert sign_test(np.ones(6)) == 2 / 64


def test_the_permutation_test_by_hand():
    p, interval = permutation_test(np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert p == 2 / 64  # no other signs have so high a mean
    assert interval == [1, 32]  # less 1 or less 32, as many signs of 64 are as high, or as low
    # With the 1 below 0 two patterns are as high: the 1 may have either sign.
    assert permutation_test(np.array([-1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))[0] == 4 / 64
    assert permutation_test(np.array([1.0, 1.0, 1.0, 0.0]))[0] == 2 / 8
    # Sums that are equal but for rounding are equal: 0.1 + 0.2 is 0.3.
    whole = np.array([1.0, 2.0, -3.0, 5.0, 7.0, 6.0, 8.0])
    assert permutation_test(whole / 10)[0] == permutation_test(whole)[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_permutation_test_agrees_with_scipys(seed):
    differences = np.random.default_rng(seed).normal(0.5, 1, 9)
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples").pvalue
    assert permutation_test(differences)[0] == pytest.approx(expected)


def test_no_difference_is_surer_than_the_patterns_that_were_tried():
    assert permutation_test(np.arange(1.0, 41.0))[0] == 2 / 10_000


def test_the_permutation_test_of_many_agrees_with_students():
    differences = np.random.default_rng(0).normal(0.08, 1, 600)  # more than one chunk of the patterns
    student = stats.ttest_1samp(differences, 0)
    p, interval = permutation_test(differences)
    assert p == pytest.approx(student.pvalue, abs=0.01)
    assert interval == pytest.approx(list(student.confidence_interval(0.95)), abs=0.005)


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("draw", [normal, bimodal, skewed])
def test_two_planners_that_are_alike_are_told_apart_in_about_5_of_100_cases(draw, n):
    rng = np.random.default_rng(0)
    told = [permutation_test(draw(rng, n) - draw(rng, n))[0] <= 0.05 for _ in range(600)]
    assert 0.03 <= np.mean(told) <= 0.07


def test_rare_successes_give_no_more_false_alarms_than_they_may():
    rng = np.random.default_rng(0)
    pairs = [(rng.random(20) < 0.9).astype(float) - (rng.random(20) < 0.9) for _ in range(600)]
    assert np.mean([permutation_test(pair)[0] <= 0.05 for pair in pairs]) <= 0.05
    # Student's would tell 4 of 20 that all went one way, which is the toss of four coins.
    four = np.array([1.0] * 4 + [0.0] * 16)
    assert stats.ttest_1samp(four, 0).pvalue < 0.05 < compare_pairs(four).permutation_p


@pytest.mark.parametrize("n", [6, 10, 20, 50])
def test_the_interval_of_a_difference_leaves_0_out_exactly_where_the_test_tells(n):
    rng = np.random.default_rng(0)
    pairs = [compare_pairs(rng.normal(0.6, 1, n)) for _ in range(60)]
    assert {pair.told for pair in pairs} == {True, False} if n < 50 else {True}
    assert [pair.told for pair in pairs] == [not pair.ci95[0] <= 0 <= pair.ci95[1] for pair in pairs]


def test_the_interval_excludes_0_exactly_where_the_test_tells_for_tenths_too():
    # Sums of tenths that are 0 are rounded: 0.1 + 0.2 - 0.3 is not 0.
    rng = np.random.default_rng(0)
    for n in (8, 11, 16):
        pairs = [compare_pairs(rng.integers(-4, 9, n) / 10) for _ in range(300)]
        assert [pair.told for pair in pairs] == [not pair.ci95[0] <= 0 <= pair.ci95[1] for pair in pairs]
        assert {pair.told for pair in pairs} == {True, False}


@pytest.mark.parametrize("draw", [normal, bimodal])
def test_the_interval_of_a_difference_covers_the_true_one(draw):
    rng = np.random.default_rng(3)
    intervals = [permutation_test(200 + draw(rng, 20) - draw(rng, 20))[1] for _ in range(600)]
    assert 0.93 <= np.mean([low <= 200 <= high for low, high in intervals]) <= 0.97


def test_a_difference_turned_round_is_told_as_surely():
    differences = np.random.default_rng(0).normal(0.5, 1, 20)
    one, other = compare_pairs(differences), compare_pairs(-differences)
    assert one.ci95 == [-end for end in other.ci95[::-1]]
    assert (one.permutation_p, one.sign_test_p) == (other.permutation_p, other.sign_test_p)
    assert one.share_higher == 1 - other.share_higher


def spread(n, mean):
    """Return n differences of exactly this mean and a standard deviation of exactly 1."""
    values = np.linspace(-1, 1, n)
    return values / values.std(ddof=1) + mean


@pytest.mark.slow
def test_as_many_pairs_as_are_needed_tell_the_difference_in_80_of_100_cases():
    # 2.8016^2 / 0.25 + 1.96^2 / 2 = 33.3
    assert pairs_needed(spread(12, 0.5)) == 34
    rng = np.random.default_rng(0)
    told = {n: np.mean([compare_pairs(rng.normal(0.5, 1, n)).told for _ in range(400)]) for n in (17, 34)}
    assert 0.75 <= told[34] <= 0.85
    assert told[17] < 0.6


def test_the_smallest_difference_is_the_one_that_needs_as_many_pairs():
    for n in (6, 20, 200):
        smallest = smallest_difference(spread(n, 7.0))
        assert pairs_needed(spread(n, smallest * 1.0001)) == n
        assert pairs_needed(spread(n, smallest * 0.9999)) == n + 1


def test_so_many_pairs_are_needed_that_six_are_not_equal():
    # By its spread a difference in 4 of 4 pairs would need 2.
    assert pairs_needed(np.ones(4)) == 6
    # A difference in 3 of 12 pairs needs 24, for 6 that are not equal; its spread asks for 7.849 * 3.27 + 1.92.
    assert pairs_needed(np.array([1.0] * 3 + [0.0] * 9)) == 28
    assert pairs_needed(np.array([9.0, 10.0, 11.0, 0.0])) == 8


def test_one_pair_two_pairs_and_pairs_without_difference_tell_nothing():
    one = compare_pairs([5.0])
    assert (one.difference, one.ci95, one.std, one.permutation_p, one.sign_test_p) == (5, None, None, 1, 1)
    assert (one.smallest_difference, one.pairs_needed, one.told) == (None, None, False)
    two = compare_pairs([5.0, 7.0])
    assert (two.difference, two.ci95, two.permutation_p, two.sign_test_p) == (6, None, 0.5, 0.5)
    assert (two.smallest_difference, two.pairs_needed, two.told) == (None, 6, False)
    none = compare_pairs([0.0] * 20)
    assert (none.difference, none.ci95, none.share_equal, none.permutation_p, none.sign_test_p) == (0, [0, 0], 1, 1, 1)
    assert (none.smallest_difference, none.pairs_needed, none.told) == (None, None, False)


# ---------------------------------------------------------------- promises


def test_a_prediction_that_comes_true_is_on_the_line():
    values = np.random.default_rng(0).normal(100, 30, 57)
    found = calibrate(values, values)
    assert (found.count, found.bias) == (57, 0)
    assert [found.spearman, found.pearson, found.slope] == pytest.approx([1, 1, 1])
    assert len(found.curve) == 10
    assert all(promised == realised for promised, realised in found.curve)
    assert found.curve == sorted(found.curve)


def test_a_prediction_with_the_right_order_alone_is_told_by_its_slope_and_bias():
    realised = np.arange(1.0, 21)
    found = calibrate(10 + 2 * realised, realised)
    assert [found.spearman, found.pearson, found.slope] == pytest.approx([1, 1, 0.5])
    assert (found.predicted_mean, found.realised_mean, found.bias) == (31, 10.5, 20.5)
    # The first tenth: x = 1 and 2, promised 12 and 14.
    assert found.curve[0] == pytest.approx([13, 1.5])


def test_a_calibration_agrees_with_scipy_on_noise():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=40)
    realised = predicted + rng.normal(size=40)
    found = calibrate(predicted.astype(np.float32), realised)
    assert found.spearman == pytest.approx(stats.spearmanr(predicted, realised).statistic)
    assert found.pearson == pytest.approx(np.corrcoef(predicted, realised)[0, 1], rel=1e-5)
    assert found.slope == pytest.approx(np.polyfit(predicted, realised, 1)[0], rel=1e-5)
    # Four of 40 to a tenth, by what was predicted.
    tenths = sorted(zip(predicted, realised, strict=True))
    np.testing.assert_allclose(found.curve, np.reshape(tenths, (10, 4, 2)).mean(axis=1), rtol=1e-5)


def test_what_is_always_the_same_has_no_correlation_but_a_bias():
    found = calibrate(np.full(5, 3.0), np.arange(5.0))
    assert (found.spearman, found.pearson, found.slope, found.bias) == (None, None, None, 1)
    assert calibrate(np.array([2.0]), np.array([5.0])).bias == -3
    assert rank_correlation(np.array([1.0]), np.array([1.0])) is None


def test_a_calibration_of_nothing_or_of_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="at least one prediction and finite ones only; there are none"):
        calibrate(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="at least one realised value and finite ones only; number 1 of 2 is nan"):
        calibrate(np.zeros(2), np.array([1.0, np.nan]))
