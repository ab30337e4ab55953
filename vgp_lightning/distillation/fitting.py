"""Trainings of small networks on a finished folder: Lightning, without its words."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch.utils.data import DataLoader

Loaders = tuple[DataLoader[Any], DataLoader[Any]]  # of training and of held-out samples


def fit(module: pl.LightningModule, loaders: Loaders, output: Path, name: str, max_steps: int) -> dict[str, float]:
    """Train a module on the CPU, and return what validation measured last, by the names in the logs.

    Args:
        module: What learns.
        loaders: Of training and of held-out samples.
        output: Where TensorBoard's events go.
        name: Their subfolder.
        max_steps: Training steps.
    """
    with _quiet():
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=max_steps,
            max_epochs=1,
            val_check_interval=min(max_steps, 500),
            log_every_n_steps=min(max_steps, 50),
            num_sanity_val_steps=0,
            logger=TensorBoardLogger(output, name="", version=name, default_hp_metric=False),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=Console(stderr=True).is_terminal,
        )
        try:
            trainer.fit(module, *loaders)
        except SystemExit as end:  # how Lightning ends after Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from saying, once for each training, which accelerators there are and what it has deprecated."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6.6 asks for torch's LeafSpec in its own loaders; torch 2.13 deprecates it.
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            # It counts the cores; a batch is one gather, which needs no worker.
            warnings.filterwarnings("ignore", message="The '(train|val)_dataloader' does not have many workers")
            yield
    finally:
        logger.setLevel(level)


def check_options(**options: tuple[float, float, float]) -> None:
    """Refuse an option that is out of its range, given as (value, smallest, largest).

    Raises:
        ValueError: If one is.
    """
    for name, (value, low, high) in options.items():
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: a number between {low:g} and {high:g} is needed")
