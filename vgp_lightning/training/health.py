"""Stop a run that has gone wrong, and keep what is needed to see why."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vgp_lightning.data.windows import Batch, Draw
from vgp_lightning.training.base import LearningModule
from vgp_lightning.training.checkpoints import ASK_EVERY, run_folder

_FIRST = 100  # steps whose mean loss says what a network knows that has learned nothing
_SMOOTHING = 0.98  # of the loss that is compared with it


class Health(pl.Callback):
    """Ends a run whose loss is not finite, or has grown far above that of its first steps.

    It names the step and the windows of its batch, and leaves ``checkpoints/fault.ckpt``; ``last.ckpt`` stays as it
    was before. On a CPU each step is looked at before its gradient is taken. Elsewhere, and with several processes,
    some steps are looked at together, since each look is a wait; the first bad one is found all the same.
    """

    def __init__(self, max_growth: float = 10.0) -> None:
        """Set the limit.

        Args:
            max_growth: How many times the mean loss of the first 100 steps the smoothed loss may be.

        Raises:
            ValueError: If it is not above 1.
        """
        if not max_growth > 1:
            raise ValueError(f"health.max_growth is {max_growth}: it must be above 1")
        self._max_growth = max_growth
        self._first: dict[str, float] = {}  # mean of the first losses, by the loss's name
        self._recent: dict[str, float] = {}
        self._count = 0
        self._unseen: list[tuple[int, Draw, dict[str, Tensor]]] = []
        self._fault: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what later losses are compared with."""
        return {"first": dict(self._first), "recent": dict(self._recent), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the same."""
        self._first, self._recent, self._count = state_dict["first"], state_dict["recent"], state_dict["count"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember whose loss comes next."""
        self._draw = batch.draw

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Take the losses down, and look at them at once where that costs nothing."""
        del loss
        if isinstance(pl_module, LearningModule):
            self._unseen.append((trainer.global_step + 1, self._draw, pl_module.losses))
            if trainer.world_size == 1 and pl_module.device.type == "cpu":
                self._look(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses that were taken down."""
        if len(self._unseen) >= ASK_EVERY:
            self._look(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let no faulty weights be saved over good ones; put the fault into its own checkpoint."""
        if self._fault is None:
            self._look(trainer)
            # What Lightning took before this look is out of date.
            checkpoint["callbacks"][self.state_key] = self.state_dict()
        else:
            checkpoint["vgp_fault"] = self._fault

    def _look(self, trainer: pl.Trainer) -> None:
        fault = None
        for step, draw, losses in self._unseen:
            numbers = {name: loss.item() for name, loss in losses.items()}
            fault = fault or self._compare(step, draw, numbers)
        self._unseen.clear()
        if trainer.world_size > 1:
            found: list[dict[str, Any] | None] = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, fault)
            fault = min((one for one in found if one is not None), key=lambda one: one["step"], default=None)
        if fault is not None:
            self._stop(trainer, fault)

    def _compare(self, step: int, draw: Draw, losses: dict[str, float]) -> dict[str, Any] | None:
        """Return what is wrong with a step, if anything is."""
        self._count += 1
        for name, loss in losses.items():
            first = self._first.setdefault(name, loss)
            if self._count <= _FIRST:
                self._first[name] = self._recent[name] = first + (loss - first) / self._count
            else:
                self._recent[name] = loss + _SMOOTHING * (self._recent.get(name, loss) - loss)
            recent = self._recent[name]
            wrong = None
            if not math.isfinite(loss):
                wrong = f"{name} is {loss}"
            elif self._count > _FIRST and recent > self._max_growth * self._first[name]:
                wrong = f"{name} has grown to {recent:.3g}, from {self._first[name]:.3g} in the first {_FIRST} steps"
            if wrong:
                return {"what": wrong, "step": step, "windows": torch.from_numpy(draw.windows.copy())}
        return None

    def _stop(self, trainer: pl.Trainer, fault: dict[str, Any]) -> None:
        self._fault = fault
        path = run_folder(trainer) / "checkpoints/fault.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        windows = fault["windows"].tolist()
        shown = ", ".join(map(str, windows[:8])) + (f" and {len(windows) - 8} more" if len(windows) > 8 else "")
        raise FloatingPointError(
            f"{fault['what']} at step {fault['step']}. The batch's windows, by index: {shown} (all of them, and the "
            f"weights, are in {path}; its key is vgp_fault). last.ckpt, if there is one, is from before. "
            "A lower --model.init_args.learning_rate often helps"
        )
