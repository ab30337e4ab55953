from types import SimpleNamespace

import pytest

from vgp_lightning.report import estimates


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves on."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(estimates.time, "perf_counter", lambda: now.seconds)
    return now


def test_the_time_of_work_follows_from_small_parts_of_it(clock):
    done = []

    def work(amount):
        clock.seconds += 10.0 * (not done) + 0.5 + 0.1 * amount  # 10 s the first time, half a second each time
        done.append(amount)

    found = estimates.estimate(work, 4, 10_000)
    assert done == [4, 4, 16, 64]  # until a trial takes four seconds
    assert found.each == pytest.approx(0.1)
    assert found.seconds(1000) == pytest.approx(110.5, abs=0.01)


def test_no_more_work_is_done_than_there_is(clock):
    done = []

    def work(amount):
        clock.seconds += 0.001 * amount
        done.append(amount)

    found = estimates.estimate(work, 10, 25)
    assert done == [10, 10, 25]
    assert (found.tried, found.seconds(25)) == (25, pytest.approx(0.025))
