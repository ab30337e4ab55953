"""Compare two evaluations episode by episode, on the seeds that both played."""

import json as json_
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vgp_lightning.evaluation.pages import describe_comparison
from vgp_lightning.report.files import write_report
from vgp_lightning.report.page import write_page
from vgp_lightning.report.statistics import FEWEST_PAIRS, Paired, compare_pairs, summarize, wilson_interval

# What must be the same in two evaluations so that episodes with the same seed are the same task.
_SAME = ("entry_point", "max_episode_steps", "kwargs", "additional_wrappers")
# What earlier versions did not write, as it was then.
_LATER = {"delay": 0, "reach_goal": False, "follow_states": False}
_NEEDED = {"env_id": str, "env_spec": dict, "episodes": list}
_REMEDY = "vgp evaluate FOLDER --output_dir RESULTS writes RESULTS/evaluation.json"


@dataclass(frozen=True)
class _Evaluation:
    """A file of ``vgp evaluate``, and the values of the compared metric by the environment's seed."""

    path: Path
    report: dict[str, Any]
    values: dict[int, float]


def compare(
    a: str,
    b: str,
    *,
    metric: Literal["return", "normalized_score", "length", "success"] = "return",
    json: str | None = None,
) -> dict[str, Any]:
    """Test whether B differs from A on the same episodes, and how many more episodes would be needed to detect it.

    Args:
        a: evaluation.json of one planner, or the folder with it.
        b: The same for the other planner; differences are B - A.
        metric: The metric to compare: return, normalized_score, length or success.
        json: File to write the comparison to; a page of the same name that ends in .html is written beside it.

    Returns:
        What the file holds.

    Raises:
        ValueError: If a file is not an evaluation, lacks the metric, or the two have no episodes in common.
    """
    first, second = _read(a, metric), _read(b, metric)
    _check_environments(first, second)
    seeds = sorted(first.values.keys() & second.values.keys())
    if not seeds:
        ranges = [f"{e.path} has {min(e.values)} to {max(e.values)}" for e in (first, second)]
        raise ValueError(
            f"the two have no seed in common, so no episode can be compared: {', '.join(ranges)}. Evaluate both on "
            f"the same seeds, such as: vgp evaluate FOLDER --seed {min(first.values)} --episodes {len(first.values)}"
        )
    references = [evaluation.report.get("reference") for evaluation in (first, second)]
    if metric == "normalized_score" and (references[0] != references[1] or references[0] is None):
        raise ValueError(
            f"the reference of the normalised scores is {references[0]} in {first.path} and {references[1]} in "
            f"{second.path}: evaluate both with the same --ref_min_score and --ref_max_score, or compare returns"
        )
    ours, theirs = (np.array([e.values[seed] for seed in seeds]) for e in (first, second))
    paired = compare_pairs(theirs - ours)
    result = {
        "metric": metric,
        "env_id": first.report["env_id"],
        "reference": references[0] if references[0] == references[1] else None,
        "pairs": len(seeds),
        "seeds": seeds,
        "a": _side(first, ours, metric, len(seeds)),
        "b": _side(second, theirs, metric, len(seeds)),
        **asdict(paired),
        "told": paired.told,
        "verdict": say_difference(paired, len(seeds), metric),
        "differs": _differences(first.report, second.report),
    }
    if json is not None:
        output = Path(json)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_report(result, output)
        page = output.with_suffix(".html") if output.suffix != ".html" else output.with_name(f"{output.name}.html")
        write_page(page, lambda: describe_comparison(result, first.report, second.report, page.parent))
    _print(result)
    return result


# ---------------------------------------------------------------- reading


def _read(name: str, metric: str) -> _Evaluation:
    """Read a file, or a folder's evaluation.json, and the metric's values in it."""
    path = Path(name)
    if path.is_dir():
        path /= "evaluation.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give two files of evaluations. {_REMEDY}")
    try:
        report = json_.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # not JSON, not text, or nested too deeply
        raise ValueError(f"{path} is not JSON ({error}): give an evaluation.json. {_REMEDY}") from error
    found = report if isinstance(report, dict) else {}
    lacking = [key for key, kind in _NEEDED.items() if not isinstance(found.get(key), kind) or not found[key]]
    if lacking:
        raise ValueError(f"{path} is not an evaluation, or one of an older version: it has no {lacking}. {_REMEDY}")
    values: dict[int, float] = {}
    for i, episode in enumerate(report["episodes"]):
        if not isinstance(episode, dict) or not isinstance(episode.get("seed"), int) or metric not in episode:
            raise ValueError(f"{path}: episode {i} is {episode}; it needs seed and {metric}. {_REMEDY}")
        if (value := episode[metric]) is None:
            why = {
                "normalized_score": "there is no reference: evaluate with --ref_min_score and --ref_max_score, or",
                "success": f"{report['env_id']} reports none:",
            }.get(metric, "it is null:")
            raise ValueError(f"{path} has no {metric}: {why} compare another metric, such as --metric return")
        if not isinstance(value, int | float) or not np.isfinite(value):
            raise ValueError(f"{path}: episode {i} has {metric} {value!r}: a finite number is needed")
        if episode["seed"] in values:
            raise ValueError(f"{path}: two episodes have the seed {episode['seed']}: each seed can occur only once")
        values[episode["seed"]] = float(value)
    return _Evaluation(path, report, values)


def _check_environments(first: _Evaluation, second: _Evaluation) -> None:
    """Refuse evaluations in different environments."""
    ids = [evaluation.report["env_id"] for evaluation in (first, second)]
    if ids[0] != ids[1]:
        raise ValueError(
            f"the environments differ: {ids[0]} in {first.path} and {ids[1]} in {second.path}. Evaluate both in the "
            f"same, such as: vgp evaluate FOLDER --env_id {ids[0]}"
        )
    for key in _SAME:
        values = [evaluation.report["env_spec"].get(key) for evaluation in (first, second)]
        if values[0] != values[1]:
            raise ValueError(
                f"the environments differ: {ids[0]} has {key} {values[0]} in {first.path} and {values[1]} in "
                f"{second.path}. Evaluate both in the same, such as: vgp evaluate FOLDER --env_id {ids[0]}"
            )


def _differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, list[Any]]:
    """Return what else differs between the evaluations: {name: [A's, B's]}."""
    sides = []
    for report in (first, second):
        side = {key: report.get(key) for key in ("weights_sha256", "habit", "critic", "device")}
        side |= {key: report.get(key, absent) for key, absent in _LATER.items()}
        for group in ("settings", "versions"):
            side |= {f"{group}.{key}": value for key, value in (report.get(group) or {}).items()}
        sides.append(side)
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    pairs = {name: [side.get(name) for side in sides] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


# ---------------------------------------------------------------- results in words


def _side(evaluation: _Evaluation, values: NDArray[np.float64], metric: str, pairs: int) -> dict[str, Any]:
    """Return the statistics of one evaluation's paired episodes."""
    summary = asdict(summarize(values))
    if metric == "success":
        summary["ci95"] = wilson_interval(int(values.sum()), len(values))
    return {"path": str(evaluation.path), "unpaired": len(evaluation.values) - pairs, **summary}


def describe_pairs(differences: Sequence[float], names: tuple[str, str]) -> dict[str, Any]:
    """Return the statistics of paired differences of returns, as reports hold them.

    Args:
        differences: One for each pair, of the second from the first.
        names: Of the two.
    """
    paired = compare_pairs(differences)
    verdict = say_difference(paired, len(differences), names=names)
    return asdict(paired) | {"pairs": len(differences), "told": paired.told, "verdict": verdict}


def say_difference(paired: Paired, pairs: int, metric: str = "return", names: tuple[str, str] = ("A", "B")) -> str:
    """Return as text whether the second of two differs from the first, and how many more episodes would detect it."""
    episodes = f"{pairs} episode{'' if pairs == 1 else 's'}"
    if paired.share_equal == 1:
        every = f"all {episodes}" if pairs > 1 else episodes
        return f"no significant difference: {names[0]} and {names[1]} are equal in {every}"
    if paired.told and paired.ci95 is not None:  # a significant difference has an interval, which excludes 0
        low, high = sorted(abs(end) for end in paired.ci95)
        size = f"{_number(abs(paired.difference), metric)} [{_number(low, metric)}, {_number(high, metric)}]"
        winner = names[paired.difference > 0]
        return {
            "length": f"{winner}'s episodes are longer by {size}",
            "success": f"{winner} succeeds more often by {size}",
        }.get(metric, f"{winner} is better by {size}")
    words = f"no significant difference in {episodes}"
    if pairs < FEWEST_PAIRS:
        words += f" (the test needs at least {FEWEST_PAIRS})"
    if paired.pairs_needed is not None:
        more = max(paired.pairs_needed - pairs, 1)
        words += f"; about {more} more {'is' if more == 1 else 'are'} needed to detect one of this size"
    if paired.smallest_difference is not None:
        words += f"; {episodes} detect one of {_number(paired.smallest_difference, metric)} with 80 % power"
    return words


def _number(value: float, metric: str) -> str:
    """Return a value of the metric as text."""
    if metric == "success":
        return f"{100 * value:.0f} %"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _interval(ends: list[float] | None, metric: str) -> str:
    return "" if ends is None else f" (95 %: {_number(ends[0], metric)} to {_number(ends[1], metric)})"


def _print(result: dict[str, Any]) -> None:
    """Print the comparison as a table, and the verdict below it."""
    metric, pairs = result["metric"], result["pairs"]
    title = f"{metric.replace('_', ' ')} in {result['env_id']}, {pairs} paired episode{'' if pairs == 1 else 's'}"
    if metric == "normalized_score":
        title += f", 0 to 100: {result['reference']['name']}"
    table = Table(title=escape(title), show_header=False, title_justify="left")
    for name in ("a", "b"):
        side = result[name]
        left = f"; {side['unpaired']} left out, with seeds in this file only" if side["unpaired"] else ""
        table.add_row(name.upper(), escape(side["path"] + left))
        table.add_row(f"{name.upper()}, mean", _number(side["mean"], metric) + _interval(side["ci95"], metric))
    table.add_row("B - A, mean", _number(result["difference"], metric) + _interval(result["ci95"], metric))
    equal = f", equal in {result['share_equal']:.0%}" if result["share_equal"] else ""
    table.add_row("B is higher", f"in {result['share_higher']:.0%} of the episodes{equal}")
    table.add_row("p, permutation test", f"{result['permutation_p']:.2g}")
    table.add_row("p, sign test", f"{result['sign_test_p']:.2g}")
    for name, (ours, theirs) in result["differs"].items():
        table.add_row(escape(name), escape(f"A: {ours}, B: {theirs}"))
    console = Console()
    console.print(table)
    console.print(result["verdict"], markup=False, highlight=False, soft_wrap=True)
