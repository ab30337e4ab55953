"""TensorBoard: one event file for each piece of work, with its settings beside its scores."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from vgp_lightning.report.folders import naming


@contextmanager
def events(folder: Path, work: str) -> Iterator[SummaryWriter]:
    """Open the event file of a piece of work, in place of the one that it wrote before.

    Points of an earlier time at the same step would be drawn on top of the new ones.

    Args:
        folder: Where it goes.
        work: The verb; the file's name ends with it. No other file is replaced.
    """
    with naming(folder):
        for earlier in folder.glob(f"events.out.tfevents.*.{work}"):
            earlier.unlink()
        with SummaryWriter(str(folder), filename_suffix=f".{work}") as writer:
            yield writer


def add_summary(writer: SummaryWriter, summary: Any) -> None:
    """Write a summary of any kind at step 0.

    The writer's file has no public name; Lightning writes its hyper-parameters in this way too.
    """
    writer._get_file_writer().add_summary(summary, 0)  # type: ignore[no-untyped-call]


def add_settings(writer: SummaryWriter, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Write settings and scores, for TensorBoard's table of all runs (HPARAMS).

    ``SummaryWriter.add_hparams`` would write them into a folder of their own. The table shows the last value of each
    score: those that are still to come can stand here with any number.

    Args:
        writer: Of the run.
        settings: By their names; what is neither a number nor text is written as text.
        scores: By their tags.
    """
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()
        if value is not None
    }
    for summary in hparams(plain, dict(scores)):  # type: ignore[no-untyped-call]
        add_summary(writer, summary)


def add_table(writer: SummaryWriter, tag: str, rows: Mapping[str, Any], text: str = "") -> None:
    """Write a table of two columns as text, and a config below it.

    Args:
        writer: Of the run.
        tag: Its name.
        rows: The rows.
        text: YAML, shown as it is.
    """
    lines = "\n".join(f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows.items())
    code = "".join(f"\n    {line}" for line in text.splitlines())
    writer.add_text(tag, f"| setting | value |\n|---|---|\n{lines}\n\n{code}")
