"""The result of a search, as it is printed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

CONTENDERS = ("default", "winner", "one plan")


def print_summary(report: Mapping[str, Any], output: Path) -> None:
    """Print the contenders' settings, their returns on the held-out seeds, and the outcome."""
    held_out = report["holdout"]
    columns = {name: held_out[name] for name in CONTENDERS if held_out[name] is not None}
    failures = held_out.get("failures", {})  # searches of before have none
    table = Table()
    table.add_column("")
    for name in columns:
        both = name == "default" and "winner" not in {*columns, *failures}
        table.add_column("default, and winner" if both else name)
    for setting in report["default_settings"]:
        values = [_say(column["settings"][setting]) for column in columns.values()]
        if setting in report["space"] or len(set(values)) > 1:
            table.add_row(setting, *(value if value == values[0] else f"[bold]{value}[/]" for value in values))
    table.add_section()
    seeds = held_out["seeds"]
    table.add_row("held-out return, mean", *(f"{column['return_mean']:.1f}" for column in columns.values()))
    if all(column["return_ci95"] is not None for column in columns.values()):
        table.add_row("95 %", *("{:.1f} to {:.1f}".format(*column["return_ci95"]) for column in columns.values()))
    table.add_row("planning, one call", *(f"{column['plan_ms']:.1f} ms" for column in columns.values()))
    console = Console()
    console.print(f"{report['pipeline']} in {report['env_id']}", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    slow = "" if report["latency_ms"] is None else f", {report['over_latency']} of them too slow"
    console.print(
        f"{len(report['configurations'])} configurations{slow}; "
        f"{report['episodes_played']} of {report['episodes']} episodes from seed {report['seed']} on; "
        f"held-out seeds {seeds[0]} to {seeds[-1]}",
        highlight=False,
        soft_wrap=True,
    )
    for name, failure in failures.items():
        console.print(f"{name} failed: {failure}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for pair, difference in held_out["differences"].items():
        words = f"{pair.replace(' - ', ' against ')}: {difference['verdict']}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{say_outcome(report)}. Results: {output}", markup=False, highlight=False, soft_wrap=True)


def say_outcome(report: Mapping[str, Any]) -> str:
    """Return what a search has found, and whether the folder was changed, as text without a full stop."""
    outcome = {
        "default won": "No configuration returned more than the folder's defaults: ",
        "not better": "On the held-out seeds the test does not tell that the winner returns more: ",
        "one plan better": "On the held-out seeds one plan, neither guided nor chosen, returns more: ",
        "default failed": "The defaults could not play an episode to its end: ",
        "winner failed": "The winner could not play an episode of the held-out seeds to its end: ",
        "default too slow": f"The defaults take longer than {report['latency_ms']} ms: ",
        "better": "On the held-out seeds the winner returns more: ",
    }[report["outcome"]]
    if report["written"] and report["chosen"] == "default":
        outcome += f"the defaults of {report['pipeline']} stay, and its card says why"
    elif report["written"]:
        outcome += f"the settings of {'one plan' if report['chosen'] == 'one plan' else 'the winner'} are now the "
        outcome += f"defaults of {report['pipeline']}"
    else:
        outcome += f"{report['pipeline']} is unchanged"
        if report["chosen"] != "default":
            outcome += " because of --write false"
    return outcome


def _say(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
