"""Visitors: who has the page open, each with a session of their own."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from vgp_lightning.play.session import Session

_T = TypeVar("_T")
_IDLE = 600.0  # seconds after which a session may make room for another


@dataclass
class Visit:
    """What one visitor does.

    Attributes:
        session: The episode.
        dimensions: Those of the plans' dimensions that are shown.
        running: Whether the episode goes on by itself.
        pace: Steps from one picture to the next while it does.
        seen: When the visitor last did something, in seconds.
    """

    session: Session
    dimensions: list[int] = field(default_factory=list)
    running: bool = False
    pace: int = 2
    seen: float = 0.0


class Visitors:
    """What all visitors do, whose sessions are used in one thread, one after the other.

    The renderer of MuJoCo belongs to the thread that made it, and a planner plans for one caller at a time; the threads
    of a web server are others at each call.
    """

    def __init__(self, begin: Callable[[], Visit], limit: int) -> None:
        """Begin without a visitor.

        Args:
            begin: Begins a visit.
            limit: How many there are at most.

        Raises:
            ValueError: If the limit is below 1.
        """
        if limit < 1:
            raise ValueError(f"visitors is {limit}: at least 1 is needed")
        self._begin = begin
        self._limit = limit
        self._thread = ThreadPoolExecutor(1, "vgp-play")
        self._visits: dict[str, Visit] = {}

    def run(self, function: Callable[[], _T]) -> _T:
        """Call a function in the thread of the sessions, and return what it returns."""
        return self._thread.submit(function).result()

    def open(self, visitor: str) -> Visit:
        """Return the visit of a visitor, which begins here if there is none.

        Raises:
            ValueError: If there are too many visitors, or a session cannot be opened.
        """

        def open_session() -> Visit:
            if visitor not in self._visits:
                self._make_room()
                self._visits[visitor] = self._begin()
            return self._look_up(visitor)

        return self.run(open_session)

    def call(self, visitor: str, use: Callable[[Visit], _T]) -> _T:
        """Do something for a visitor.

        Args:
            visitor: For whom.
            use: What is done; called in the thread of the sessions.

        Raises:
            ValueError: If the visitor has no session: a new one would not be what the page shows.
        """
        return self.run(lambda: use(self._look_up(visitor)))

    def has(self, visitor: str) -> bool:
        """Return whether a visitor has a session."""
        return visitor in self._visits

    def leave(self, visitor: str) -> None:
        """Close a visitor's session, if there is one."""
        self.run(lambda: self._close(visitor))

    def close(self) -> None:
        """Close all sessions and end the thread."""
        for visitor in list(self._visits):
            self.leave(visitor)
        self._thread.shutdown()

    def _look_up(self, visitor: str) -> Visit:
        """Return the visit of a visitor who does something now.

        Raises:
            ValueError: If there is none.
        """
        if visitor not in self._visits:
            raise ValueError(
                "you have no episode here: it was closed, because the connection broke or because you did nothing for "
                "long and somebody else came. Reload the page"
            )
        self._visits[visitor].seen = time.monotonic()
        return self._visits[visitor]

    def _make_room(self) -> None:
        """Close the session that nobody has used for the longest time, if there are too many.

        Raises:
            ValueError: If all are in use.
        """
        if len(self._visits) < self._limit:
            return
        oldest = min(self._visits, key=lambda visitor: self._visits[visitor].seen)
        if time.monotonic() - self._visits[oldest].seen < _IDLE:
            raise ValueError(
                f"{self._limit} visitors are here, which is the limit: try again when one has left, or start the page "
                f"with --visitors {self._limit + 1} or more"
            )
        self._close(oldest)

    def _close(self, visitor: str) -> None:
        visit = self._visits.pop(visitor, None)
        if visit is not None:
            visit.session.close()
