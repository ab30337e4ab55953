"""Make RESULTS.md and its pictures from the measurements of benchmarks.results; no number is typed by hand.

python -m benchmarks.results_page

Reads benchmarks/results/: MACHINE/RECIPE.json, published.json, and the template page.md, whose names in braces are
replaced by measured values.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vgp_lightning.evaluation.scores import Reference, normalized_score
from vgp_lightning.report.figures import BLUE, GREY, ORANGE

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PAGE, PICTURE, CALIBRATION = "RESULTS.md", "docs/results.png", "docs/calibration.png"
ORDER = (
    *("hopper-medium", "hopper-medium-expert", "walker2d-medium", "walker2d-medium-expert"),
    *("halfcheetah-medium", "halfcheetah-medium-expert"),
    *("pointmaze-umaze", "pointmaze-medium", "pointmaze-large"),
)
BEHAVIOUR = "behaviour"
# The suffix of a recipe's name in a row, and the description of all such rows.
MACHINES = {
    "cpu": ("", "the CPU overlays (`configs/cpu/`), small networks; the paper's are larger and trained far longer"),
    "gpu": (" (GPU)", "the paper's sizes"),
}


def read() -> dict[str, dict[str, Any]]:
    """Return the measurements by the name of their row, in order."""
    found = {}
    for recipe in ORDER:
        for machine, (mark, _) in MACHINES.items():
            if (file := RESULTS / machine / f"{recipe}.json").exists():
                found[recipe + mark] = json.loads(file.read_text())
    return found


def published() -> dict[str, Any]:
    """Return the published results of others, on other data."""
    return dict(json.loads((RESULTS / "published.json").read_text()))


def scores_of_others(result: dict[str, Any]) -> list[float]:
    """Return the published scores of the recipe's counterpart, Diffuser's first."""
    others = published()
    return list((others["scores"] | others["mazes"]["scores"])[result["recipe"]])


def score(result: dict[str, Any], value: float) -> float:
    """Return the normalised score of a return."""
    return normalized_score(value, Reference(**result["planners"]["unguided"]["reference"]))


def players(result: dict[str, Any]) -> dict[str, tuple[float, list[float]]]:
    """Return the mean return and its interval of the behaviour policy and of each planner, the behaviour policy first.

    In a maze there is no behaviour policy: stored episodes end at the goal with a return of 1, those of an evaluation
    continue there and go on counting, so the two cannot be compared.
    """
    behaviour = (result["dataset"]["mean"], result["dataset"]["ci95"])
    return ({} if "maze" in result["recipe"] else {BEHAVIOUR: behaviour}) | {
        name: (report["return_mean"], report["return_ci95"]) for name, report in result["planners"].items()
    }


# ---------------------------------------------------------------- words


def number(value: float | None, digits: int = 0, sign: bool = False) -> str:
    """Return a number as text."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def interval(mean: float | None, ends: list[float] | None, digits: int = 0, sign: bool = False) -> str:
    """Return a mean and its interval as text."""
    if ends is None:
        return number(mean, digits, sign)
    return f"{number(mean, digits, sign)} [{number(ends[0], digits)}, {number(ends[1], digits)}]"


def table(headings: list[str], lines: list[list[str]]) -> str:
    """Return a table in Markdown; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, rule, *lines))


# ---------------------------------------------------------------- tables


def scores(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of normalised scores, with the published ones."""
    names = list(players(next(iter(results.values()))))
    lines = []
    for recipe, result in results.items():
        played = players(result)
        best = max(result["planners"], key=lambda name: played[name][0])
        cells = []
        for name in names:
            mean, ends = played.get(name, (None, None))
            words = "-" if mean is None else interval(score(result, mean), [score(result, end) for end in ends], 1)
            cells.append(f"**{words}**" if name == best else words)
        theirs = scores_of_others(result)
        lines.append([recipe, *cells, number(theirs[0], 1), number(max(theirs), 1)])
    return table(["recipe", *names, "*Diffuser, D4RL*", "*best published, D4RL*"], lines)


def returns(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of returns, with lengths and successes."""
    lines = []
    for recipe, result in results.items():
        for name, (mean, ends) in players(result).items():
            report = result["planners"].get(name)
            dataset = result["dataset"]
            lines.append(
                [
                    f"{recipe}, {name}",
                    interval(mean, ends, 0 if abs(mean) >= 100 else 1),
                    number(report["return_iqm"] if report else dataset["iqm"], 0 if abs(mean) >= 100 else 1),
                    number(report["length_mean"] if report else dataset["steps"] / dataset["episodes"]),
                    f"{report['terminated_share']:.0%}" if report else "-",
                    f"{report['success_rate']:.0%}" if report and report["success_rate"] is not None else "-",
                    str(len(report["episodes"]) if report else dataset["episodes"]),
                    number(result["latency_ms"][name], 1) if report else "-",
                ]
            )
    headings = ["", "return", "middle half", "length", "terminated", "success", "episodes", "ms a plan"]
    return table(headings, lines)


def pairs(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of paired differences on the same seeds."""
    lines = []
    headings = [f"{pair['of'][1]} - {pair['of'][0]}" for pair in next(iter(results.values()))["pairs"]]
    for recipe, result in results.items():
        cells = []
        for pair in result["pairs"]:
            words = interval(pair["difference"], pair["ci95"], 0 if abs(pair["difference"]) >= 10 else 1, sign=True)
            cells.append(f"**{words}**" if pair["told"] else words)
        lines.append([recipe, *cells])
    return table(["recipe", *headings], lines)


def trainings(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of the trainings."""
    lines = []
    for recipe, result in results.items():
        trained, settings = result["training"], result["planners"]["guided, best of K"]["settings"]
        lines.append(
            [
                recipe,
                f"`{result['dataset']['id']}`",
                f"{trained['steps']:,}".replace(",", " "),
                number(trained["minutes"]),
                trained["device"],
                str(trained["horizon"]),
                " ".join(str(width) for width in trained["widths"]),
                f"{settings['batch_size']}",
                f"{settings['n_guide_steps']} x {settings['scale']:g}",
                f"{settings['sampler']} {settings['num_inference_steps']}",
                f"{settings['temperature']:g}",
                f"{settings['warm_start_strength']:g}",
                f"{settings['replan_every']}",
            ]
        )
    headings = ["recipe", "dataset", "steps", "minutes", "device", "horizon", "widths", "K", "guidance", "sampler"]
    return table([*headings, "temperature", "warm start", "replans every"], lines)


def values(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of the value function's quality on held-out data and on the planner's own episodes."""
    lines = []
    for recipe, result in results.items():
        held_out, own = result["training"]["validation"], calibration(result)
        guidance = result["diagnosis"]["guidance"]
        lines.append(
            [
                recipe,
                number(held_out["val/rank_correlation"], 2),
                number(held_out["val/explained_variance"], 2),
                number(own["spearman"], 2),
                number(own["slope"], 2),
                f"{number(own['predicted_mean'], digits(own))} / {number(own['realised_mean'], digits(own))}",
                number(guidance and guidance["selection_gain"], digits(own), sign=True),
                number(guidance and guidance["gain_mean"], digits(own), sign=True),
                number(result["diagnosis"]["dynamics"]["mean"], 2),
            ]
        )
    held_out = ["rank correlation, held out", "explained variance, held out"]
    own = ["rank correlation, own", "slope", "promised / realised", "selection adds", "guidance adds", "one-step error"]
    return table(["recipe", *held_out, *own], lines)


def digits(own: dict[str, Any]) -> int:
    """Return the number of decimals for values of this size."""
    return 0 if abs(own["realised_mean"]) >= 100 else 2


def calibration(result: dict[str, Any]) -> dict[str, Any]:
    """Return the calibration of predicted against realised returns on the planner's own episodes."""
    parts = result["diagnosis"]["calibration"]
    return dict(parts["complete"] or parts["all"])


def literature() -> str:
    """Return the tables of published results, with their labels."""
    others = published()
    text = []
    for part in (others, others["mazes"]):
        names = [f"{column['name']} ({column['source']})" for column in part["columns"]]
        lines = [[recipe, *(number(value, 1) for value in part["scores"][recipe])] for recipe in part["scores"]]
        text += [f"{part['what']}:", table(["", *names], lines)]
    return "\n\n".join(text)


# ---------------------------------------------------------------- picture


def draw(results: dict[str, dict[str, Any]]) -> Figure:
    """Draw each recipe's scores, with the published one of Diffuser as a line."""
    columns = min(5, len(results))
    height = -(-len(results) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.9 * height), layout="constrained")
    panels = list(figure.subplots(height, columns, squeeze=False).flat)
    for panel in panels[len(results) :]:
        panel.remove()
    for panel, (recipe, result) in zip(panels[: len(results)], results.items(), strict=True):
        for i, (name, (mean, ends)) in enumerate(players(result).items()):
            colour = GREY if name == BEHAVIOUR else BLUE
            panel.plot([i, i], [score(result, end) for end in ends], color=colour, linewidth=2)
            panel.plot(i, score(result, mean), "o", color=colour)
        panel.axhline(scores_of_others(result)[0], color=ORANGE, linestyle="--", linewidth=1)
        panel.set_title(recipe, fontsize=9)
        panel.set_xticks(range(len(players(result))), list(players(result)), rotation=60, ha="right", fontsize=7)
        panel.tick_params(axis="y", labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(y=0.1)
        panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
    figure.supylabel("normalised score, mean and 95 % interval", fontsize=8)
    return figure


def draw_calibration(results: dict[str, dict[str, Any]]) -> Figure:
    """Draw realised against predicted returns, in tenths of the predictions; on the dashed line both are equal."""
    figure = Figure(figsize=(2.1 * len(results), 2.3), layout="constrained")
    for panel, (recipe, result) in zip(
        figure.subplots(1, len(results), squeeze=False).flat, results.items(), strict=True
    ):
        promised, realised = zip(*calibration(result)["curve"], strict=True)
        panel.plot(promised, realised, "o-", color=BLUE, markersize=3)
        panel.plot(*[(min(promised), max(promised))] * 2, color=GREY, linestyle="--", linewidth=1)
        panel.set_title(recipe, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("promised", fontsize=8)
    figure.supylabel("realised", fontsize=8)
    return figure


# ---------------------------------------------------------------- the page


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return RESULTS.md."""
    machines = {result["machine"] for result in results.values()}
    anyone = next(iter(results.values()))
    report = anyone["planners"]["unguided"]
    columns = published()["columns"]
    shown = {
        "machines": "; ".join(
            words if not mark else f"in the rows marked{mark}, {words}"
            for name, (mark, words) in MACHINES.items()
            if name in machines
        ),
        "picture": PICTURE,
        "calibration": CALIBRATION,
        "versions": ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version),
        "seed": str(report["seed"]),
        "scores": scores(results),
        "returns": returns(results),
        "pairs": pairs(results),
        "trainings": trainings(results),
        "values": values(results),
        "literature": literature(),
        # For sentences: {score[hopper-medium][guided]}.
        "score": {
            recipe: {name: number(score(result, mean)) for name, (mean, _) in players(result).items()}
            | {"best": number(max(score(result, report["return_mean"]) for report in result["planners"].values()))}
            for recipe, result in results.items()
        },
        "mean": {
            recipe: {name: number(mean) for name, (mean, _) in players(result).items()}
            for recipe, result in results.items()
        },
        "one_step": {recipe: number(result["diagnosis"]["dynamics"]["mean"], 2) for recipe, result in results.items()},
        "published": {
            recipe: {column["name"]: number(value, 1) for column, value in zip(columns, values, strict=True)}
            for recipe, values in published()["scores"].items()
        },
    }
    return (RESULTS / "page.md").read_text().format(**shown)


def main() -> None:
    """Write the page and its picture."""
    results = read()
    (ROOT / PAGE).write_text(page(results))
    draw(results).savefig(ROOT / PICTURE, dpi=90)
    draw_calibration(results).savefig(ROOT / CALIBRATION, dpi=90)


if __name__ == "__main__":
    main()
