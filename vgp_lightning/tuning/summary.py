"""The result of a search: what the winner is worth, and how it is printed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vgp_lightning.tuning.halving import Configuration


def judge(report: Mapping[str, Any], default: Configuration) -> str:
    """Return what the winner is worth, in a word or two for tuning.json."""
    if report["winner"] == 0:
        return "default won"
    if default.dropped == "latency":
        return "default too slow"
    before, after = (report["holdout"][name]["return_mean"] for name in ("default", "winner"))
    return "better" if after > before else "not better"


def print_summary(report: Mapping[str, Any], output: Path) -> None:
    """Print the winner's settings beside the defaults, their returns on the held-out seeds, and the outcome."""
    columns = {"default": report["configurations"][0]}
    if report["winner"] != 0:
        columns["winner"] = report["configurations"][report["winner"]]
    table = Table()
    table.add_column("")
    for name in columns:
        table.add_column("default, and winner" if len(columns) == 1 else name)
    for setting in report["default_settings"]:
        values = [_say(column["settings"][setting]) for column in columns.values()]
        if setting in report["space"] or len(set(values)) > 1:
            table.add_row(setting, *(value if value == values[0] else f"[bold]{value}[/]" for value in values))
    table.add_section()
    held_out = [report["holdout"][name] for name in columns]
    seeds = report["holdout"]["seeds"]
    table.add_row("held-out return, mean", *(f"{result['return_mean']:.1f}" for result in held_out))
    if held_out[0]["return_ci95"] is not None:
        table.add_row("95 %", *("{:.1f} to {:.1f}".format(*result["return_ci95"]) for result in held_out))
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
    if report["holdout"]["difference"] is not None:
        console.print(report["holdout"]["difference"]["verdict"], markup=False, highlight=False, soft_wrap=True)
    outcome = {
        "default won": "No configuration returned more than the folder's defaults: ",
        "not better": "On the held-out seeds the winner returns no more: ",
        "default too slow": f"The defaults take longer than {report['latency_ms']} ms: ",
        "better": "On the held-out seeds the winner returns more: ",
    }[report["outcome"]]
    if report["written"]:
        outcome += f"the winner's settings are now the defaults of {report['pipeline']}"
    else:
        outcome += f"{report['pipeline']} is unchanged"
        if report["outcome"] in ("better", "default too slow"):
            outcome += " because of --write false"
    console.print(f"{outcome}. Results: {output}", markup=False, highlight=False, soft_wrap=True)


def _say(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
