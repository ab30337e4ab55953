"""What TensorBoard shows of a training besides its scalars: charts that belong together, settings, a summary."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from vgp_lightning import __version__
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.report.board import add_settings, add_table
from vgp_lightning.training.base import LearningModule

_OF_DATA = ("horizon", "discount", "termination_penalty", "batch_size", "normalizer", "padding", "truncation")


class RunLogger(TensorBoardLogger):
    """Lightning's logger without its chart of epochs, a staircase: the steps are the axis of every chart."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all but the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def describe_run(trainer: pl.Trainer, module: pl.LightningModule, config: str) -> None:
    """Write a run's charts, settings and summary, at its start.

    Args:
        trainer: What trains.
        module: What is trained.
        config: The merged config, as YAML.
    """
    logger = trainer.logger
    if not (isinstance(logger, TensorBoardLogger) and isinstance(module, LearningModule) and trainer.is_global_zero):
        return
    writer = logger.experiment
    scores = {f"val/{part.loss_name}": 0.0 for part in module.parts}
    levels: dict[str, list[str]] = {}
    for part in module.parts:
        for name in (str(name) for metrics in part.metrics for name in metrics):
            _, measure, *level = name.split("/")
            if level:
                levels.setdefault(measure, []).append(name)
            else:
                scores[name] = 0.0
    writer.add_custom_scalars(_layout(module, scores, levels))
    data = trainer.datamodule  # type: ignore[attr-defined]
    settings = {"module": type(module).__name__, "steps": trainer.max_steps, "precision": trainer.precision}
    for name in ("learning_rate", "weight_decay", "warmup_steps", "widths", "num_train_timesteps", "prediction_type"):
        settings |= {name: module.hparams[name]} if name in module.hparams else {}
    if isinstance(data, MinariDataModule):
        settings["dataset"] = ", ".join(data.dataset_ids)
        settings |= {name: getattr(data, name) for name in _OF_DATA}
    add_settings(writer, settings, scores)
    count = sum(weight.numel() for weight in module.parameters())
    facts = {"weights": f"{count:,}", "device": f"{trainer.world_size} x {module.device.type}", "vgp": __version__}
    add_table(writer, "run", settings | facts, config)


def _layout(module: LearningModule, scores: Mapping[str, float], levels: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the charts of the page CUSTOM SCALARS, by their headings."""
    losses = [part.loss_name for part in module.parts]
    quality = {
        f"{name.partition('/')[2].replace('_', ' ')}, held-out windows": ["Multiline", [name]]
        for name in scores
        if not name.endswith("_loss")
    }
    return {
        "losses": {
            # The marks that TensorBoard gives to the first and the second line of a run.
            f"{loss.replace('_', ' ')}: ■ training, ◆ validation": ["Multiline", [f"train/{loss}", f"val/{loss}"]]
            for loss in losses
        },
        **({"value quality": quality} if quality else {}),
        "validation by noise level (t00: clean)": {
            measure.replace("_", " "): ["Multiline", sorted(names)] for measure, names in levels.items()
        },
        "optimisation": {
            "gradient norm": ["Multiline", ["train/grad_norm.*"]],
            "learning rate": ["Multiline", ["train/lr.*"]],
            "steps per second": ["Multiline", ["train/steps_per_second"]],
        },
    }
