"""Run folders: which checkpoint a name stands for, and that one process at a time trains in a folder."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from filelock import FileLock, Timeout
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from vgp_lightning.report.files import refuse_links
from vgp_lightning.training.checkpoints import run_folder
from vgp_lightning.training.internals import take_next_version

_LAST = Path("checkpoints", "last.ckpt")
_LOCK = ".lock"
WRITTEN = ("config.yaml", "hparams.yaml", "checkpoints")  # in a run's folder, which may be the current one
# Seconds to wait for a folder's lock: the data workers of a run that was killed hold it until they notice.
_PATIENCE = 10.0


def is_main_process() -> bool:
    """Return whether this is the process of a distributed run that decides and writes for all of them."""
    return not getattr(rank_zero_only, "rank", 0)


# ---------------------------------------------------------------- which checkpoint


def find_checkpoint(path: str, option: str) -> str:
    """Return the checkpoint that a path names: the file, or the last one of a run's folder, which is printed.

    Args:
        path: A checkpoint, or a folder of a run.
        option: Where it was given, for messages.

    Raises:
        ValueError: If it is a folder without a checkpoint, or of several runs.
    """
    folder = Path(path)
    if not folder.is_dir():
        return path
    for candidate in (folder / _LAST, folder / _LAST.name):
        if candidate.is_file():
            if is_main_process():
                print(f"vgp: {option} {path} is a folder: taking {candidate}")
            return str(candidate)
    if (folder / "model_index.json").is_file():
        raise ValueError(f"{option} {path} is a pipeline folder, not a checkpoint: give the checkpoint it was made of")
    if runs := sorted(str(found.parent.parent) for found in folder.glob(f"*/{_LAST}")):
        raise ValueError(f"{option} {path} holds {len(runs)} runs: give one of them, such as {option} {runs[-1]}")
    raise ValueError(f"{option} {path} is a folder without {_LAST}: give a checkpoint, or the folder of a run")


def last_checkpoint(trainer_config: Namespace) -> tuple[str | None, int | str | None]:
    """Return the checkpoint that ``--ckpt_path last`` stands for, and the version of its run, for the logger.

    It is that of the version that is asked for; else of the highest number that has one. Neither a copy nor a clock
    changes that, as they would the time of a file. Runs with names are taken only if there is no other.

    Args:
        trainer_config: The options ``trainer``.

    Raises:
        ValueError: If there are several runs with names, and none is asked for; or if the run has a link out of it.
    """
    root, version, settings = _place(trainer_config)
    pattern = "." if settings is False else "*" if version is None else _folder_of(version)
    found = {path.parent.parent.name: path for path in root.glob(f"{pattern}/{_LAST}")}
    if settings is False or not found:
        return (_own(path, root) if (path := next(iter(found.values()), None)) else None), version
    numbered = {int(match[1]): name for name in found if (match := re.fullmatch(r"version_(\d+)", name))}
    if numbered:
        number = max(numbered)
        return _own(found[numbered[number]], root), number
    if len(found) > 1:
        raise ValueError(
            f"--ckpt_path last: {root} holds the runs {', '.join(sorted(found))}: name one, such as "
            f"--trainer.logger.init_args.version {min(found)}"
        )
    ((name, path),) = found.items()
    return _own(path, root), name


def _own(checkpoint: Path, root: Path) -> str:
    """Return the path of a run's checkpoint, unless the run lies elsewhere or would write elsewhere, by a link."""
    run = checkpoint.parent.parent
    if not run.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"--ckpt_path last: {run} is a link to {run.resolve()}, outside of {root}: name its checkpoint"
        )
    refuse_links(run, WRITTEN)
    return str(checkpoint)


def _place(trainer_config: Namespace) -> tuple[Path, int | str | None, Namespace | bool | None]:
    """Return the folder of this logger's runs, the version that is asked for, and the logger's options."""
    logger = trainer_config.logger
    if isinstance(logger, list):
        logger = logger[0] if logger else False
    default = Path(trainer_config.default_root_dir or ".")
    if isinstance(logger, Namespace):
        settings = logger.init_args
        return Path(settings.save_dir) / (settings.get("name") or ""), settings.get("version"), logger
    # By default Lightning logs into lightning_logs; without a logger runs have no number.
    return (default if logger is False else default / "lightning_logs"), None, logger


def _folder_of(version: int | str) -> str:
    return f"version_{version}" if isinstance(version, int) else version


# ---------------------------------------------------------------- one process a folder


@contextmanager
def own_folder(trainer: pl.Trainer, version: Any, checkpoint: str | None) -> Iterator[None]:
    """Take the run's folder for this process while it trains.

    A new run makes its folder, which of several processes only one can; the others take the next number. A resumed run
    and a new one hold the folder's lock, which the system releases where the process is killed. Of the processes of a
    distributed run the main one does this, before it starts the others.

    Args:
        trainer: The Trainer, before it trains.
        version: The version that is asked for; None: the next number.
        checkpoint: What is resumed, or ``last`` where there is no checkpoint yet.

    Raises:
        ValueError: If another process trains in the folder, or it is another run's.
    """
    if trainer.fast_dev_run or not is_main_process() or not _is_on_disk(trainer):  # type: ignore[attr-defined]
        yield
        return
    made = _claim(trainer, version, checkpoint)
    folder = run_folder(trainer)
    if not folder.is_dir():
        made += _make(folder)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise ValueError(
            f"another process trains in {folder}: wait for its end, or start a run of its own without --ckpt_path"
        ) from error
    try:
        yield
    finally:
        if made and list(folder.glob("*")) == [folder / _LOCK]:  # it has failed before it began
            (folder / _LOCK).unlink()
        lock.release()
        for one in reversed(made):
            with suppress(OSError):  # not empty
                one.rmdir()


def _is_on_disk(trainer: pl.Trainer) -> bool:
    """Return whether the run's folder is one of this machine, whose name is known before training begins."""
    logger = trainer.loggers[0] if trainer.loggers else None
    if logger is not None and not isinstance(logger, TensorBoardLogger | CSVLogger):
        return False  # such as W&B's, which names each run anew
    return "://" not in str(trainer.default_root_dir if logger is None else logger.save_dir)


def _claim(trainer: pl.Trainer, version: Any, checkpoint: str | None) -> list[Path]:
    """Make the folder of a new run that has a number, and return the folders that were made."""
    logger = trainer.loggers[0] if trainer.loggers else None
    if not isinstance(logger, TensorBoardLogger | CSVLogger):
        return []
    while True:
        folder = run_folder(trainer)
        if checkpoint == "last" and version is not None:
            return []  # it may have been stopped before its first checkpoint
        if checkpoint is not None and Path(checkpoint).resolve().parent.parent == folder.resolve():
            return []
        try:
            return _make(folder)
        except FileExistsError as error:
            if version is not None:
                raise ValueError(
                    f"{folder} holds a run already: resume it with --ckpt_path last, or give another "
                    "--trainer.logger.init_args.version"
                ) from error
            take_next_version(logger)


def _make(folder: Path) -> list[Path]:
    """Make a folder that must not exist, and those above it, and return which were made."""
    missing = [one for one in reversed([folder, *folder.parents]) if not one.exists()]
    for one in missing[:-1]:
        one.mkdir(exist_ok=True)
    folder.mkdir()
    return missing
