"""``vgp fit --dry_run``: some steps and one validation, from which the time of the whole training follows."""

import time
from typing import Any

import lightning.pytorch as pl

from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.report.estimates import say_estimate

_FIRST = 5  # steps that are not measured: caches, compilers and threads begin in them
_STEPS, _SECONDS = 20, 5.0  # as many steps at least, and as long


class Rehearsal(pl.Callback):
    """Times a training's steps and a validation, and stops it."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the beginning."""
        self._batches = self._counted = 0
        self._validation, self._each, self._start = 0.0, 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop once enough is measured."""
        self._batches, self._counted = self._batches + 1, self._counted + 1
        seconds = time.perf_counter() - self._start
        self._each = seconds / self._counted
        if self._batches == _FIRST:
            self._counted, self._start = 0, time.perf_counter()
        elif self._counted >= _STEPS and seconds >= _SECONDS:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the beginning of a validation."""
        self._validated = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how long the validation took, which the steps did not."""
        if not trainer.sanity_checking:  # before the training starts
            self._validation = time.perf_counter() - self._validated
            self._start += self._validation

    def seconds(self, trainer: pl.Trainer) -> float:
        """Return the seconds that all steps and validations of the training would take."""
        batches, validations = self._count(trainer)
        return self._each * batches + self._validation * validations

    def _count(self, trainer: pl.Trainer) -> tuple[float, int]:
        """Return the batches and the validations of the training."""
        batches = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        if not self._validation or not isinstance(trainer.val_check_batch, int):
            return batches, 0
        return batches, int(batches // (trainer.val_check_batch * (trainer.check_val_every_n_epoch or 1)))

    def say(self, trainer: pl.Trainer, module: pl.LightningModule, data: MinariDataModule) -> None:
        """Print what the training would do and take."""
        _, validations = self._count(trainer)
        steps = trainer.estimated_stepping_batches
        weights = sum(weight.numel() for weight in module.parameters()) / 1e6
        say_estimate(
            f"train {type(module).__name__}, {weights:.2f} million weights, for {steps:.0f} steps of "
            f"{data.batch_size} windows of {', '.join(data.dataset_ids)} on {module.device}, "
            f"with {validations} validations",
            self.seconds(trainer),
            f"{1e3 * self._each:.3g} ms a step, measured on {self._batches}, and {self._validation:.2g} s a validation",
        )
