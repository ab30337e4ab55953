"""LearningModule: what every module of this room does alike: optimizer, schedule, losses, metrics, resuming.

Shapes: B windows, H steps, A action and O observation dimensions, T = A + O. Batches are raw; trajectories inside are
normalised, (B, H, T), action first.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from diffusers import UNet1DModel
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection

from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.data.windows import Batch
from vgp_lightning.training.fast import can_forward

STATISTICS = ("shift", "scale", "return_shift", "return_scale", "action_low", "action_high")


class Part(Protocol):
    """One network with its losses, as LearningModule trains it; TrajectoryModule is what implements it.

    Attributes:
        network: The UNet1DModel.
        learning_rate: The highest, after the warm-up.
        weight_decay: Of AdamW.
        warmup_steps: Steps in which the learning rate rises from zero.
        compile_network: Whether ``torch.compile`` is asked for.
        accelerated: Whether ``fast.forward`` stands for the network.
        hparams: The hyper-parameters, with ``horizon``.
        loss_name: What the loss is called in the logs.
        short_name: What the network is called there, beside another.
        metrics: What validation measures, by the names in the logs.
        validation_loss: The loss over all validation levels.
    """

    network: UNet1DModel
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    compile_network: bool
    accelerated: bool
    loss_name: str
    short_name: str
    metrics: list[MetricCollection]
    validation_loss: MeanMetric

    @property
    def hparams(self) -> Any:
        """The hyper-parameters."""

    def take_statistics(self, normalization: dict[str, Any]) -> None:
        """Put the data module's statistics into the buffers."""

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of the batch at noise levels drawn uniformly."""

    def measure(self, batch: Batch) -> None:
        """Update ``validation_loss`` and ``metrics``."""


class LearningModule(pl.LightningModule):
    """One or several networks that learn from the same windows, each as it would alone.

    Attributes:
        losses: Those of the last training step, by their names in the logs.
    """

    losses: dict[str, Tensor]

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """The networks with their losses."""

    def setup(self, stage: str) -> None:
        """Take the statistics of the data module; validation of a checkpoint keeps the checkpoint's."""
        datamodule = getattr(self._trainer, "datamodule", None)
        for part in self.parts:
            if stage == "fit" and isinstance(datamodule, MinariDataModule):
                part.take_statistics(datamodule.normalization)
            if part.compile_network:
                part.network.compile()
            part.accelerated = can_forward(part.network, part.hparams["horizon"])

    def on_train_start(self) -> None:
        """Let the order of the windows go on where it was, also where Lightning does not.

        It does not where an epoch has just ended, or where the number of steps had to be asked of the loader.
        """
        loop = self.trainer.fit_loop
        if loop._combined_loader is not None and loop._combined_loader_states_to_load:
            loop._combined_loader._load_state_dicts(loop._combined_loader_states_to_load)
            loop._combined_loader_states_to_load = []
        # A checkpoint of an epoch's last step: what follows is an epoch of its own.
        if loop.restarted_mid_epoch and self.current_epoch == loop.epoch_progress.current.ready:
            loop.reset_restart_stage()
        # Lightning's learning rate finder changes the module's number after the schedule has read it.
        rates: list[Any] = [part.learning_rate for part in self.parts]
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if isinstance(schedule, LambdaLR) and schedule.base_lrs != rates:
                schedule.base_lrs = rates
                for group, rate, factor in zip(
                    schedule.optimizer.param_groups, rates, schedule.lr_lambdas, strict=True
                ):
                    group["initial_lr"], group["lr"] = rate, rate * factor(schedule.last_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the losses: no weight belongs to two of them, so each is minimised by itself."""
        del batch_idx
        losses = {f"train/{part.loss_name}": part.training_loss(batch) for part in self.parts}
        self.log_dict(losses, prog_bar=True)
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        # Processes are averaged, as if each had as many windows; at the end of an epoch they can differ by one.
        weight = len(batch.trajectories) * batch.draw.parts / batch.draw.total
        return torch.stack(list(losses.values())).sum() * weight

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure each network, with the same noise every time."""
        del batch_idx
        for part in self.parts:
            part.measure(batch)
            count = len(batch.trajectories)
            self.log(f"val/{part.loss_name}", part.validation_loss, prog_bar=True, batch_size=count)
            for metrics in part.metrics:
                self.log_dict(metrics, batch_size=count)

    def configure_optimizers(self) -> Any:
        """AdamW, fused unless fp16's gradient scaler has to see unscaled gradients; warm-up, then cosine to zero."""
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("the cosine schedule needs an end: set trainer.max_steps or trainer.max_epochs")
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
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
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
        """Clip each network's gradients by themselves, as in two runs; Lightning refuses to where AdamW is fused."""
        del optimizer
        if not gradient_clip_val:
            return
        for part in self.parts:
            parameters = list(part.network.parameters())
            if gradient_clip_algorithm == "value":
                torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
                continue
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            # To look at the norm is a wait for a device, but spares a CPU from multiplying all gradients by one.
            if self.device.type != "cpu" or not norm <= gradient_clip_val:
                torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is, so that one of the other kind is refused by name."""
        checkpoint["vgp_module"] = type(self).__name__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another kind's checkpoint or another dataset, and keep to this run's learning rate and weight decay.

        Raises:
            ValueError: If the checkpoint holds another module, or is resumed with other data.
        """
        kind = checkpoint.get("vgp_module")
        if kind != type(self).__name__:
            raise ValueError(f"the checkpoint holds a {kind}, but the config asks for a {type(self).__name__}")
        if self._trainer is not None and self.trainer.training:
            own = self.state_dict()
            for name in (name for name in own if name.rpartition(".")[2] in STATISTICS):
                if not torch.equal(own[name].cpu(), checkpoint["state_dict"][name].cpu()):
                    raise ValueError(
                        f"the data have changed since the checkpoint was written: {name} is {own[name].tolist()}, was "
                        f"{checkpoint['state_dict'][name].tolist()}. Train anew, or restore the dataset"
                    )
        # The optimizer's and the schedule's states would bring the checkpoint's numbers back.
        for state in checkpoint.get("optimizer_states", []):
            for group, part in zip(state["param_groups"], self.parts, strict=True):
                group["lr"] *= part.learning_rate / group["initial_lr"]
                group["initial_lr"], group["weight_decay"] = part.learning_rate, part.weight_decay
        for state in checkpoint.get("lr_schedulers", []):
            state["base_lrs"] = [part.learning_rate for part in self.parts]
