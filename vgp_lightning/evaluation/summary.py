"""What an evaluation writes and prints: the JSON, the pictures, TensorBoard's events, a table."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from vgp_lightning.agent.episodes import Failure
from vgp_lightning.agent.store import EpisodeStore
from vgp_lightning.report.board import add_settings, add_table, events
from vgp_lightning.report.figures import plot_episode
from vgp_lightning.report.files import write_report
from vgp_lightning.report.film import Recorder, log_gif, write_film
from vgp_lightning.report.folders import naming

_TAGS = {
    "eval/return_mean": "return_mean",
    "eval/return_iqm": "return_iqm",
    "eval/normalized_score": "normalized_score",
    "eval/success_rate": "success_rate",
    "eval/ep_len_mean": "length_mean",
    "eval/plan_time_ms": "plan_ms",
}


def write_pictures(recorder: Recorder, store: EpisodeStore, env_id: str, seed: int, video: bool) -> dict[str, Any]:
    """Write the pictures of the first episode into the store, since no other process has its steps and frames.

    Returns:
        ``video``: whether one was wanted; ``error``: why there is none.
    """
    picture, film = _pictures(store)
    picture.unlink(missing_ok=True)  # a link as well, so that its target is not written
    error = write_film(recorder, film)
    try:
        with naming(picture):
            title = f"{env_id}, seed {seed}"
            plot_episode(recorder.actions, recorder.observations, title, env_id).savefig(picture)
    except Exception as failure:  # matplotlib raises any type, and an episode is worth more than its picture
        picture.unlink(missing_ok=True)
        error = error or f"drawing failed with {type(failure).__name__}: {failure}"
    return {"video": video, "error": error}


def _pictures(store: EpisodeStore) -> tuple[Path, Path]:
    """Return the paths of the first episode's pictures in the store: PNG and GIF."""
    folder = Path() if store.folder is None else store.folder
    return folder / f"{store.key}.png", folder / f"{store.key}.gif"


def write(report: dict[str, Any], store: EpisodeStore, output: Path) -> dict[str, Any]:
    """Write the JSON, the pictures and the TensorBoard events, unless they are there, and return the report.

    At any moment the JSON names the pictures that are there: it is removed before they change.
    """
    path = output / "evaluation.json"
    names = ("rollout.png", "rollout.gif") if report["video"] else ("rollout.png",)
    same = path.is_file() and path.read_text() == json.dumps(report, indent=2) + "\n"
    if same and all((output / name).is_file() for name in names):
        return report
    path.unlink(missing_ok=True)
    for name in ("rollout.png", "rollout.gif"):
        (output / name).unlink(missing_ok=True)  # of an earlier evaluation
    try:
        for name, source in zip(names, _pictures(store), strict=False):
            if source.is_file():
                with naming(output / name):
                    shutil.copyfile(source, output / name)
    except OSError as error:
        for name in names:
            (output / name).unlink(missing_ok=True)
        report = report | {"video": None, "video_error": str(error)}
    write_report(report, path)
    with events(output, "evaluate") as writer:
        scores = {tag: report[key] for tag, key in _TAGS.items() if report[key] is not None}
        for tag, score in scores.items():
            writer.add_scalar(tag, score, 0)
        facts = {"environment": report["env_id"], "pipeline": report["pipeline"], "episodes": len(report["episodes"])}
        add_settings(writer, facts | report["settings"], scores)
        add_table(writer, "evaluation", facts | scores | report["settings"])
        if (output / "rollout.png").is_file():
            lines = np.asarray(Image.open(output / "rollout.png").convert("RGB"))
            writer.add_image("eval/rollout_lines", lines, 0, dataformats="HWC")
        if report["video"] is not None:
            log_gif(writer, "eval/rollout", output / "rollout.gif")
    return report


def print_summary(report: dict[str, Any], output: Path) -> None:
    """Print the statistics as a table."""
    table = Table(title=f"{report['pipeline']} in {report['env_id']}", show_header=False, title_justify="left")
    table.add_row("return, mean", f"{report['return_mean']:.1f}{_interval(report['return_ci95'])}")
    table.add_row("return, middle half", f"{report['return_iqm']:.1f}{_interval(report['return_iqm_ci95'])}")
    table.add_row("return, median", f"{report['return_median']:.1f}{_interval(report['return_median_ci95'])}")
    if report["reference"] is not None:
        score = f"{report['normalized_score']:.1f}{_interval(report['normalized_score_ci95'])}"
        table.add_row("normalised score", f"{score}; {report['reference']['name']}")
    if report["success_rate"] is not None:
        table.add_row("success", f"{report['success_rate']:.0%}{_interval(report['success_rate_ci95'], '.0%')}")
    if report["first_success_mean"] is not None:
        table.add_row("first success, mean", f"step {report['first_success_mean']:.1f}, of the episodes that succeed")
    table.add_row("episodes", f"{len(report['episodes'])}, from seed {report['seed']} on")
    table.add_row("length, mean", f"{report['length_mean']:.0f} ({report['terminated_share']:.0%} terminated)")
    acts = "planning" if report.get("habit") is None else "answering by habit"
    if report["plan_ms"] is not None:
        table.add_row(acts, f"{report['plan_ms']:.1f} ms a call for {report['environments']} environments")
    if report["follow_states"]:
        table.add_row("what acts", "a position controller, which follows the plans' states")
    if report["delay"]:
        table.add_row("delay", f"{report['delay']} steps between a plan's observation and its first action")
    table.add_row("results", str(output))
    console = Console(markup=False)
    console.print(table)
    for failure in report["failed_episodes"]:
        line = f"Failed, and not in the statistics: {Failure(**failure)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report["video_error"] is not None:
        console.print(f"No video: {report['video_error']}", markup=False, soft_wrap=True)


def _interval(ends: list[float] | None, form: str = ".1f") -> str:
    """Return the interval as text, or nothing if there is none."""
    return "" if ends is None else f" (95 %: {ends[0]:{form}} to {ends[1]:{form}})"
