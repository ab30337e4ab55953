"""Train the two networks: a network, a loss, an optimizer each.

Shapes: B windows, H steps, A action and O observation dimensions, T = A + O. Batches are raw; trajectories inside are
normalised, (B, H, T), action first.
"""

import math
import pickle
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from diffusers import DDPMScheduler, UNet1DModel
from diffusers.optimization import get_scheduler
from torch import Tensor
from torchmetrics import ExplainedVariance, MeanMetric, MetricCollection, SpearmanCorrCoef

from vgp_lightning.data import Batch, MinariDataModule
from vgp_lightning.networks import make_denoiser, make_value_function

PredictionType = Literal["sample", "epsilon", "v_prediction"]

_VALIDATION_LEVELS = 5  # noise levels, evenly spread, at which validation measures


class TrajectoryModule(pl.LightningModule):
    """What both networks share: the normaliser's vectors as buffers, forward noising, the optimizer.

    A checkpoint holds all that an export needs.

    Attributes:
        network: The UNet1DModel.
        noise_scheduler: The noise schedule.
    """

    flops_per_batch = None  # ThroughputMonitor asks; seconds are what counts here

    shift: Tensor  # (T,)
    scale: Tensor  # (T,)
    action_low: Tensor  # (A,), minus infinity where there is no bound
    action_high: Tensor  # (A,)
    return_shift: Tensor  # ()
    return_scale: Tensor  # ()

    def __init__(
        self,
        network: UNet1DModel,
        noise_scheduler: DDPMScheduler,
        transition_dim: int,
        action_dim: int,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        compile: bool,  # noqa: A002 (the word that Lightning's users know)
    ) -> None:
        super().__init__()
        self.network = network
        self.noise_scheduler = noise_scheduler
        self.levels: int = noise_scheduler.config["num_train_timesteps"]
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.compile_network = compile
        self.action_dim = action_dim
        for name, initial in (
            ("shift", torch.zeros(transition_dim)),
            ("scale", torch.ones(transition_dim)),
            ("action_low", torch.full((action_dim,), -math.inf)),
            ("action_high", torch.full((action_dim,), math.inf)),
            ("return_shift", torch.tensor(0.0)),
            ("return_scale", torch.tensor(1.0)),
        ):
            self.register_buffer(name, initial)

    def setup(self, stage: str) -> None:
        """Take the statistics of the data module; validation of a checkpoint keeps the checkpoint's."""
        datamodule = getattr(self._trainer, "datamodule", None)
        if stage == "fit" and isinstance(datamodule, MinariDataModule):
            for name, values in datamodule.normalization.items():
                if name.startswith("action_") and name != "action_dim":
                    unbounded = math.inf if name == "action_high" else -math.inf
                    values = [unbounded if value is None else value for value in values]
                if name != "action_dim":
                    getattr(self, name).copy_(torch.as_tensor(values))
        if self.compile_network:
            self.network.compile()

    @property
    def normalization(self) -> dict[str, Any]:
        """The normaliser as plain numbers, as an exported folder holds it."""
        vectors = {name: getattr(self, name).tolist() for name in ("shift", "scale", "return_shift", "return_scale")}
        bounds = {
            name: [bound if math.isfinite(bound) else None for bound in getattr(self, name).tolist()]
            for name in ("action_low", "action_high")
        }
        return {"action_dim": self.action_dim, **vectors, **bounds}

    def noised(self, clean: Tensor, timesteps: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return trajectories at the noise levels (B,), the present observation pinned, and the noise that they got."""
        noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        noised = self.noise_scheduler.add_noise(clean, noise, timesteps)
        noised[:, 0, self.action_dim :] = clean[:, 0, self.action_dim :]
        return noised, noise

    def normalise(self, batch: Batch) -> Tensor:
        """Return the batch's trajectories in normalised units."""
        return (batch.trajectories - self.shift) / self.scale

    def configure_optimizers(self) -> Any:
        """AdamW, fused unless fp16's gradient scaler has to see unscaled gradients; warm-up, then cosine to zero."""
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("the cosine schedule needs an end: set trainer.max_steps or trainer.max_epochs")
        fused = self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused
        )
        schedule = get_scheduler(
            "cosine", optimizer, num_warmup_steps=min(self.warmup_steps, int(steps)), num_training_steps=int(steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "train/lr"}}

    def on_train_start(self) -> None:
        """Let each process of a distributed run draw its own noise: Lightning seeds them all alike."""
        if self.global_rank > 0:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of all gradients, before they are clipped."""
        del optimizer
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def validation_levels(self) -> list[int]:
        """Return the noise levels at which validation measures."""
        return torch.linspace(0, self.levels - 1, min(_VALIDATION_LEVELS, self.levels)).round().int().tolist()

    def validation_generator(self, batch_index: int, level: int) -> torch.Generator:
        """Return the same noise at every validation, so that its curve shows the network and not the draw."""
        return torch.Generator(self.device).manual_seed(batch_index * self.levels + level)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is, so that one of the other kind is refused by name."""
        checkpoint["vgp_module"] = type(self).__name__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the other kind's checkpoint, and keep to this run's learning rate and weight decay.

        Raises:
            ValueError: If the checkpoint holds another module.
        """
        kind = checkpoint.get("vgp_module")
        if kind != type(self).__name__:
            raise ValueError(f"the checkpoint holds a {kind}, but the config asks for a {type(self).__name__}")
        # The optimizer's and the schedule's states would bring the checkpoint's numbers back.
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                group["lr"] *= self.learning_rate / group["initial_lr"]
                group["initial_lr"], group["weight_decay"] = self.learning_rate, self.weight_decay
        for state in checkpoint.get("lr_schedulers", []):
            state["base_lrs"] = [self.learning_rate] * len(state["base_lrs"])


class DenoiserModule(TrajectoryModule):
    """The denoiser: learns to predict a window from its noised form (or its noise, or v)."""

    def __init__(
        self,
        transition_dim: int,
        action_dim: int,
        horizon: int,
        task: dict[str, Any],
        widths: list[int] = [32, 64, 128, 256],  # noqa: B006 (jsonargparse reads it; never changed)
        num_train_timesteps: int = 20,
        beta_schedule: str = "squaredcos_cap_v2",
        prediction_type: PredictionType = "sample",
        action_weight: float = 10.0,
        loss_discount: float = 1.0,
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 500,
        compile: bool = False,  # noqa: A002
    ) -> None:
        """Build the network.

        Args:
            transition_dim: T; comes from the data.
            action_dim: A; comes from the data.
            horizon: H; comes from the data.
            task: What the data are; comes from the data.
            widths: Channels of the U-Net's levels; the horizon must be a multiple of 2 ** (number - 1).
            num_train_timesteps: Noise levels.
            beta_schedule: Noise schedule, by diffusers' name; the paper's is the cosine, ``squaredcos_cap_v2``.
            prediction_type: What the network predicts: the clean ``sample`` as in the paper, ``epsilon`` (the noise),
                or ``v_prediction``.
            action_weight: Weight of the first action in the loss: it is the only one that is executed.
            loss_discount: Weight of each further step relative to the one before it.
            learning_rate: Highest, after the warm-up.
            weight_decay: Of AdamW.
            warmup_steps: Steps in which the learning rate rises from zero.
            compile: Compile the network with ``torch.compile``.

        Raises:
            ValueError: If horizon or widths do not fit.
        """
        super().__init__(
            make_denoiser(transition_dim, horizon, widths),
            make_noise_scheduler(num_train_timesteps, beta_schedule, prediction_type),
            transition_dim,
            action_dim,
            learning_rate,
            weight_decay,
            warmup_steps,
            compile,
        )
        self.save_hyperparameters()
        weights = loss_discount ** torch.arange(horizon, dtype=torch.float32)
        weights = (weights / weights.mean())[:, None].repeat(1, transition_dim)  # (H, T)
        weights[0, :action_dim] = action_weight
        weights[0, action_dim:] = 0  # pinned: nothing to predict
        self.register_buffer("loss_weights", weights, persistent=False)
        self.validation_losses = MetricCollection(
            {f"val/diffusion_loss/t{level:02d}": MeanMetric() for level in self.validation_levels()}
        )
        self.validation_loss = MeanMetric()

    def loss(self, batch: Batch, timesteps: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the weighted mean squared error of the prediction at the noise levels (B,): the paper's eq. 5."""
        clean = self.normalise(batch)
        noised, noise = self.noised(clean, timesteps, generator)
        output = self.network(noised.transpose(1, 2), timesteps).sample.transpose(1, 2)
        prediction_type = self.noise_scheduler.config["prediction_type"]
        if prediction_type == "sample":
            target = clean
        elif prediction_type == "epsilon":
            target = noise
        else:
            target = self.noise_scheduler.get_velocity(clean, noise, timesteps)
        weights: Tensor = self.loss_weights  # type: ignore[assignment]
        loss: Tensor = (weights * (output.float() - target) ** 2).mean()
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss at noise levels drawn uniformly."""
        del batch_idx
        timesteps = torch.randint(self.levels, (len(batch.trajectories),), device=self.device)
        loss = self.loss(batch, timesteps)
        self.log("train/diffusion_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss at each validation level, with the same noise every time."""
        count = len(batch.trajectories)
        for level, metric in zip(self.validation_levels(), self.validation_losses.values(), strict=True):
            timesteps = torch.full((count,), level, device=self.device)
            loss = self.loss(batch, timesteps, self.validation_generator(batch_idx, level))
            metric.update(loss, weight=count)
            self.validation_loss.update(loss, weight=count)
        self.log_dict(self.validation_losses, batch_size=count)
        self.log("val/diffusion_loss", self.validation_loss, prog_bar=True, batch_size=count)


class ValueModule(TrajectoryModule):
    """The value function: learns the normalised return of a window from its noised form."""

    def __init__(
        self,
        transition_dim: int,
        action_dim: int,
        horizon: int,
        task: dict[str, Any],
        widths: list[int] = [32, 64, 128, 256],  # noqa: B006
        num_train_timesteps: int = 20,
        beta_schedule: str = "squaredcos_cap_v2",
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 500,
        compile: bool = False,  # noqa: A002
    ) -> None:
        """Build the network.

        Args:
            transition_dim: T; comes from the data.
            action_dim: A; comes from the data.
            horizon: H; comes from the data.
            task: What the data are; comes from the data.
            widths: Channels of the levels; the horizon may be at most 2 ** (number + 2).
            num_train_timesteps: Noise levels; as many as the denoiser's.
            beta_schedule: Noise schedule, by diffusers' name; the same as the denoiser's.
            learning_rate: Highest, after the warm-up.
            weight_decay: Of AdamW.
            warmup_steps: Steps in which the learning rate rises from zero.
            compile: Compile the network with ``torch.compile``.

        Raises:
            ValueError: If horizon or widths do not fit.
        """
        super().__init__(
            make_value_function(transition_dim, horizon, widths),
            make_noise_scheduler(num_train_timesteps, beta_schedule, "sample"),
            transition_dim,
            action_dim,
            learning_rate,
            weight_decay,
            warmup_steps,
            compile,
        )
        self.save_hyperparameters()
        levels = [f"t{level:02d}" for level in self.validation_levels()]
        self.explained_variance = MetricCollection(
            {f"val/explained_variance/{level}": ExplainedVariance() for level in levels}
        )
        # Guidance and selection need the ranking of plans right, more than their values.
        with warnings.catch_warnings():
            # It warns that it keeps all predictions; data.validation_windows says how many.
            warnings.simplefilter("ignore", UserWarning)
            self.rank_correlation = MetricCollection(
                {f"val/rank_correlation/{level}": SpearmanCorrCoef() for level in levels}
            )
        self.validation_loss = MeanMetric()

    def predict(self, batch: Batch, timesteps: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the predicted normalised return (B,) of the batch, noised to the levels (B,)."""
        noised, _ = self.noised(self.normalise(batch), timesteps, generator)
        # bf16 on a CPU: oneDNN's gradient of a strided convolution over a single step is garbage (torch 2.13).
        with torch.autocast(self.device.type, enabled=False) if self.device.type == "cpu" else nullcontext():
            prediction: Tensor = self.network(noised.transpose(1, 2), timesteps).sample
        return prediction.squeeze(-1).float()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean squared error of the return at noise levels drawn uniformly."""
        del batch_idx
        timesteps = torch.randint(self.levels, (len(batch.trajectories),), device=self.device)
        loss = torch.nn.functional.mse_loss(self.predict(batch, timesteps), self.normalised_returns(batch))
        self.log("train/value_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure error, explained variance and rank correlation at each validation level."""
        count = len(batch.trajectories)
        returns = self.normalised_returns(batch)
        for level, explained, rank in zip(
            self.validation_levels(), self.explained_variance.values(), self.rank_correlation.values(), strict=True
        ):
            timesteps = torch.full((count,), level, device=self.device)
            prediction = self.predict(batch, timesteps, self.validation_generator(batch_idx, level))
            explained.update(prediction, returns)
            rank.update(prediction, returns)
            self.validation_loss.update(torch.nn.functional.mse_loss(prediction, returns), weight=count)
        self.log_dict(self.explained_variance, batch_size=count)
        self.log_dict(self.rank_correlation, batch_size=count)
        self.log("val/value_loss", self.validation_loss, prog_bar=True, batch_size=count)

    def normalised_returns(self, batch: Batch) -> Tensor:
        """Return the batch's returns (B,) with mean 0 and deviation 1 over the dataset."""
        return (batch.returns - self.return_shift) / self.return_scale


def make_noise_scheduler(levels: int, beta_schedule: str, prediction_type: PredictionType) -> DDPMScheduler:
    """Return the noise schedule. Nothing is clipped: Gaussian-normalised data leave -1..1 by far."""
    return DDPMScheduler(
        num_train_timesteps=levels,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        clip_sample=False,
        variance_type="fixed_small_log",
    )


def read_checkpoint(path: str | Path, advice: str = "") -> Any:
    """Read a file of torch's, which may hold tensors and plain values but no code.

    Raises:
        ValueError: If the file is missing (``advice`` ends the message), or is none.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint {path} does not exist{advice}") from error
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError) as error:
        # torch's own text is a page long, and advises to load it as code.
        raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__})") from error


def load_module(path: str) -> DenoiserModule | ValueModule:
    """Load a checkpoint of either module, with the EMA weights if it was trained with EMA.

    Raises:
        ValueError: If the file is missing, no checkpoint, or another program's.
    """
    checkpoint = read_checkpoint(path, advice=": train one with vgp fit")
    kinds = {kind.__name__: kind for kind in (DenoiserModule, ValueModule)}
    kind = kinds.get(checkpoint.get("vgp_module", "")) if isinstance(checkpoint, dict) else None
    if kind is None:
        raise ValueError(f"{path} is not a checkpoint of {' or '.join(kinds)}: train one with vgp fit")
    return kind.load_from_checkpoint(path, map_location="cpu", weights_only=True)
