"""Statistics against NumPy's, and the affine map that they give."""

import numpy as np
import pytest

from vgp_lightning.data.normalizer import Statistics, measure, shift_and_scale


def normalised(rows, kind):
    shift, scale = shift_and_scale(measure(iter([rows])), kind)
    return (rows - shift) / scale


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(1000, 3)) * [1, 10, 0.1] + [0, 5, -3]


def test_chunks_of_any_size_have_the_statistics_of_all_rows_together(rows):
    measured = measure(iter(np.split(rows, [1, 1, 700, 703])))  # the second chunk is empty
    np.testing.assert_allclose(measured.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(measured.std, rows.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(measured.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(measured.maximum, rows.max(axis=0))


def test_a_small_spread_far_from_zero_is_not_lost():
    spread = np.random.default_rng(0).normal(size=(1000, 1))
    spread -= spread.mean()
    # Mean of squares minus square of mean would leave nothing: 1e18 in float64 has steps of 128.
    measured = measure(iter(np.split(spread + 1e9, [10, 900])))
    np.testing.assert_allclose(measured.mean, 1e9, rtol=1e-15)
    np.testing.assert_allclose(measured.std, spread.std(axis=0), rtol=1e-6)


def test_float32_rows_are_summed_in_float64():
    chunk = np.full((100_000, 1), 16_777_217 / 3, dtype=np.float32)
    assert measure(iter([chunk, chunk])).mean == chunk[0].astype(np.float64)


@pytest.mark.parametrize("chunks", [[], [np.zeros((0, 3))]])
def test_statistics_of_no_rows_are_an_error(chunks):
    with pytest.raises(ValueError, match="no rows"):
        measure(iter(chunks))


def test_gaussian_gives_mean_zero_and_deviation_one(rows):
    result = normalised(rows, "gaussian")
    np.testing.assert_allclose(result.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(result.std(axis=0), 1, rtol=1e-6)


def test_limits_run_from_minus_one_to_one(rows):
    result = normalised(rows, "limits")
    np.testing.assert_allclose(result.min(axis=0), -1, rtol=1e-5)
    np.testing.assert_allclose(result.max(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "limits"])
@pytest.mark.parametrize("value", [0.0, np.float32(0.1), -7e5])
def test_a_constant_dimension_becomes_zero_in_its_own_units_and_does_not_change_the_others(rows, kind, value):
    rows = rows.astype(np.float32)
    with_constant = np.insert(rows, 1, value, axis=1)
    shift, scale = shift_and_scale(measure(iter([with_constant])), kind)
    assert scale[1] == 1
    assert (with_constant[:, 1] - shift[1] == 0).all()
    alone = shift_and_scale(measure(iter([rows])), kind)
    np.testing.assert_array_equal((np.delete(shift, 1), np.delete(scale, 1)), alone)


@pytest.mark.parametrize("kind", ["gaussian", "limits"])
def test_rounding_errors_count_as_constant_but_a_tiny_signal_around_zero_does_not(kind):
    signs = np.resize([-1.0, 1.0], 100)
    rows = np.stack([1e6 + signs / 16, 1e-9 * signs], axis=1)
    _, scale = shift_and_scale(measure(iter([rows])), kind)
    np.testing.assert_allclose(scale, [1, 1e-9], rtol=1e-6)


def test_shift_and_scale_are_float32_and_an_unknown_kind_is_refused():
    statistics = Statistics(*np.float64([[1.5], [2], [0], [4]]))
    assert [(v.dtype, v.item()) for v in shift_and_scale(statistics, "gaussian")] == [("f4", 1.5), ("f4", 2)]
    assert [(v.dtype, v.item()) for v in shift_and_scale(statistics, "limits")] == [("f4", 2), ("f4", 2)]
    with pytest.raises(ValueError, match=r"'minmax'.*'gaussian' or 'limits'"):
        shift_and_scale(statistics, "minmax")


@pytest.mark.parametrize("kind", ["gaussian", "limits"])
def test_a_scale_that_float32_rounds_to_zero_does_not_divide_by_it(kind):
    rows = np.resize([0, 1e-45], (9, 1)).astype(np.float32)  # the smallest number above zero that float32 has
    assert rows.max() > 0
    assert shift_and_scale(measure(iter([rows])), kind)[1] == 1
