"""Trainings of small networks on a finished folder: Lightning, without its words."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from vgp_lightning.training.terminal import silence_lightning

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
    interval = min(max_steps, 500)
    with silence_lightning():
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=max_steps,
            max_epochs=1,
            val_check_interval=interval,
            log_every_n_steps=min(max_steps, 50),
            num_sanity_val_steps=0,
            logger=TensorBoardLogger(output, name="", version=name, default_hp_metric=False),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
        )
        try:
            trainer.fit(module, *loaders)
        except SystemExit as end:  # how Lightning ends after Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise
        if max_steps % interval:  # the last steps are not validated yet
            trainer.validate(module, loaders[1], verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}


def check_options(**options: tuple[float, float, float]) -> None:
    """Refuse an option that is out of its range, given as (value, smallest, largest).

    Raises:
        ValueError: If one is.
    """
    for name, (value, low, high) in options.items():
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: a number between {low:g} and {high:g} is needed")
