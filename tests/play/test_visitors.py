"""Visitors: each has an episode of their own, and there are not too many."""

import threading
from types import SimpleNamespace

import pytest

from vgp_lightning.play import visitors
from vgp_lightning.play.visitors import Visit, Visitors


class Episode:
    """Stands for a session; remembers where it was made and whether it is closed."""

    def __init__(self):
        self.thread, self.closed = threading.current_thread(), None

    def close(self):
        self.closed = threading.current_thread()


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(visitors.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def two(clock):
    two = Visitors(lambda: Visit(Episode()), 2)
    yield two
    two.close()


def keep(visit):
    return visit


def test_each_visitor_has_a_session_of_their_own_and_keeps_it(two):
    ann, bob = two.open("ann"), two.open("bob")
    assert ann is not bob
    assert two.call("ann", keep) is two.open("ann") is ann


def test_all_sessions_are_made_used_and_closed_in_one_thread_that_is_not_the_callers(two):
    ann, bob = two.open("ann").session, two.open("bob").session
    used = two.call("bob", lambda visit: threading.current_thread())
    two.leave("ann")
    assert {ann.thread, bob.thread, used, ann.closed} == {ann.thread}
    assert ann.thread is not threading.current_thread()
    assert (two.has("ann"), two.has("bob"), bob.closed) == (False, True, None)
    two.leave("nobody")


def test_one_visitor_too_many_is_told_until_another_leaves_or_has_done_nothing_for_long(two, clock):
    ann, bob = two.open("ann").session, two.open("bob").session
    clock.now = 500
    two.call("bob", keep)
    with pytest.raises(ValueError, match=r"2 visitors are here, which is the limit.*--visitors 3"):
        two.open("cat")
    clock.now = 700  # ann has done nothing for 700 seconds, bob for 200
    two.open("cat")
    assert (ann.closed is None, bob.closed is None) == (False, True)
    with pytest.raises(ValueError, match=r"you have no episode here: it was closed.*Reload the page"):
        two.call("ann", keep)
    assert not two.has("ann")
    two.leave("cat")
    two.open("dan")


def test_what_goes_wrong_for_one_is_raised_to_them_and_the_others_go_on(two):
    two.open("ann")
    two.open("bob")
    with pytest.raises(ZeroDivisionError):
        two.call("ann", lambda visit: 1 / 0)
    assert two.call("bob", lambda visit: 1) == 1
    assert two.has("ann")


def test_at_the_end_all_are_closed():
    several = Visitors(lambda: Visit(Episode()), 3)
    episodes = [several.open(name).session for name in ("ann", "bob")]
    several.close()
    assert all(episode.closed for episode in episodes)


def test_no_visitor_at_all_is_refused():
    with pytest.raises(ValueError, match="visitors is 0: at least 1"):
        Visitors(lambda: Visit(Episode()), 0)
