"""Health: stop a run that has gone wrong, and keep what is needed to find the cause."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vgp_lightning.data.windows import Batch, Draw
from vgp_lightning.training.base import LearningModule
from vgp_lightning.training.checkpoints import ASK_EVERY, run_folder

_FIRST = 100  # steps whose mean loss is that of a network that has learned nothing yet
_SMOOTHING = 0.98  # of the loss that is compared with it


class Health(pl.Callback):
    """Ends a run whose loss is not finite, or has grown far above that of its first steps.

    It names the step and the windows of its batch, and leaves ``checkpoints/fault.ckpt``; ``last.ckpt`` stays as it
    was before. On a CPU each step is checked before its gradient is computed. Elsewhere, and with several processes,
    several steps are checked together, since each check waits; the first bad one is found all the same. Of several
    processes each looks for losses of its own that are not finite; growth is that of the loss of the global batch.
    """

    def __init__(self, max_growth: float = 10.0) -> None:
        """Set the limit.

        Args:
            max_growth: The largest ratio of the smoothed loss to the mean loss of the first 100 steps.

        Raises:
            ValueError: If it is not above 1.
        """
        if not max_growth > 1:
            raise ValueError(f"health.max_growth is {max_growth}: it must be above 1")
        self._max_growth = max_growth
        self._first: dict[str, float] = {}  # mean of the first losses, by the loss's name
        self._recent: dict[str, float] = {}
        self._count = 0
        self._unchecked: list[tuple[int, Draw, dict[str, Tensor]]] = []
        self._fault: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what later losses are compared with."""
        return {"first": dict(self._first), "recent": dict(self._recent), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what later losses are compared with."""
        self._first, self._recent, self._count = state_dict["first"], state_dict["recent"], state_dict["count"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the windows of the next loss."""
        self._draw = batch.draw

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the losses, and check them at once where that costs nothing."""
        del loss
        if isinstance(pl_module, LearningModule):
            self._unchecked.append((trainer.global_step + 1, self._draw, pl_module.losses))
            if trainer.world_size == 1 and pl_module.device.type == "cpu":
                self._check(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the losses that were kept, once there are enough."""
        if len(self._unchecked) >= ASK_EVERY:
            self._check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let no faulty weights replace good ones; put the fault into its own checkpoint."""
        if self._fault is None:
            self._check(trainer)
            # Lightning took this callback's state before the check.
            checkpoint["callbacks"][self.state_key] = self.state_dict()
        else:
            checkpoint["vgp_fault"] = self._fault

    def _check(self, trainer: pl.Trainer) -> None:
        """Check the losses that were kept: this process's for finiteness, their mean over all processes for growth."""
        if not self._unchecked:
            return
        names = list(self._unchecked[0][2])
        own = torch.stack([torch.stack([losses[name] for name in names]) for _, _, losses in self._unchecked])
        mean: Tensor = own
        if trainer.world_size > 1:
            mean = trainer.strategy.reduce(own.clone(), reduce_op="mean")
        fault = None
        for (step, draw, _), share, whole in zip(self._unchecked, own.tolist(), mean.tolist(), strict=True):
            fault = fault or _not_finite(step, draw, dict(zip(names, share, strict=True)))
            # Where the mean is not finite, one of the processes has found it above.
            if fault is None and all(map(math.isfinite, whole)):
                fault = self._compare(step, draw, dict(zip(names, whole, strict=True)))
        self._unchecked.clear()
        if trainer.world_size > 1:
            found: list[dict[str, Any] | None] = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, fault)
            fault = min((one for one in found if one is not None), key=lambda one: one["step"], default=None)
        if fault is not None:
            self._stop(trainer, fault)

    def _compare(self, step: int, draw: Draw, losses: dict[str, float]) -> dict[str, Any] | None:
        """Return the fault of a step whose smoothed losses have grown too far, or None."""
        self._count += 1
        for name, loss in losses.items():
            first = self._first.setdefault(name, loss)
            if self._count <= _FIRST:
                self._first[name] = self._recent[name] = first + (loss - first) / self._count
            else:
                self._recent[name] = loss + _SMOOTHING * (self._recent.get(name, loss) - loss)
            recent = self._recent[name]
            if self._count > _FIRST and recent > self._max_growth * self._first[name]:
                grown = f"{name} has grown to {recent:.3g}, from {self._first[name]:.3g} in the first {_FIRST} steps"
                return _make_fault(grown, step, draw)
        return None

    def _stop(self, trainer: pl.Trainer, fault: dict[str, Any]) -> None:
        self._fault = fault
        path = run_folder(trainer) / "checkpoints/fault.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        windows = fault["windows"].tolist()
        shown = ", ".join(map(str, windows[:8])) + (f" and {len(windows) - 8} more" if len(windows) > 8 else "")
        raise FloatingPointError(
            f"{fault['what']} at step {fault['step']}. The batch's windows, by index: {shown} (all of them, and the "
            f"weights, are in {path} under the key vgp_fault). last.ckpt, if there is one, is from before. "
            "A lower --model.init_args.learning_rate often helps"
        )


def _not_finite(step: int, draw: Draw, losses: dict[str, float]) -> dict[str, Any] | None:
    """Return the fault of a step with a loss that is not finite, or None."""
    return next(
        (_make_fault(f"{name} is {loss}", step, draw) for name, loss in losses.items() if not math.isfinite(loss)), None
    )


def _make_fault(what: str, step: int, draw: Draw) -> dict[str, Any]:
    return {"what": what, "step": step, "windows": torch.from_numpy(draw.windows.copy())}
