"""What a diagnosis writes and prints: the JSON, the pictures, TensorBoard's events, a table."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from vgp_lightning.agent.episodes import Failure
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.report.board import events
from vgp_lightning.report.figures import figure_to_image
from vgp_lightning.report.files import write_report
from vgp_lightning.report.film import log_gif, write_gif
from vgp_lightning.report.folders import naming

_PARTS = (
    *("calibration", "ranking", "choice", "choice_recorded", "horizon", "dynamics", "guidance"),
    *("denoising", "denoising_maze", "plans", "rollout"),
)


def is_written(report: dict[str, Any], output: Path) -> bool:
    """Return whether a report and all its pictures are in the output folder."""
    path = output / "diagnostics.json"
    same = path.is_file() and path.read_text() == json.dumps(report, indent=2) + "\n"
    return same and all((output / name).is_file() for name in report["pictures"])


def write(report: dict[str, Any], findings: Findings, output: Path) -> dict[str, Any]:
    """Write the pictures, the JSON and the TensorBoard events, and return the report.

    At any moment the JSON names the pictures that are there: it is removed before they change.
    """
    path = output / "diagnostics.json"
    path.unlink(missing_ok=True)
    for picture in (output / f"{part}.{kind}" for part in _PARTS for kind in ("png", "gif")):
        picture.unlink(missing_ok=True)  # of an earlier diagnosis
    errors = {}
    for name in findings.pictures:
        try:
            with naming(output / name):
                _draw(findings, output / name)
        except Exception as error:  # the numbers are worth more than a picture, whatever is wrong with it
            (output / name).unlink(missing_ok=True)
            errors[name] = f"{name} cannot be written: {type(error).__name__}: {error}"
    if errors:
        there = [name for name in report["pictures"] if name not in errors]
        report = report | {"pictures": there, "video_error": "; ".join(errors.values())}
    write_report(report, path)
    with events(output, "diagnose") as writer:
        for name, number in find_scalars(report).items():
            if number is not None:
                writer.add_scalar(f"diagnose/{name}", number, 0)
        for name in report["pictures"]:
            part, _, kind = name.partition(".")
            if kind == "gif":
                log_gif(writer, f"diagnose/{part}_film", output / name)
            else:
                image = figure_to_image(findings.figures[part])
                writer.add_image(f"diagnose/{part}", image, 0, dataformats="HWC")
    return report


def _draw(findings: Findings, path: Path) -> None:
    """Write one picture."""
    if path.stem in findings.copies and path.suffix == ".gif":
        shutil.copyfile(findings.copies[path.stem], path)
    elif path.suffix == ".gif":
        frames, fps = findings.films[path.stem]
        write_gif(frames, path, fps)
    else:
        Image.fromarray(figure_to_image(findings.figures[path.stem])).save(path)


def find_scalars(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the main numbers by their names in TensorBoard."""
    calibration, ranking, guidance, own, choice = (
        report[name] for name in ("calibration", "ranking", "guidance", "own_actions", "choice")
    )
    tried, recorded = (find_tried(report, part) for part in ("choice", "choice_recorded"))
    kind = kind_of_returns(report)
    best = calibration and calibration[kind]
    return {
        "return_mean": report["return_mean"],
        "rank_correlation": best and best["spearman"],
        "bias": best and best["bias"],
        "slope": best and best["slope"],
        "rank_correlation_clean": ranking and ranking[0][kind],
        "rank_correlation_noisy": ranking and ranking[-1][kind],
        "choice_rank_correlation": tried and tried["rank_correlation"]["mean"],
        "choice_gain": tried and tried["gain"]["mean"],
        "choice_possible": tried and tried["possible"]["mean"],
        "choice_recorded_rank_correlation": recorded and recorded["rank_correlation"]["mean"],
        "choice_recorded_gain": recorded and recorded["gain"]["mean"],
        "guidance_realised": choice["guidance"]["mean"]["mean"] if choice and "guidance" in choice else None,
        "one_step_error": report["dynamics"]["mean"],
        "foretold_replanned": report["horizon"]["foretold"],
        "foretold_own_actions": own and own["foretold"],
        "guidance_gain": guidance and guidance["gain_mean"],
        "guidance_moved": guidance and guidance["moved"],
    }


def find_tried(report: Mapping[str, Any], part: str) -> Mapping[str, Any] | None:
    """Return the numbers of the candidates that were chosen from in a part of a report; None: none were tried."""
    choice: Mapping[str, Any] | None = report.get(part)
    if not choice:
        return None
    tried: Mapping[str, Any] = choice["guided" if "guided" in choice else "unguided"]
    return tried


def kind_of_returns(report: Mapping[str, Any]) -> str:
    """Return which returns the main numbers are about: the complete ones, or all where none is complete."""
    return "complete" if report["calibration"] and report["calibration"]["complete"] else "all"


MEANINGS = {
    "return_mean": "mean return of the episodes",
    "rank_correlation": "predicted and realised returns; 1: plans are ranked correctly; 0: chance",
    "bias": "predicted minus realised return; above 0: too optimistic",
    "slope": "of realised over predicted return; 1: differences are as large as predicted; 0: unrelated",
    "rank_correlation_clean": "of clean executed windows: what best-of-K selection relies on",
    "rank_correlation_noisy": "of the noisiest executed windows: what guidance relies on at its first step",
    "choice_rank_correlation": "of the candidates from one observation, tried in the simulator; 0: chance",
    "choice_gain": "what the chosen candidate is worth beyond the mean one; 0 or below: choosing does not choose",
    "choice_possible": "the same if the best candidate were chosen",
    "choice_recorded_rank_correlation": "as choice rank correlation, in states of the training data",
    "choice_recorded_gain": "as choice gain, in states of the training data",
    "guidance_realised": "what guided candidates are worth beyond unguided ones, in the simulator",
    "one_step_error": "of plans, as a share of the change; 0: as the simulator; 1: as expecting no change",
    "foretold_replanned": "share of the steps ahead at which plans predict better than expecting no change",
    "foretold_own_actions": "the same, if a plan's own actions are executed to its end",
    "guidance_gain": "in predicted return, from the same noise",
    "guidance_moved": "distance by which guidance moves plans, in normalised units",
}


def print_summary(report: dict[str, Any], output: Path) -> None:
    """Print the main numbers with what they mean."""
    table = Table(title=f"{report['pipeline']} in {report['env_id']}", title_justify="left")
    for heading in ("number", "value", "what it means"):
        table.add_column(heading, justify="right" if heading == "value" else "left", no_wrap=heading != "what it means")
    for name, number in find_scalars(report).items():
        if number is not None:
            shown = f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
            table.add_row(name.replace("_", " "), shown, MEANINGS[name])
    calibration = report["calibration"]
    table.add_row("episodes", str(len(report["episodes"])), "successive steps are correlated: few episodes say little")
    if calibration is not None:
        complete = calibration["complete"]["count"] if calibration["complete"] else 0
        meaning = "have complete returns, which the numbers above are about; the time limit truncated the others"
        if complete == 0:
            meaning = "have complete returns: the time limit truncated all, so predictions look too high"
        table.add_row("plans", f"{complete} of {calibration['all']['count']}", meaning)
    console = Console(markup=False)
    console.print(table)
    console.print(f"Results: {output}", markup=False, soft_wrap=True)
    for failure in report["failed_episodes"]:
        console.print(f"Failed, and not in the numbers: {Failure(**failure)}", markup=False, soft_wrap=True)
    for name, reason in report["missing"].items():
        console.print(f"No {name.replace('_', ' ')}: {reason}", markup=False, soft_wrap=True)
    if report["video_error"] is not None:
        console.print(f"No video: {report['video_error']}", markup=False, soft_wrap=True)
