"""LearningModule: optimizer, schedule, losses, metrics and resuming, which all modules of this room have in common.

Shapes: B windows, H steps, A action and O observation dimensions, T = A + O. Batches are in physical units;
trajectories inside the modules are normalised, (B, H, T), action first.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from diffusers import UNet1DModel
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection

from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.data.order import WindowLoader
from vgp_lightning.data.windows import Batch
from vgp_lightning.training.contents import check_callbacks, check_weights
from vgp_lightning.training.fast import can_forward
from vgp_lightning.training.internals import begin_new_epoch
from vgp_lightning.training.trainers import NO_END, check_trainer

STATISTICS = ("shift", "scale", "return_shift", "return_scale", "action_low", "action_high")


class Part(Protocol):
    """One network with its losses, as LearningModule trains it; TrajectoryModule implements it.

    Attributes:
        network: The UNet1DModel.
        learning_rate: The highest learning rate, reached after the warm-up.
        weight_decay: The weight decay of AdamW.
        warmup_steps: Steps in which the learning rate rises from zero.
        compile_network: Whether ``torch.compile`` was asked for.
        compiled: The compiled network, which training calls, or None.
        accelerated: Whether ``fast.forward`` replaces the call of the network.
        folded: The shape of the trajectories that the network sees, (H, T) folded by the stride.
        loss_name: Name of the loss in the logs.
        short_name: Name of the network in the logs, where there are two.
        metrics: What validation measures, by the names in the logs.
        validation_loss: The loss over all validation levels.
    """

    network: UNet1DModel
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    compile_network: bool
    compiled: Callable[[Tensor, Tensor], Any] | None
    accelerated: bool
    folded: tuple[int, int]
    loss_name: str
    short_name: str
    metrics: list[MetricCollection]
    validation_loss: MeanMetric

    def take_statistics(self, normalization: dict[str, Any]) -> None:
        """Copy the data module's statistics into the buffers."""

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of the batch at uniformly drawn noise levels."""

    def measure(self, batch: Batch) -> None:
        """Update ``validation_loss`` and ``metrics``."""


class LearningModule(pl.LightningModule):
    """One or several networks that learn from the same windows, each as it would alone.

    Attributes:
        losses: The losses of the last training step, by their names in the logs. They are this process's share: their
            mean over all processes is the loss of the global batch.
    """

    losses: dict[str, Tensor]
    _fits = False  # whether a Trainer trains this module, or did last
    _position: dict[str, int] | None = None  # of the order of windows, from the checkpoint that is resumed

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """The networks with their losses."""

    def setup(self, stage: str) -> None:
        """Take the data module's statistics for training; validation of a checkpoint keeps the checkpoint's.

        Raises:
            ValueError: If the Trainer's options would train nothing, or round the data, or divide the weights.
        """
        self._fits = stage == "fit"
        check_trainer(self.trainer, trains=self._fits)
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        for part in self.parts:
            if self._fits and isinstance(datamodule, MinariDataModule):
                part.take_statistics(datamodule.normalization)
            part.compiled = _compile(part.network) if part.compile_network else None

    def on_train_start(self) -> None:
        """Continue the order of the windows where the checkpoint left it, in every case.

        Lightning does not where an epoch has just ended, or where the number of steps was computed from the loader.
        """
        self._choose_forward()
        loader = self.trainer.train_dataloader
        if self._position is not None and isinstance(loader, WindowLoader):
            loader.load_state_dict(self._position)
        self._position = None
        begin_new_epoch(self.trainer)
        # Lightning's learning rate finder changes the module's learning rate after the schedule has read it, and the
        # checkpoint's is that of its own schedule: 0, where a run is made longer that had come to its end.
        rates: list[Any] = [part.learning_rate for part in self.parts]
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if isinstance(schedule, LambdaLR):
                schedule.base_lrs = rates
                for group, rate, factor in zip(
                    schedule.optimizer.param_groups, rates, schedule.lr_lambdas, strict=True
                ):
                    group["initial_lr"], group["lr"] = rate, rate * factor(schedule.last_epoch)

    def on_train_epoch_start(self) -> None:
        """Look at the networks again: a callback may have added a hook."""
        self._choose_forward()

    def on_validation_start(self) -> None:
        """Look at the networks again: a callback may have added a hook."""
        self._choose_forward()

    def _choose_forward(self) -> None:
        """Decide whether ``fast.forward`` may replace the networks: it calls none of their hooks."""
        for part in self.parts:
            part.accelerated = part.compiled is None and can_forward(part.network, part.folded[0])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the losses: no weight contributes to two of them, so each is minimised by itself."""
        del batch_idx
        # Processes are averaged as if their shares were equal; at the end of an epoch they can differ by one window.
        weight = len(batch.trajectories) * batch.draw.parts / batch.draw.total
        losses = {f"train/{part.loss_name}": part.training_loss(batch) * weight for part in self.parts}
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        logged = self._averaged(self.losses) if self._logs_this_step() else self.losses
        # Lightning reads what a progress bar may show at every step, which waits for a device: there the bar is given
        # the losses of the steps that are logged, which are read anyway.
        on_cpu = self.device.type == "cpu"
        self.log_dict(logged, prog_bar=on_cpu)
        if not on_cpu and self._logs_this_step():
            self.trainer.progress_bar_metrics.update({name: loss.item() for name, loss in logged.items()})
        return torch.stack(list(losses.values())).sum()

    def _averaged(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the means over all processes, which all of them have to ask for."""
        if self.trainer.world_size == 1:
            return losses
        mean: Tensor = self.trainer.strategy.reduce(torch.stack(list(losses.values())), reduce_op="mean")
        return dict(zip(losses, mean, strict=True))

    def _logs_this_step(self) -> bool:
        """Return whether Lightning logs the step that is being computed."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined, no-any-return]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure each network, with the same noise at every validation."""
        del batch_idx
        for part in self.parts:
            part.measure(batch)
            count = len(batch.trajectories)
            self.log(f"val/{part.loss_name}", part.validation_loss, prog_bar=True, batch_size=count)
            for metrics in part.metrics:
                self.log_dict(metrics, batch_size=count)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a cosine decay to zero.

        It is fused, except for fp16: the gradient scaler has to see unscaled gradients.

        Raises:
            ValueError: If the training has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError(NO_END)
        groups = [
            {"params": list(part.network.parameters()), "lr": part.learning_rate, "weight_decay": part.weight_decay}
            | ({"name": part.short_name} if len(self.parts) > 1 else {})
            for part in self.parts
        ]
        optimizer = torch.optim.AdamW(groups, fused=self.trainer.precision != "16-mixed")
        warmup_steps = min(self.parts[0].warmup_steps, int(steps))
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=warmup_steps, num_training_steps=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "train/lr"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of all gradients of each network, before they are clipped."""
        del optimizer
        if self._logs_this_step():
            for part in self.parts:
                gradients = [p.grad for p in part.network.parameters() if p.grad is not None]
                name = "train/grad_norm" + f"/{part.short_name}" * (len(self.parts) > 1)
                self.log(name, torch.nn.utils.get_total_norm(gradients))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each network's gradients separately, as in two runs; Lightning refuses to clip for a fused AdamW."""
        if not gradient_clip_val:
            return
        for group in optimizer.param_groups:  # one for each network; walking its modules again would take longer
            parameters = group["params"]
            if gradient_clip_algorithm == "value":
                torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
                continue
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            # Reading the norm waits for a device, but spares a CPU from multiplying all gradients by one.
            if self.device.type != "cpu" or not norm <= gradient_clip_val:
                torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the module's kind, so that another kind is refused by name, and the position in the order of windows."""
        checkpoint["vgp_module"] = type(self).__name__
        loader = self.trainer.train_dataloader if self._fits else None
        if isinstance(loader, WindowLoader):
            checkpoint["vgp_position"] = loader.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits, and keep this run's learning rate and weight decay.

        Raises:
            ValueError: If the checkpoint holds another module or other weights, or is resumed with other data.
        """
        check_kind(checkpoint, type(self).__name__)
        check_callbacks(checkpoint, "the checkpoint")
        for name in ("state_dict", *(["current_model_state"] if "current_model_state" in checkpoint else [])):
            check_weights(checkpoint.get(name), self.state_dict(), f"{name} of the checkpoint")
        if self._fits:
            self._check_statistics(checkpoint["state_dict"])
            self._position = checkpoint.get("vgp_position") or _position_of_0_1(checkpoint)
        # The states of optimizer and schedule would bring back the checkpoint's learning rate and weight decay.
        try:
            for state in checkpoint.get("optimizer_states", []):
                for group, part in zip(state["param_groups"], self.parts, strict=True):
                    group["lr"] *= part.learning_rate / group["initial_lr"]
                    group["initial_lr"], group["weight_decay"] = part.learning_rate, part.weight_decay
            for state in checkpoint.get("lr_schedulers", []):
                state["base_lrs"] = [part.learning_rate for part in self.parts]
        except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"the optimizer's state in the checkpoint is damaged: {error!r}") from error

    def _check_statistics(self, saved: dict[str, Tensor]) -> None:
        own = self.state_dict()
        for name in (name for name in own if name.rpartition(".")[2] in STATISTICS):
            if not torch.equal(own[name].cpu(), saved[name].cpu()):
                raise ValueError(
                    f"the data have changed since the checkpoint was written: {name} is {own[name].tolist()}, was "
                    f"{saved[name].tolist()}. Train anew, or restore the dataset"
                )


def check_kind(checkpoint: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint of another module.

    Args:
        checkpoint: The checkpoint.
        name: The name of the module's class.

    Raises:
        ValueError: If it is of another.
    """
    if (kind := checkpoint.get("vgp_module")) != name:
        raise ValueError(f"the checkpoint holds a {kind}, but the config asks for a {name}")


def _compile(network: UNet1DModel) -> Callable[[Tensor, Tensor], Any]:
    """Return the network compiled, as a function: as a submodule it would be in the checkpoint twice.

    The network itself stays as it is for validation and pictures. Compiled there too, both networks of a PlannerModule,
    which share their code, would exceed torch's limit of 8 compilations (batch sizes x modes x networks).
    """
    compiled: Callable[..., Any] = torch.compile(network)
    return lambda sample, timesteps: compiled(sample, timesteps)


def _position_of_0_1(checkpoint: dict[str, Any]) -> dict[str, int] | None:
    """Return the position in the order of windows as version 0.1 saved it: by Lightning's loops alone."""
    loaders = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])
    return loaders[0] if loaders else None
