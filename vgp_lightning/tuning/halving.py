"""Successive halving: many configurations play a few episodes each, and the best of them more and more.

Jamieson & Talwalkar 2016; Karnin et al. 2013. Who plays, and where, is the caller's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ETA = 3  # of the configurations of a rung one in so many goes on


@dataclass(eq=False)
class Configuration:
    """Settings, and what became of them."""

    settings: dict[str, Any]
    plan_ms: float | None = None  # None: not measured
    returns: list[list[float]] = field(default_factory=list)  # of each rung that it played, by seed
    dropped: str | None = None  # where it was left behind

    @property
    def means(self) -> list[float]:
        """After each rung that it played, the mean return over all seeds so far."""
        return [float(np.mean(np.concatenate(self.returns[: i + 1]))) for i in range(len(self.returns))]

    def to_json(self, rungs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the configuration as it stands in ``tuning.json``."""
        played = zip(rungs, self.returns, strict=False)
        by_seed = [dict(zip(map(str, rung["seeds"]), returns, strict=True)) for rung, returns in played]
        return {
            "settings": self.settings,
            "plan_ms": self.plan_ms,
            "return_means": self.means,
            "returns": by_seed,
            "dropped": self.dropped,
        }


def plan_rungs(configurations: int, episodes: int) -> list[tuple[int, int]]:
    """Return for each rung how many configurations play and how many episodes each of them.

    A third of a rung's configurations, rounded up, is left for the next, until there is one. Each rung gets an equal
    share of the episodes that are left, rounded down, but one for each configuration at least.

    Raises:
        ValueError: If there are too few episodes for one each in all rungs.
    """
    sizes = []
    while configurations > 1:
        sizes.append(configurations)
        configurations = math.ceil(configurations / ETA)
    if episodes < sum(sizes):
        raise ValueError(
            f"episodes is {episodes}: halving {sizes[0]} configurations takes at least {sum(sizes)}, one for each in "
            f"rungs of {sizes}. Give more --episodes, or fewer --configurations"
        )
    rungs = []
    for i, size in enumerate(sizes):
        each = max(1, episodes // (len(sizes) - i) // size)
        episodes -= each * size
        rungs.append((size, each))
    return rungs


def drop_worst(ranked: Sequence[Configuration], rung: int) -> list[Configuration]:
    """Return those that go on, and note of the others where they were left behind."""
    kept = math.ceil(len(ranked) / ETA)
    for one in ranked[kept:]:
        one.dropped = f"rung {rung}"
    return list(ranked[:kept])
