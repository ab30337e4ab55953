"""Successive halving: many configurations play few episodes each, and the best of them play more.

Jamieson & Talwalkar 2016; Karnin et al. 2013. This file has the rule, its bookkeeping and its picture; playing is the
caller's part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vgp_lightning.report.figures import BLUE, GREY, ORANGE, tidy

ETA = 3  # one in ETA configurations of a rung goes on to the next


@dataclass(eq=False)
class Configuration:
    """Settings, and how they have done so far.

    Attributes:
        settings: All settings of the planner.
        plan_ms: Milliseconds of one planning call; None: not measured.
        returns: For each rung that it played, the return for each seed.
        dropped: Where it was eliminated: ``latency``, ``rung 1``, ..., ``failed``; None: it is still in.
        failure: The episode that it could not play to its end; None: there is none.
    """

    settings: dict[str, Any]
    plan_ms: float | None = None
    returns: list[list[float]] = field(default_factory=list)
    dropped: str | None = None
    failure: str | None = None

    @property
    def means(self) -> list[float]:
        """The mean return over all seeds so far, after each rung that it played."""
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
            "failure": self.failure,
        }


def check_budget(configurations: int, holdout_episodes: int, latency_ms: float | None) -> None:
    """Refuse a budget that is too small for a search.

    Raises:
        ValueError: If a number is too small.
    """
    if configurations < 2:
        raise ValueError(f"configurations is {configurations}: at least 2 are needed, the folder's defaults among them")
    if holdout_episodes < 1:
        raise ValueError(f"holdout_episodes is {holdout_episodes}: at least 1 is needed")
    if latency_ms is not None and not latency_ms > 0:
        raise ValueError(f"latency_ms is {latency_ms}: milliseconds above 0 are needed")


def plan_rungs(configurations: int, episodes: int) -> list[tuple[int, int]]:
    """Return for each rung how many configurations play, and how many episodes each of them plays.

    A third of a rung's configurations, rounded up, goes on to the next, until one is left. Each rung gets an equal
    share of the remaining episodes, rounded down, but at least one for each configuration.

    Raises:
        ValueError: If there are too few episodes for one per configuration in each rung.
    """
    sizes = []
    while configurations > 1:
        sizes.append(configurations)
        configurations = math.ceil(configurations / ETA)
    if episodes < sum(sizes):
        raise ValueError(
            f"episodes is {episodes}: halving {sizes[0]} configurations needs at least {sum(sizes)}, one for each in "
            f"rungs of {sizes}. Give more --episodes, or fewer --configurations"
        )
    rungs = []
    for i, size in enumerate(sizes):
        each = max(1, episodes // (len(sizes) - i) // size)
        episodes -= each * size
        rungs.append((size, each))
    return rungs


def rank(configurations: Sequence[Configuration]) -> list[Configuration]:
    """Return the configurations by their mean return, highest first; equal ones keep their order."""
    return sorted(configurations, key=lambda one: -one.means[-1])


def drop_worst(ranked: Sequence[Configuration], rung: int) -> list[Configuration]:
    """Return the configurations that go on, and mark the others as dropped in this rung."""
    kept = math.ceil(len(ranked) / ETA)
    for one in ranked[kept:]:
        one.dropped = f"rung {rung}"
    return list(ranked[:kept])


def plot_halving(
    means: Sequence[Sequence[float]], episodes: Sequence[int], winner: int, default: int, title: str
) -> Figure:
    """Draw a search by halving: a line for each configuration, which ends at the rung where it was dropped.

    Args:
        means: Each configuration's mean return after each rung that it played; empty if it played none.
        episodes: Episodes that each remaining configuration has played after each rung.
        winner: Index of the winner in ``means``.
        default: Index of the folder's defaults in ``means``.
        title: Title of the figure.

    Raises:
        ValueError: If a configuration has more means than there are rungs.
    """
    if (most := max(map(len, means), default=0)) > len(episodes):
        raise ValueError(f"a configuration has {most} means, but there are {len(episodes)} rungs")
    figure = Figure(figsize=(7, 4), layout="constrained")
    panel = figure.subplots()
    marked = {default: ("default", ORANGE), winner: ("winner" if winner != default else "winner, the default", BLUE)}
    others = [i for i in range(len(means)) if i not in marked]
    for i in (*others, *marked):
        label, colour = marked.get(i, ("others", GREY))
        panel.plot(
            episodes[: len(means[i])],
            means[i],
            "o-",
            color=colour,
            linewidth=2.5 if i in marked else 1,
            markersize=6 if i in marked else 3,
            alpha=1 if i in marked else 0.5,
            label=label if i in marked or i == others[0] else None,
        )
    panel.set_xscale("log")  # the episodes grow geometrically
    panel.set_xticks(episodes, [str(count) for count in episodes])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("episodes played by each configuration")
    panel.set_ylabel("mean return so far")
    panel.set_title(title, fontsize=10)
    panel.legend(loc="best", fontsize=9)
    tidy(panel)
    return figure
