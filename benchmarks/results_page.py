"""Make RESULTS.md and its pictures from the measurements of benchmarks.results; no number is typed by hand.

python -m benchmarks.results_page

Reads benchmarks/results/: MACHINE/RECIPE/SEED.json, published.json, and the template page.md, whose names in braces are
replaced by measured values.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from vgp_lightning.evaluation.scores import Reference, normalized_score
from vgp_lightning.pipeline.settings import ONE_PLAN
from vgp_lightning.report.figures import BLUE, GREY, ORANGE
from vgp_lightning.report.statistics import LEVEL, Trainings, holm, summarize_trainings

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PAGE, PICTURE, CALIBRATION = "RESULTS.md", "docs/results.png", "docs/calibration.png"
ORDER = (
    *("hopper-medium", "hopper-medium-expert", "walker2d-medium", "walker2d-medium-expert"),
    *("halfcheetah-medium", "halfcheetah-medium-expert"),
    *("pointmaze-umaze", "pointmaze-medium", "pointmaze-large"),
)
BEHAVIOUR, UNGUIDED = "behaviour", "one plan"
# What each planner has in place of the recipe's settings.
PLANNERS: dict[str, dict[str, Any]] = {
    UNGUIDED: {**ONE_PLAN},
    "best by value": {**ONE_PLAN, "batch_size": 16},
    "weighed by critic": {**ONE_PLAN, "batch_size": 16, "rank_by": "critic", "choice_temperature": 0.5},
    "guided": {**ONE_PLAN, "n_guide_steps": 1},
    "guided, best by value": {**ONE_PLAN, "batch_size": 16, "n_guide_steps": 1},
}
# What acts in mazes, on plans that end at the goal: the plans' own actions as often as the recipe says, or a position
# controller that follows the states of one plan an episode, as in the paper, or of a new one every 64 steps.
MAZE_PLANNERS: dict[str, dict[str, Any]] = {
    "own actions": {"reach_goal": True},
    "position controller": {"reach_goal": True, "follow_states": True, "replan_every": 0},
    "position controller, replanning": {"reach_goal": True, "follow_states": True, "replan_every": 64},
}
SAMPLING = ["sampler", "temperature"]  # headings of what ``sampling`` returns
# The suffix of a recipe's name in a row, and the description of all such rows.
MACHINES = {
    "cpu": ("", "the CPU overlays (`configs/cpu/`), small networks; the paper's are larger and trained far longer"),
    "gpu": (" (GPU)", "the paper's sizes"),
}


Result = dict[str, Any]  # of one training
Recipe = list[Result]  # its trainings, in the order of their seeds


def read() -> dict[str, Recipe]:
    """Return the measurements by the name of their row, in order."""
    found = {}
    for recipe in ORDER:
        for machine, (mark, _) in MACHINES.items():
            files = sorted((RESULTS / machine / recipe).glob("*.json"), key=lambda file: int(file.stem))
            if files:
                found[recipe + mark] = [json.loads(file.read_text()) for file in files]
    return found


def split(results: dict[str, Recipe]) -> tuple[dict[str, Recipe], dict[str, Recipe]]:
    """Return the measurements of locomotion and those of mazes, which have other planners."""
    parts: tuple[dict[str, Recipe], dict[str, Recipe]] = ({}, {})
    for row, recipe in results.items():
        parts[is_maze(recipe[0]["recipe"])][row] = recipe
    return parts


def published() -> dict[str, Any]:
    """Return the published results of others, on other data."""
    return dict(json.loads((RESULTS / "published.json").read_text()))


def scores_of_others(recipe: Recipe) -> list[float]:
    """Return the published scores of the recipe's counterpart, Diffuser's first."""
    return list(published()["scores"][recipe[0]["recipe"]])


def score(recipe: Recipe, value: float) -> float:
    """Return the normalised score of a return."""
    return normalized_score(value, Reference(**recipe[0]["reference"]))


def is_maze(recipe: str) -> bool:
    """Return whether a recipe's environment is a maze."""
    return "maze" in recipe


def behaviour_of(recipe: Recipe) -> tuple[float, list[float]]:
    """Return the mean return of the behaviour policy and its interval."""
    dataset = recipe[0]["dataset"]
    return dataset["mean"], dataset["ci95"]


def over_trainings(recipe: Recipe, planner: str) -> Trainings:
    """Return the statistics of a planner's returns over the trainings of a recipe."""
    return summarize_trainings([training["planners"][planner]["returns"] for training in recipe])


def diagnosed(recipe: Recipe) -> Recipe:
    """Return the trainings of a recipe that were diagnosed."""
    return [training for training in recipe if "diagnosis" in training]


def planners(recipe: Recipe) -> list[str]:
    """Return the names of the planners that all trainings of a recipe were evaluated with."""
    return [name for name in PLANNERS if all(name in training["planners"] for training in recipe)]


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


def say(found: Trainings, digits: int, change: Callable[[float], float] = float) -> str:
    """Return a mean over trainings, its interval, and the range of their means, as text."""
    words = interval(change(found.mean), None if found.ci95 is None else [change(end) for end in found.ci95], digits)
    if found.count == 1:
        return words
    return f"{words} ({number(change(found.lowest), digits)} to {number(change(found.highest), digits)})"


def scores(results: dict[str, Recipe]) -> str:
    """Return the table of normalised scores, with the published ones."""
    lines = []
    for row, recipe in results.items():
        found = {name: over_trainings(recipe, name) for name in planners(recipe)}
        best = max(found, key=lambda name: found[name].mean)
        cells = [number(score(recipe, recipe[0]["dataset"][name]), 1) for name in ("mean", "best_tenth")]
        for name in PLANNERS:
            words = say(found[name], 1, partial(score, recipe)) if name in found else "-"
            cells.append(f"**{words}**" if name == best else words)
        theirs = scores_of_others(recipe)
        lines.append([row, str(len(recipe)), *cells, number(theirs[0], 1), number(max(theirs), 1)])
    others = ["*Diffuser, D4RL*", "*best published, D4RL*"]
    return table(["recipe", "trainings", BEHAVIOUR, "best tenth", *PLANNERS, *others], lines)


def returns(results: dict[str, Recipe]) -> str:
    """Return the table of returns, with lengths: means over all episodes of all trainings."""
    lines = []
    for row, recipe in results.items():
        dataset = recipe[0]["dataset"]
        length, count = number(dataset["steps"] / dataset["episodes"]), str(dataset["episodes"])
        lines.append([f"{row}, behaviour", interval(*behaviour_of(recipe)), length, "-", count, "-"])
        for name in planners(recipe):
            reports = [training["planners"][name] for training in recipe]
            found = over_trainings(recipe, name)
            lines.append(
                [
                    f"{row}, {name}",
                    say(found, 0 if abs(found.mean) >= 100 else 1),
                    number(mean(report["length_mean"] for report in reports)),
                    f"{mean(report['terminated_share'] for report in reports):.0%}",
                    f"{len(recipe)} x {len(reports[0]['returns'])}",
                    number(mean(training["latency_ms"][name] for training in recipe), 1),
                ]
            )
    return table(["", "return", "length", "terminated", "episodes", "ms a plan"], lines)


def mazes(results: dict[str, Recipe]) -> str:
    """Return the table of the mazes: steps at the goal, in two scales, and the steps to the first hit."""
    lines = []
    for row, recipe in results.items():
        low, high = published()["mazes"]["references"][recipe[0]["recipe"]]
        d4rl = Reference("D4RL", low, high)
        for name in MAZE_PLANNERS:
            reports = [training["planners"][name] for training in recipe]
            found, every = over_trainings(recipe, name), reports[0]["settings"]["replan_every"]
            firsts = [report["first_success_mean"] for report in reports if report["first_success_mean"] is not None]
            lines.append(
                [
                    f"{row}, {name}",
                    f"{len(recipe)} x {len(reports[0]['returns'])}",
                    say(found, 0 if abs(found.mean) >= 100 else 1),
                    say(found, 1, partial(score, recipe)),
                    say(found, 1, partial(normalized_score, reference=d4rl)),
                    f"{mean(report['success_rate'] for report in reports):.0%}",
                    number(mean(firsts) if firsts else None),
                    str(every or "once"),
                    number(mean(training["latency_ms"][name] for training in recipe), 1),
                ]
            )
    headings = ["what acts", "episodes", "steps at the goal", "score", "score, D4RL's scale", "goals reached"]
    return table([*headings, "steps to the first hit", "plans every", "ms a plan"], lines)


def maze_trainings(results: dict[str, Recipe]) -> str:
    """Return the table of the trainings for mazes."""
    own = [(str(recipe[0]["training"]["stride"]), *sampling(recipe, "own actions")) for recipe in results.values()]
    return training_table(results, ["stride", *SAMPLING], own)


def sampling(recipe: Recipe, planner: str) -> tuple[str, str]:
    """Return the sampler of a planner with its number of steps, and its temperature."""
    settings = recipe[0]["planners"][planner]["settings"]
    return f"{settings['sampler']} {settings['num_inference_steps']}", f"{settings['temperature']:g}"


def training_table(results: dict[str, Recipe], headings: list[str], own: list[tuple[str, ...]]) -> str:
    """Return a table of trainings: what all have, and columns of its own with a row for each recipe."""
    lines = []
    for (row, recipe), cells in zip(results.items(), own, strict=True):
        trained = recipe[0]["training"]
        minutes: dict[str, list[float]] = {}  # by the device
        for training in recipe:
            minutes.setdefault(training["training"]["device"], []).append(training["training"]["minutes"])
        lines.append(
            [
                row,
                f"`{recipe[0]['dataset']['id']}`",
                "; ".join(dict.fromkeys(map(windows_seen, recipe))),
                "; ".join(f"{number(mean(found))} ({device})" for device, found in minutes.items()),
                str(trained["horizon"]),
                " ".join(str(width) for width in trained["widths"]),
                *cells,
            ]
        )
    return table(["recipe", "dataset", "steps x windows", "minutes (device)", "horizon", "widths", *headings], lines)


def windows_seen(training: Result) -> str:
    """Return how many steps a training took, and the windows of each."""
    trained = training["training"]
    return f"{trained['steps']:,} x {trained['batch_size']}".replace(",", " ")


def pairs(results: dict[str, Recipe]) -> str:
    """Return the table of paired differences from one plan, on the same seeds: of each training by itself."""
    lines, names = [], list(PLANNERS)[1:]
    for row, recipe in results.items():
        for training in recipe:
            cells = []
            for name in names:
                if name not in training["pairs"]:
                    cells.append("-")
                    continue
                pair = training["pairs"][name]
                words = interval(pair["difference"], pair["ci95"], 0 if abs(pair["difference"]) >= 10 else 1, sign=True)
                cells.append(f"**{words}**" if pair["told"] else words)
            lines.append([row, str(training["seed"]), *cells])
    return table(["recipe", "seed", *(f"{name} - {UNGUIDED}" for name in names)], lines)


def harm(results: dict[str, Recipe]) -> str:
    """Return the table of what a folder does by default beside one plan, with p-values adjusted for all trainings."""
    found = [
        (row, training["seed"], training["default"], training["pairs"][training["default"]])
        for row, recipe in results.items()
        for training in recipe
        if training["default"] not in (None, UNGUIDED)
    ]
    adjusted = holm([pair["permutation_p"] for *_, pair in found])
    lines = []
    for (row, seed, name, pair), p in zip(found, adjusted, strict=True):
        told = "no" if p > LEVEL else "better" if pair["difference"] > 0 else "**worse**"
        lines.append([row, str(seed), name, interval(pair["difference"], pair["ci95"], 0, sign=True), f"{p:.2g}", told])
    return table(["recipe", "seed", "default", f"default - {UNGUIDED}", "p, by Holm", "told apart"], lines)


def trainings(results: dict[str, Recipe]) -> str:
    """Return the table of the trainings."""
    own = []
    for recipe in results.values():
        settings = recipe[0]["planners"]["guided, best by value"]["settings"]
        own.append(
            (
                f"{settings['batch_size']}",
                f"{settings['n_guide_steps']} x {settings['scale']:g}",
                *sampling(recipe, "guided, best by value"),
                f"{settings['warm_start_strength']:g}",
                f"{settings['replan_every']}",
            )
        )
    return training_table(results, ["K", "guidance", *SAMPLING, "warm start", "replans every"], own)


def choices(results: dict[str, Recipe]) -> str:
    """Return the table of what ranks the candidates of one state, tried in the simulator."""
    lines = []
    for row, recipe in results.items():
        for training in diagnosed(recipe):
            choice = training["diagnosis"]["choice"]
            if choice is None:
                continue
            by, cells = choice["by"], []
            for name in ("value", "critic"):
                cells += [said(by[name]["rank_correlation"], 2), said(by[name]["gain"], 2, sign=True)]
            reached = said(by["value"]["repeatability"], 2), said(by["value"]["possible"], 2, sign=True)
            held_out = number(training["training"]["validation"]["val/rank_correlation"], 2)
            lines.append([row, str(training["seed"]), str(choice["states"]), held_out, *cells, *reached])
    ranks = [f"{what}, by {name}" for name in ("value", "critic") for what in ("rank correlation", "gain")]
    headings = ["recipe", "seed", "states", "rank correlation of windows", *ranks, "repeatability", "possible gain"]
    return table(headings, lines)


def said(found: dict[str, Any], digits: int, sign: bool = False) -> str:
    """Return a mean of a diagnosis with its interval."""
    return interval(found["mean"], found["ci95"], digits, sign)


def values(results: dict[str, Recipe]) -> str:
    """Return the table of the value function's quality on held-out data and on the planner's own episodes."""
    lines = []
    for row, recipe in results.items():
        for training in diagnosed(recipe):
            held_out, own = training["training"]["validation"], calibration(training)
            guidance, steps = training["diagnosis"]["guidance"], digits(own)
            lines.append(
                [
                    row,
                    str(training["seed"]),
                    number(held_out["val/explained_variance"], 2),
                    number(own["spearman"], 2),
                    number(own["slope"], 2),
                    f"{number(own['predicted_mean'], steps)} / {number(own['realised_mean'], steps)}",
                    number(guidance and guidance["selection_gain"], steps, sign=True),
                    number(guidance and guidance["gain_mean"], steps, sign=True),
                    number(training["diagnosis"]["dynamics"]["mean"], 2),
                ]
            )
    own_names = ["rank correlation, own", "slope", "promised / realised", "selection adds", "guidance adds"]
    return table(["recipe", "seed", "explained variance, held out", *own_names, "one-step error"], lines)


def digits(own: dict[str, Any]) -> int:
    """Return the number of decimals for values of this size."""
    return 0 if abs(own["realised_mean"]) >= 100 else 2


def calibration(result: Result) -> dict[str, Any]:
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


def draw(results: dict[str, Recipe]) -> Figure:
    """Draw each recipe's scores, a dot for each training, with the published one of Diffuser as a line."""
    rows = -(-len(results) // 5)
    columns = -(-len(results) // rows)
    figure = Figure(figsize=(2.4 * columns, 2.9 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(results) :]:
        panel.remove()
    for panel, (row, recipe) in zip(panels[: len(results)], results.items(), strict=True):
        behaviour, ends = behaviour_of(recipe)
        panel.plot([0, 0], [score(recipe, end) for end in ends], color=GREY, linewidth=2)
        panel.plot(0, score(recipe, behaviour), "o", color=GREY)
        names = planners(recipe)
        for i, name in enumerate(names, start=1):
            found = over_trainings(recipe, name)
            means = [score(recipe, training["planners"][name]["return_mean"]) for training in recipe]
            panel.plot([i] * len(means), means, "o", color=BLUE, alpha=0.5, markersize=4)
            panel.plot([i - 0.3, i + 0.3], [score(recipe, found.mean)] * 2, color=BLUE, linewidth=2)
        panel.axhline(scores_of_others(recipe)[0], color=ORANGE, linestyle="--", linewidth=1)
        panel.set_title(row, fontsize=9)
        panel.set_xticks(range(len(names) + 1), [BEHAVIOUR, *names], rotation=60, ha="right", fontsize=7)
        panel.tick_params(axis="y", labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(y=0.1)
        panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
    figure.supylabel("normalised score: trainings, and their mean", fontsize=8)
    return figure


def draw_calibration(results: dict[str, Recipe]) -> Figure:
    """Draw realised against predicted returns, in tenths of the predictions; on the dashed line both are equal."""
    results = {row: recipe for row, recipe in results.items() if diagnosed(recipe)}
    figure = Figure(figsize=(2.1 * len(results), 2.3), layout="constrained")
    for panel, (row, recipe) in zip(figure.subplots(1, len(results), squeeze=False).flat, results.items(), strict=True):
        ends = []
        for training in diagnosed(recipe):
            promised, realised = zip(*calibration(training)["curve"], strict=True)
            panel.plot(promised, realised, "o-", color=BLUE, markersize=3, alpha=0.6)
            ends += promised
        panel.plot(*[(min(ends), max(ends))] * 2, color=GREY, linestyle="--", linewidth=1)
        panel.set_title(row, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("promised", fontsize=8)
    figure.supylabel("realised", fontsize=8)
    return figure


# ---------------------------------------------------------------- the page


def say_versions(trainings: list[dict[str, Any]]) -> str:
    """Return each package with the versions that the trainings were played with."""
    found: dict[str, set[str]] = {}
    for training in trainings:
        for name, version in training["versions"].items():
            if version:
                found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in found.items())


def page(everything: dict[str, Recipe]) -> str:
    """Return RESULTS.md."""
    machines = {recipe[0]["machine"] for recipe in everything.values()}
    results, in_mazes = split(everything)
    anyone = next(iter(results.values()))[0]
    columns = published()["columns"]
    shown = {
        "machines": "; ".join(
            words if not mark else f"in the rows marked{mark}, {words}"
            for name, (mark, words) in MACHINES.items()
            if name in machines
        ),
        "picture": PICTURE,
        "calibration": CALIBRATION,
        "versions": say_versions([training for recipe in everything.values() for training in recipe]),
        "seed": str(anyone["first_seed"]),
        "scores": scores(results),
        "returns": returns(results),
        "pairs": pairs(results),
        "harm": harm(results),
        "choices": choices(results),
        "trainings": trainings(results),
        "mazes": mazes(in_mazes),
        "maze_trainings": maze_trainings(in_mazes),
        "values": values(results),
        "literature": literature(),
        "policies": published()["policies"],
        # For sentences: {score[hopper-medium][guided]}.
        "score": {
            row: {name: number(score(recipe, over_trainings(recipe, name).mean)) for name in planners(recipe)}
            | {"best": number(max(score(recipe, over_trainings(recipe, name).mean) for name in planners(recipe)))}
            | {BEHAVIOUR: number(score(recipe, recipe[0]["dataset"]["mean"]))}
            for row, recipe in results.items()
        },
        "mean": {
            row: {name: number(over_trainings(recipe, name).mean) for name in planners(recipe)}
            for row, recipe in results.items()
        },
        "published": {
            recipe: {column["name"]: number(value, 1) for column, value in zip(columns, values, strict=True)}
            for recipe, values in published()["scores"].items()
        },
    }
    return (RESULTS / "page.md").read_text().format(**shown)


def main() -> None:
    """Write the page and its pictures."""
    everything = read()
    (ROOT / PAGE).write_text(page(everything))
    results, _ = split(everything)
    draw(results).savefig(ROOT / PICTURE, dpi=90)
    draw_calibration(results).savefig(ROOT / CALIBRATION, dpi=90)


if __name__ == "__main__":
    main()
