"""Page of a search for settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vgp_lightning.agent.account import repeat, show_origin, show_worst
from vgp_lightning.agent.methods import INTERVALS, PAIRS, describe_planning
from vgp_lightning.evaluation.pages import show_differences, show_returns
from vgp_lightning.report.charts import Curve, draw_curves
from vgp_lightning.report.markup import details, figure, interval, number, table
from vgp_lightning.report.page import Page, Section
from vgp_lightning.report.references import describe_methods
from vgp_lightning.tuning.halving import ETA
from vgp_lightning.tuning.summary import CONTENDERS, say_outcome


def describe_search(report: Mapping[str, Any]) -> Page:
    """Return the page of a search that has ended.

    Args:
        report: What tuning.json holds.
    """
    held_out = report["holdout"]
    contenders = {name: held_out[name] for name in CONTENDERS if held_out[name] is not None}
    seeds = held_out["seeds"]
    chosen = report["chosen"] if report["chosen"] in contenders else "default"
    best = contenders[chosen]
    again = [("episodes", report["episodes"]), ("configurations", len(report["configurations"]))]
    again += [("holdout_episodes", len(seeds)), ("seed", report["seed"])]
    if report["latency_ms"] is not None:
        again.append(("latency_ms", report["latency_ms"]))
    pairs: dict[str, list[float]] = {}
    for name in held_out["differences"]:
        first, second = (
            {one["seed"]: one["return"] for one in contenders[side]["episodes"]} for side in name.split(" - ")
        )
        pairs[name] = [first[seed] - second[seed] for seed in first if seed in second]
    # An episode of the one that was chosen is played again with its settings, whatever the folder's are by now.
    given = {name: value for name, value in report.get("options", {}).items() if name != "space"}
    replayed = {**report, "options": {**given, **best["settings"]}}
    sections = [
        show_returns(contenders),
        show_differences(held_out["differences"], pairs) if held_out["differences"] else Section("", []),
        _show_settings(report, contenders),
        _show_halving(report),
        show_worst(best["episodes"], "evaluate", replayed),
        *show_origin(
            report,
            best["settings"],
            [repeat("tune", {"options": {}, **report}, *again, ("output_dir", "runs/again"))],
            "A search begins at the folder's defaults. On a CPU the same command gives the same returns as long as "
            "they are those of this search, which the table of settings calls default, and no latency is asked for.",
        ),
        describe_methods([*describe_planning(report, best["settings"]), *_describe_search(report)]),
    ]
    name = Path(report["pipeline"]).name
    lead = (
        f"{report['pipeline']}: {len(report['configurations'])} configurations in {report['episodes_played']} episodes "
        f"from seed {report['seed']} on; returns are of the held-out seeds {seeds[0]} to {seeds[-1]}"
    )
    means = ", ".join(
        f"{one} {number(result['return_mean'])} ({interval(result['return_ci95'])})"
        for one, result in contenders.items()
        if one in ("default", report["chosen"], "winner")
    )
    return Page(f"Search for the settings of {name}", f"{say_outcome(report)}: {means}.", lead, sections)


def _show_settings(report: Mapping[str, Any], contenders: Mapping[str, Any]) -> Section:
    """Return the section with the contenders' settings."""
    rows = []
    for setting in report["default_settings"]:
        values = [one["settings"].get(setting) for one in contenders.values()]
        if setting in report["space"] or len({str(value) for value in values}) > 1:
            rows.append((setting, *map(number, values)))
    rows.append(("milliseconds of a planning call", *(number(one["plan_ms"]) for one in contenders.values())))
    what = "What was searched, and what each contender has"
    space = [(name, ", ".join(map(number, values))) for name, values in report["space"].items()]
    searched = details("The space that was searched", table("Values to choose from", (), space))
    return Section("Settings of the contenders", [table(what, ("", *contenders), rows), searched])


def _show_halving(report: Mapping[str, Any]) -> Section:
    """Return the section with the course of the search."""
    played = np.cumsum([len(rung["seeds"]) for rung in report["rungs"]]).tolist()
    drawn: list[Curve] = []
    marked: list[Curve] = []
    for i, one in enumerate(report["configurations"]):
        points = [(float(x), y) for x, y in zip(played, one["return_means"], strict=False)]
        if not points:
            continue
        if i == report["winner"]:
            marked.append(Curve("winner" if i else "winner, the default", points, "blue", dots=True))
        elif i == 0:
            marked.append(Curve("default", points, "orange", dots=True))
        else:
            drawn.append(Curve("" if drawn else "others", points, "grey thin"))
    if not (drawn or marked):  # one configuration alone was quick enough, and there was nothing to search
        return Section("", [])
    what = "Mean return of each configuration over the episodes that it has played; a line ends where it was dropped."
    axes = ("episodes played by each configuration", "mean return so far")
    good = "the winner stays above the default as episodes add up."
    bad = "lines that cross until the end: the budget is too small to tell them apart."
    return Section("The search", [figure(draw_curves([*drawn, *marked], axes, what), what, good, bad)])


def _describe_search(report: Mapping[str, Any]) -> list[str]:
    """Return sentences on the search and its confirmation."""
    held_out = report["holdout"]["seeds"]
    found = [
        f"{len(report['configurations'])} configurations were drawn from a space of settings, the defaults among them, "
        f"and reduced by successive halving {{halving}} {{karnin}}: in each of {len(report['rungs'])} rungs all that "
        f"are left play the same new seeds, and one in {ETA} goes on, in {report['episodes_played']} episodes in all.",
        f"The contenders then play {len(held_out)} held-out seeds, which had no part in the choice; only these are "
        "reported.",
    ]
    return [*found, INTERVALS, PAIRS]
