"""Pages of evaluations: of one, and of two that are compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vgp_lightning.agent.account import list_episodes, name_seeds, repeat, show_film, show_origin, show_worst
from vgp_lightning.agent.methods import INTERVALS, PAIRS, describe_planning
from vgp_lightning.report.charts import Row, draw_rows
from vgp_lightning.report.markup import Markup, command, details, figure, interval, number, table, tag
from vgp_lightning.report.page import Page, Section, picture
from vgp_lightning.report.references import describe_methods, plain

_RETURNS_GOOD = "the dots lie close together, and far to the right."
_RETURNS_BAD = "two heaps, one of them far to the left (some episodes end early), or an interval as wide as the dots."
_DIFFERENCES_GOOD = "the interval does not touch the dashed line: the difference is not by chance."
_DIFFERENCES_BAD = "the interval crosses it: more episodes are needed, or there is no difference."


# ---------------------------------------------------------------- one evaluation


def describe_evaluation(report: Mapping[str, Any], folder: Path) -> Page:
    """Return the page of an evaluation.

    Args:
        report: What evaluation.json holds.
        folder: Where it lies, with the film.
    """
    episodes = report["episodes"]
    name = Path(report["pipeline"]).name
    failed = report.get("failed_episodes", [])
    sections = [
        show_film(folder / "rollout.gif", folder, report["seed"], report["video_error"]),
        show_returns({name: report}),
        Section("Numbers", [_table_numbers(report)]),
        Section("Episodes that failed", [_table_failed(failed)] if failed else []),
        show_worst(episodes, "evaluate", report),
        *show_origin(report, report["settings"], [repeat_evaluation(report)]),
        describe_methods([*describe_planning(report, report["settings"]), *describe_statistics(report)]),
    ]
    last = report["seed"] + len(episodes) + len(failed) - 1
    lead = f"{report['pipeline']}, seeds {report['seed']} to {last}, vgp_lightning {_version(report)}"
    return Page(f"Evaluation of {name} in {report['env_id']}", say_returns(report, name), lead, sections)


def say_returns(report: Mapping[str, Any], name: str) -> str:
    """Return the result of an evaluation in one sentence."""
    count = len(report["episodes"])
    found = f"The planner {name} returns {number(report['return_mean'])} on average in {report['env_id']} "
    found += f"({interval(report['return_ci95'])}; {count} episode{'' if count == 1 else 's'})"
    if report["normalized_score"] is not None:
        found += f", a score of {number(report['normalized_score'])} on {report['reference']['name']}'s scale to 100"
    if report["success_rate"] is not None:
        found += f", and succeeds in {report['success_rate']:.0%} of them ({_shares(report['success_rate_ci95'])})"
    return f"{found}."


def show_returns(reports: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return the section with the return of each episode, and the means with their intervals."""
    rows = []
    for name, report in reports.items():
        labels = [f"seed {one['seed']}: {number(float(one['return']))}" for one in report["episodes"]]
        values = [float(one["return"]) for one in report["episodes"]]
        rows.append(Row(name, values, report["return_mean"], report["return_ci95"], labels))
    words = [f"{row.name}: mean {number(row.mean)}, {interval(row.ends)}" for row in rows]
    chart = draw_rows(rows, "return of an episode", f"Return of each episode. {'; '.join(words)}.")
    what = "Each blue dot is the return of an episode, orange the mean with its 95 % interval."
    listed = [tag("p", f"{word}.") for word in words]
    return Section(
        "Returns",
        [
            figure(chart, what, _RETURNS_GOOD, _RETURNS_BAD),
            *listed,
            *(list_episodes(report["episodes"]) for report in list(reports.values())[:1] if len(reports) == 1),
        ],
    )


def _table_numbers(report: Mapping[str, Any]) -> Markup:
    """Return the statistics, each with its interval."""
    rows = [
        ("return, mean", report["return_mean"], report["return_ci95"]),
        ("return, middle half", report["return_iqm"], report["return_iqm_ci95"]),
        ("return, median", report["return_median"], report["return_median_ci95"]),
        ("return, standard deviation", report["return_std"], None),
        ("normalised score", report["normalized_score"], report["normalized_score_ci95"]),
        ("success rate", report["success_rate"], report["success_rate_ci95"]),
        ("steps, mean", report["length_mean"], None),
        ("share ended by the environment", report["terminated_share"], None),
        ("milliseconds of a planning call", report["plan_ms"], None),
    ]
    shown = [(name, value, "" if ends is None else _ends(ends)) for name, value, ends in rows if value is not None]
    return table("Statistics of the episodes", ("", "value", "95 % interval"), shown)


def _table_failed(failed: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [(str(one["seed"]), one["step"], one["reason"]) for one in failed]
    return table("Not in the statistics", ("seed", "step", "why"), rows)


def repeat_evaluation(report: Mapping[str, Any], output: str = "runs/again") -> Markup:
    """Return the command that repeats an evaluation into an output folder."""
    count = len(report["episodes"]) + len(report.get("failed_episodes", ()))
    first = [("episodes", count), *name_seeds(report)]
    reference = report["reference"]
    if reference is not None and reference["name"] == "user":
        first += [("ref_min_score", reference["min"]), ("ref_max_score", reference["max"])]
    return repeat("evaluate", report, *first, ("output_dir", output))


def describe_statistics(report: Mapping[str, Any]) -> list[str]:
    """Return sentences on what was played and on its statistics."""
    count = len(report["episodes"])
    sentences = [f"{count} episode{'' if count == 1 else 's'} are played, with a seed each from {report['seed']} on."]
    if report["return_ci95"] is not None:
        sentences.append(INTERVALS)
        sentences.append("The mean of the middle half is the interquartile mean {iqm}.")
    if report["success_rate"] is not None:
        sentences.append("Success rates have Wilson's interval {wilson}.")
    reference = report["reference"]
    if reference is not None:
        cited = " {d4rl}" if str(reference["name"]).startswith("D4RL") else ""
        sentences.append(
            f"Scores are normalised so that a return of {number(reference['min'])} is 0 and {number(reference['max'])} "
            f"is 100 ({plain(reference['name'])}{cited})."
        )
    return sentences


def _shares(ends: Sequence[float] | None) -> str:
    return "no interval" if ends is None else f"95 % interval {ends[0]:.0%} to {ends[1]:.0%}"


def _version(report: Mapping[str, Any]) -> str:
    return str((report.get("versions") or {}).get("vgp_lightning", "unknown"))


# ---------------------------------------------------------------- two evaluations


def show_differences(differences: Mapping[str, Mapping[str, Any]], pairs: Mapping[str, Sequence[float]]) -> Section:
    """Return the section with paired differences.

    Args:
        differences: Statistics of each, as ``compare_pairs`` finds them, with ``verdict``; by names such as "B - A".
        pairs: For the same names the difference of each pair; empty: they are not drawn.
    """
    rows = [Row(name, pairs.get(name, ()), one["difference"], one["ci95"]) for name, one in differences.items()]
    words = "; ".join(f"{row.name}: {number(row.mean)}, {interval(row.ends)}" for row in rows)
    chart = draw_rows(rows, "difference on the same seed", f"Paired differences. {words}.", reference=0.0)
    what = "Orange: the mean difference with its 95 % interval. Dashed: no difference."
    what = f"Each blue dot is the difference on one seed. {what}" if any(pairs.values()) else what
    heads = ("", "mean", "95 % interval", "pairs", "higher in", "p", "more pairs needed")
    cells = [
        (
            *(name, one["difference"], _ends(one["ci95"]), one["pairs"], f"{one['share_higher']:.0%}"),
            *(one["permutation_p"], _more(one)),
        )
        for name, one in differences.items()
    ]
    return Section(
        "Paired differences",
        [
            figure(chart, what, _DIFFERENCES_GOOD, _DIFFERENCES_BAD),
            table("Differences, p by the paired permutation test", heads, cells),
            *(tag("p", f"{name}: {one['verdict']}.") for name, one in differences.items()),
        ],
    )


def _ends(ends: Sequence[float] | None) -> str:
    return "none" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def _more(one: Mapping[str, Any]) -> str:
    """Return how many more pairs would detect a difference of this size."""
    if one["told"] or one["pairs_needed"] is None:
        return "0" if one["told"] else "unknown"
    return str(max(one["pairs_needed"] - one["pairs"], 1))


def describe_comparison(
    result: Mapping[str, Any], first: Mapping[str, Any], second: Mapping[str, Any], folder: Path
) -> Page:
    """Return the page of a comparison.

    Args:
        result: What the comparison found.
        first: The evaluation A.
        second: The evaluation B.
        folder: The page's.
    """
    metric, seeds = result["metric"], set(result["seeds"])
    a, b = ({e["seed"]: float(e[metric]) for e in one["episodes"] if e["seed"] in seeds} for one in (first, second))
    rows = [
        Row(
            f"{name.upper()}: {Path(result[name]['path']).parent.name}",
            list(values.values()),
            result[name]["mean"],
            result[name]["ci95"],
            [f"seed {seed}: {number(value)}" for seed, value in values.items()],
        )
        for name, values in (("a", a), ("b", b))
    ]
    words = "; ".join(f"{row.name}: mean {number(row.mean)}, {interval(row.ends)}" for row in rows)
    what = "Each blue dot is an episode, orange the mean with its 95 % interval."
    worst = sorted(result["seeds"], key=lambda seed: b[seed] - a[seed])
    listed = [(str(seed), a[seed], b[seed], b[seed] - a[seed]) for seed in worst]
    heads = ("seed", "A", "B", "B - A")
    differs = [(name, str(ours), str(theirs)) for name, (ours, theirs) in result["differs"].items()]
    paths = [result["a"]["path"], result["b"]["path"]]
    outputs = ["runs/a", "runs/b"]
    again = command(["vgp", "compare", *outputs, "--metric", metric, "--json", "runs/comparison.json"])
    played = [
        repeat_evaluation(one, output)
        for one, output in zip((first, second), outputs, strict=True)
        if {"pipeline", "seed", "sampler_seed"} <= one.keys()
    ]
    settings = second.get("settings")
    sections = [
        _show_films(paths, first, second, folder),
        show_differences({"B - A": result}, {"B - A": [b[seed] - a[seed] for seed in result["seeds"]]}),
        Section(
            "Both",
            [
                figure(draw_rows(rows, metric.replace("_", " "), words), what, _RETURNS_GOOD, _RETURNS_BAD),
                *(tag("p", f"{row.name}: mean {number(row.mean)}, {interval(row.ends)}.") for row in rows),
            ],
        ),
        Section(
            "Where B falls behind A most",
            [
                table("The three seeds with the lowest difference", heads, listed[:3]),
                details("All seeds", table(f"{len(listed)} seeds, lowest difference first", heads, listed[:500])),
                _replay(first, second, worst[:3]),
            ],
        ),
        Section(
            "What else differs between A and B",
            [table("Settings and versions", ("", "A", "B"), differs)] if differs else [],
        ),
        Section("To repeat it", [*played, again]),
        describe_methods([*(describe_planning(second, settings) if settings else ()), PAIRS]),
    ]
    lead = f"A is {paths[0]}, B is {paths[1]}: {metric.replace('_', ' ')} in {result['env_id']}, {len(seeds)} seeds"
    verdict = say_verdict(result)
    return Page(f"Comparison in {result['env_id']}", f"{verdict[0].upper()}{verdict[1:]}", lead, sections)


def say_verdict(one: Mapping[str, Any]) -> str:
    """Return whether two differ, as a sentence that ends; its interval is in it."""
    if one["told"]:
        return f"{one['verdict']} (95 % interval)."
    return f"{one['verdict']} (mean difference {number(one['difference'])}, {interval(one['ci95'])})."


def _show_films(paths: Sequence[str], first: Mapping[str, Any], second: Mapping[str, Any], folder: Path) -> Section:
    """Return the films of both, side by side, if they are of the same seed."""
    if first.get("seed") != second.get("seed"):
        return Section("Films", [])
    films = [picture(Path(path).parent / "rollout.gif", folder, f"Film of {path}", plot=False) for path in paths]
    if None in films:
        return Section("Films", [])
    named = [tag("div", tag("h3", name), film) for name, film in zip("AB", films, strict=True)]
    good, bad = "B moves better than A, up to the end.", "both alike: the difference is elsewhere, or there is none."
    return Section("Films", [figure(tag("div", *named, class_="pair"), f"Seed {first['seed']}.", good, bad)])


def _replay(first: Mapping[str, Any], second: Mapping[str, Any], seeds: Sequence[int]) -> Markup | str:
    """Return the commands that play seeds again, with both planners."""
    if "pipeline" not in first or "pipeline" not in second:
        return ""
    lines = []
    for seed in seeds:
        for name, report in (("a", first), ("b", second)):
            played = next(one for one in report["episodes"] if one["seed"] == seed)
            output = ("output_dir", f"runs/seed-{seed}-{name}")
            lines.append(repeat("evaluate", report, ("episodes", 1), *name_seeds(played), output))
    return details("The commands that play these seeds again", *lines)
