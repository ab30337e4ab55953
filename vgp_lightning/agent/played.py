"""What was played: episodes of a store in the order of their seeds, and the time that the agent took.

Shapes: N environments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from vgp_lightning.agent.episodes import Episode, Failure, Result, to_episode, to_result
from vgp_lightning.agent.store import EpisodeStore, Item


@dataclass
class Times:
    """Seconds that the agent took to act.

    Attributes:
        calls: Number of calls of the agent.
        seconds: Of all calls.
        planning_calls: Number of calls in which at least one episode needed a new plan.
        planning_seconds: Of these.
    """

    calls: int = 0
    seconds: float = 0.0
    planning_calls: int = 0
    planning_seconds: float = 0.0

    def add(self, seconds: float, plans: bool) -> None:
        """Count a call."""
        self.calls += 1
        self.seconds += seconds
        if plans:
            self.planning_calls += 1
            self.planning_seconds += seconds


@dataclass(frozen=True)
class Played:
    """Episodes in the order of their seeds, by whichever processes played them.

    Attributes:
        results: What the episodes came to.
        failures: The episodes that could not be played to their end; they are not among the results.
        episodes: The episodes with their steps, if the store keeps them.
        times: Of all calls of the agent.
        records: The episodes as the store has them.
    """

    results: list[Result]
    failures: list[Failure]
    episodes: list[Episode]
    times: Times
    records: list[dict[str, Any]]


def gather(store: EpisodeStore, items: Sequence[Item]) -> Played:
    """Return finished episodes of a store."""
    records = [store.finished[item] for item in items]
    fine = [(item, record) for item, record in zip(items, records, strict=True) if "failed" not in record]
    failures = [
        Failure(item[1], item[2], **record["failed"])
        for item, record in zip(items, records, strict=True)
        if "failed" in record
    ]
    reported = any(record["success"] is not None for _, record in fine)
    success = [bool(record["success"]) if reported else None for _, record in fine]
    each = [(*item[1:], record, one) for (item, record), one in zip(fine, success, strict=True)]
    times = Times(*(sum(column) for column in zip(*(record["times"] for record in records), strict=True)))
    episodes = [to_episode(*one) for one in each if "steps" in one[2]]
    return Played([to_result(*one) for one in each], failures, episodes, times, records)


def find_film_error(film: Mapping[str, Any] | None) -> str | None:
    """Return why there is no film; None: there is one.

    Args:
        film: ``video``: whether it was wanted when the episode was played; ``error``: why there is none. None: the
            episode failed.
    """
    if film is None:
        return "the first episode failed"
    if not film["video"]:
        return "the first episode was played without a video: --again true plays it anew"
    error: str | None = film["error"]
    return error


def say_played(store: EpisodeStore, finished: int, wanted: int | None = None) -> None:
    """Say how many of the wanted episodes were played before; None: how many are wanted is not known yet."""
    if finished:
        count = finished if wanted is None else f"{finished} of {wanted}"
        Console().print(
            f"{count} episodes were played before, in {store.folder}: --again true plays them anew",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
