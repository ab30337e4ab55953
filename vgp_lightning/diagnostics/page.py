"""Page of a diagnosis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vgp_lightning.agent.account import list_episodes, repeat, show_film, show_origin, show_worst
from vgp_lightning.agent.methods import INTERVALS, describe_planning
from vgp_lightning.diagnostics.summary import MEANINGS, find_scalars, find_tried, kind_of_returns
from vgp_lightning.report.charts import Curve, Row, curves_of, draw_bars, draw_curves, draw_rows
from vgp_lightning.report.markup import Markup, details, figure, interval, number, table
from vgp_lightning.report.page import Page, Section, picture
from vgp_lightning.report.references import describe_methods
from vgp_lightning.report.statistics import summarize

# Pictures of which diagnostics.json has no numbers: what they show, good, bad.
_PICTURES = {
    "choice.png": (
        "All candidates from one observation, as standard scores among themselves: predicted, and what each came to.",
        "the cloud rises to the right, and the blue dots lie above the line.",
        "a cloud without direction: the value function does not know which candidate is better.",
    ),
    "choice_recorded.png": (
        "The same in states of the training data.",
        "as above. Better than above: the planner visits states that the data hardly have.",
        "a cloud without direction: not even where it has learned does the value function know.",
    ),
    "guidance.png": (
        "Predicted values of candidates without and with guidance, from the same noise.",
        "blue lies to the right of grey.",
        "no shift: the scale is too small. A very large one: plans may leave the data.",
    ),
    "denoising.png": (
        "The candidates of one plan as they lose their noise, the chosen one bold.",
        "smooth at the end, and the candidates differ.",
        "jagged at the end: more denoising steps or a longer training. All equal: there is nothing to choose from.",
    ),
    "denoising_maze.png": (
        "The same in the maze.",
        "plans keep off the walls and lead to the star.",
        "plans lead through walls: a longer training, or more data of that region.",
    ),
    "plans.png": (
        "Plans from several places in the maze.",
        "plans keep off the walls and lead to the star.",
        "plans lead through walls, or end far from the star.",
    ),
}
_CHOICES = {
    "gain": "what the chosen candidate gains",
    "possible": "what the best one would gain",
    "regret": "what is missing",
}


def describe_diagnosis(report: Mapping[str, Any], folder: Path) -> Page:
    """Return the page of a diagnosis.

    Args:
        report: What diagnostics.json holds.
        folder: Where it lies, with its pictures.
    """
    episodes, settings = report["episodes"], report["settings"]
    name = Path(report["pipeline"]).name
    again = [("episodes", len(episodes) + len(report["failed_episodes"])), ("seed", report["seed"])]
    again += [(key, report[key]) for key in ("starts", "choice_steps", "recorded_episodes")]
    missing = [(part.replace("_", " "), reason) for part, reason in report["missing"].items()]
    sections = [
        show_film(folder / "rollout.gif", folder, episodes[0]["seed"], report["video_error"]),
        _show_returns(report),
        Section("Do predicted returns come true?", _show_calibration(report)),
        Section("Does it choose the better candidate?", _show_choice(report, folder, "choice")),
        Section("And in states of the training data?", _show_choice(report, folder, "choice_recorded")),
        Section("Do plans come true?", _show_plans(report)),
        Section("Guidance and denoising", _show_pictures(report, folder, ("guidance", "denoising", "plans"))),
        Section("Numbers", [_table_numbers(report)]),
        Section("What could not be measured", [table("Parts and reasons", (), missing)] if missing else []),
        show_worst(episodes, "diagnose", report),
        *show_origin(report, settings, [repeat("diagnose", report, *again, ("output_dir", "runs/again"))]),
        describe_methods([*describe_planning(report, settings), *_describe_diagnosis(report)]),
    ]
    lead = f"{report['pipeline']} in {report['env_id']}, {len(episodes)} episodes from seed {report['seed']} on"
    return Page(f"Diagnosis of {name} in {report['env_id']}", _say_verdict(report, name), lead, sections)


def _say_verdict(report: Mapping[str, Any], name: str) -> str:
    """Return the result of a diagnosis in one sentence."""
    returns = summarize([one["return"] for one in report["episodes"]])
    found = f"The planner {name} returns {number(returns.mean)} on average ({interval(returns.ci95)})"
    tried = find_tried(report, "choice")
    if tried is not None:
        gain = tried["gain"]
        ends = gain["ci95"]
        judged = "cannot be told from chance"
        if ends is not None and (ends[0] > 0 or ends[1] < 0):
            judged = "helps" if ends[0] > 0 else "does harm"
        mixed = report["settings"]["choice_temperature"] > 0 and report["settings"]["batch_size"] > 1
        one = "the best-ranked one (it acts by a weighted mean of all)" if mixed else "the chosen one"
        found += (
            f"; choosing among its candidates {judged}: {one} gains {number(gain['mean'])} over their mean "
            f"({interval(ends)})"
        )
    calibration = report["calibration"]
    if calibration is not None:
        rank = calibration[kind_of_returns(report)]["spearman"]
        found += f"; predicted and realised returns have a rank correlation of {number(rank)}" if rank else ""
    return f"{found}."


def _show_returns(report: Mapping[str, Any]) -> Section:
    """Return the section with the return of each episode."""
    values = [float(one["return"]) for one in report["episodes"]]
    returns = summarize(values)
    labels = [f"seed {one['seed']}: {number(value)}" for one, value in zip(report["episodes"], values, strict=True)]
    words = f"Mean {number(returns.mean)}, {interval(returns.ci95)}."
    row = Row("episodes", values, returns.mean, returns.ci95, labels)
    good, bad = (
        "the dots lie close together, and far to the right.",
        "few dots: a diagnosis of few episodes says little.",
    )
    what = f"Each blue dot is the return of an episode, orange the mean. {words}"
    chart = draw_rows([row], "return of an episode", what)
    return Section("Returns", [figure(chart, what, good, bad), list_episodes(report["episodes"])])


def _show_calibration(report: Mapping[str, Any]) -> list[Markup]:
    """Return the calibration curve and the ranking by noise level."""
    parts = []
    if report["calibration"] is not None:
        kind = kind_of_returns(report)
        one = report["calibration"][kind]
        curve = [(x, y) for x, y in one["curve"]]
        ends = [min(min(pair) for pair in curve), max(max(pair) for pair in curve)]
        line = Curve("predicted = realised", [(end, end) for end in ends], "grey dashed")
        means = Curve("means of tenths of the plans", curve, "blue", dots=True)
        what = (
            f"Predicted and realised return of {one['count']} executed plans ({kind} returns): rank correlation "
            f"{number(one['spearman'])}, slope {number(one['slope'])}, bias {number(one['bias'])}."
        )
        good = "the blue line rises along the dashed one."
        bad = (
            "a flat line: the value function cannot rank plans here. A line far below the dashed one: too optimistic; "
            "lower the scale, or take fewer candidates."
        )
        parts.append(figure(draw_curves([line, means], ("predicted return", "realised return"), what), what, good, bad))
    if report["ranking"] is not None:
        kind = kind_of_returns(report)
        bars = [(f"level {entry['level']}", entry[kind]) for entry in report["ranking"]]
        what = "Rank correlation of predicted and realised return of executed windows, by noise level (0: clean)."
        good = "near 1 at level 0, falling slowly."
        bad = "near 0 at level 0: a choice among candidates is chance. Near 0 from the middle on: guidance is blind."
        parts.append(figure(draw_bars(bars, "rank correlation", what, reference=1.0), what, good, bad))
    return parts


def _show_choice(report: Mapping[str, Any], folder: Path, part: str) -> list[Markup]:
    """Return what trying the candidates in the simulator has shown, in the states of a part of the report."""
    tried = find_tried(report, part)
    if tried is None:
        return []
    choice = report[part]
    means = {text: tried[name] for name, text in _CHOICES.items()}
    if "guidance" in choice:
        means["what guidance adds to a candidate"] = choice["guidance"]["mean"]
        means["what guidance adds to the chosen one"] = choice["guidance"]["chosen"]
    rows = [Row(name, (), one["mean"], one["ci95"]) for name, one in means.items() if one["mean"] is not None]
    what = f"{choice['candidates']} candidates in each of {choice['states']} states, tried for {choice['steps']} steps."
    words = "; ".join(f"{row.name}: {number(row.mean)}, {interval(row.ends)}" for row in rows)
    good = "what the chosen candidate gains lies right of the dashed line, near what the best one would gain."
    bad = "it touches the dashed line: choosing does not choose; rank by a critic, or take one plan."
    cells = [(row.name, row.mean, interval(row.ends)) for row in rows]
    charts = [
        figure(draw_rows(rows, "discounted rewards", f"{what} {words}.", reference=0.0), what, good, bad),
        details("The numbers", table("Discounted rewards, means over the states", ("", "mean", "interval"), cells)),
    ]
    return [*(charts if rows else ()), *_show_pictures(report, folder, (f"{part}.",))]


def _show_plans(report: Mapping[str, Any]) -> list[Markup]:
    """Return how far planned and visited observations are apart."""
    horizon, own = report["horizon"], report["own_actions"]
    named = {"movement of the state": horizon["movement"], "plan, with replanning": horizon["replanned"]}
    if own is not None:
        named["plan, its own actions to the end"] = own["distance"]
    what = "Distance of planned from visited observations."
    axes = ("steps ahead", "distance in normalised units")
    good = "far below the dashed line, the movement of the state itself."
    bad = "it meets the dashed line early: later steps of plans carry no information; shorten the horizon."
    parts = [figure(draw_curves(curves_of(named), axes, what, zero=True), what, good, bad)]
    errors = report["dynamics"]["dimensions"]
    names = report["dynamics"].get("names") or [f"observation {i}" for i in range(len(errors))]  # of earlier versions
    bars = list(zip(names, errors, strict=True))
    what = "Error of the first planned change as a share of the change, for each dimension."
    good, bad = "well below 1 (the dashed line).", "at 1 or above: no better than to expect no change."
    chart = figure(draw_bars(bars, "error / change", what, reference=1.0), what, good, bad)
    parts.append(details("All dimensions", chart) if len(bars) > 30 else chart)
    return parts


def _show_pictures(report: Mapping[str, Any], folder: Path, parts: tuple[str, ...]) -> list[Markup]:
    """Return the pictures of some parts."""
    found = []
    for name, (what, good, bad) in _PICTURES.items():
        if name in report["pictures"] and name.startswith(parts):
            shown = picture(folder / name, folder, what)
            if shown is not None:
                found.append(figure(shown, what, good, bad))
    return found


def _table_numbers(report: Mapping[str, Any]) -> Markup:
    """Return the main numbers with what they mean."""
    rows = [
        (name.replace("_", " "), number(value), MEANINGS[name])
        for name, value in find_scalars(report).items()
        if value is not None
    ]
    return table("Main numbers", ("", "value", "what it means"), rows)


def _describe_diagnosis(report: Mapping[str, Any]) -> list[str]:
    """Return sentences on what was measured."""
    found = [
        f"{len(report['episodes'])} episodes are played; predictions of the learned return are compared with the "
        "discounted sums of the rewards that followed."
    ]
    choice = report["choice"]
    if choice:
        found.append(
            f"In {choice['states']} states of them {choice['candidates']} candidates are tried: the simulator is "
            f"brought back, {choice['own_steps']} of the candidate's actions are executed, and an unguided planner "
            f"goes on to step {choice['steps']}, {choice['repeats']} times with common random numbers."
        )
    return [*found, INTERVALS] if choice or len(report["episodes"]) >= 5 else found
