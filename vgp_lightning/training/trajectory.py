"""TrajectoryModule: one network, the noise it is trained with, and the normaliser.

Shapes: B windows, H steps, A action and O observation dimensions, T = A + O. Batches are in physical units;
trajectories inside the module are normalised, (B, H, T), action first. With a stride of s they are folded, (B, H / s,
s * A + O), as pipeline/stride.py says.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import torch
from diffusers import UNet1DModel
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from vgp_lightning.data.windows import Batch
from vgp_lightning.pipeline.networks import PredictionType, make_noise_scheduler
from vgp_lightning.pipeline.stride import fold, folded_channels
from vgp_lightning.training.base import STATISTICS, LearningModule
from vgp_lightning.training.fast import forward

_VALIDATION_LEVELS = 5  # noise levels, evenly spaced, at which validation measures


class TrajectoryModule(LearningModule):
    """A network with its loss, and the normaliser's vectors as buffers: a checkpoint holds all that an export needs.

    Attributes:
        network: The UNet1DModel.
        make_network: Builds it from the channels of a folded step, H, widths and the stride.
        noise_scheduler: The noise schedule.
        loss_name: Name of the loss in the logs.
        short_name: Name of the network in the logs, where there are two.
        metrics: What validation measures, by the names in the logs.
        validation_loss: The loss over all validation levels.
    """

    loss_name: str
    short_name: str
    make_network: Callable[[int, int, list[int], int], UNet1DModel]
    metrics: list[MetricCollection]
    validation_loss: MeanMetric
    shift: Tensor  # (T,)
    scale: Tensor  # (T,)
    action_low: Tensor  # (A,), minus infinity where there is no bound
    action_high: Tensor  # (A,)
    return_shift: Tensor  # ()
    return_scale: Tensor  # ()

    def __init__(
        self,
        transition_dim: int,
        action_dim: int,
        horizon: int,
        task: dict[str, Any],
        stride: int = 1,
        widths: list[int] = [32, 64, 128, 256],  # noqa: B006 (jsonargparse reads it; never changed)
        num_train_timesteps: int = 20,
        beta_schedule: str = "squaredcos_cap_v2",
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 500,
        compile: bool = False,  # noqa: A002 (the word that Lightning's users know)
        *,
        predicts: PredictionType,
    ) -> None:
        """Build the network.

        Args:
            transition_dim: T; linked from the data.
            action_dim: A; linked from the data.
            horizon: H; linked from the data.
            task: Description of environment and datasets; linked from the data.
            stride: Steps of a plan that one step of the network stands for: it sees every stride-th observation, and
                all actions between two of them as one vector. A plan of as many steps costs less, so that it can look
                further ahead.
            widths: Channels of the levels. A denoiser's horizon must be a multiple of stride * 2 ** (number - 1), a
                value function's may be at most stride * 2 ** (number + 2).
            num_train_timesteps: Number of noise levels; the same for both networks.
            beta_schedule: Noise schedule, by diffusers' name; the paper's is the cosine, ``squaredcos_cap_v2``.
            learning_rate: The highest learning rate, reached after the warm-up.
            weight_decay: Weight decay of AdamW.
            warmup_steps: Steps in which the learning rate rises from zero.
            compile: Train the network compiled by ``torch.compile``; validation and pictures use it uncompiled.
            predicts: What the network predicts.

        Raises:
            ValueError: If horizon or widths do not fit, or the optimizer's numbers are out of range.
        """
        super().__init__()
        _check_options(num_train_timesteps, learning_rate, weight_decay, warmup_steps, stride)
        self.save_hyperparameters(ignore="predicts")
        channels = folded_channels(transition_dim, action_dim, stride)
        self.network = self.make_network(channels, horizon, widths, stride)
        try:
            self.noise_scheduler = make_noise_scheduler(num_train_timesteps, beta_schedule, predicts)
        except NotImplementedError as error:  # diffusers' word for a name that it does not know
            raise ValueError(
                f"model.init_args.beta_schedule is {beta_schedule!r}: the name of a schedule of diffusers is needed, "
                "such as squaredcos_cap_v2 or linear"
            ) from error
        self.levels = num_train_timesteps
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.compile_network = compile
        self.compiled: Callable[[Tensor, Tensor], Any] | None = None
        self.accelerated = False
        self.action_dim, self.stride, self.folded = action_dim, stride, (horizon // stride, channels)
        for name, initial in (
            ("shift", torch.zeros(transition_dim)),
            ("scale", torch.ones(transition_dim)),
            ("action_low", torch.full((action_dim,), -math.inf)),
            ("action_high", torch.full((action_dim,), math.inf)),
            ("return_shift", torch.tensor(0.0)),
            ("return_scale", torch.tensor(1.0)),
        ):
            self.register_buffer(name, initial)

    @property
    def parts(self) -> "Sequence[TrajectoryModule]":
        """This module alone."""
        return [self]

    @abstractmethod
    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of the batch at uniformly drawn noise levels."""

    @abstractmethod
    def measure(self, batch: Batch) -> None:
        """Update ``validation_loss`` and ``metrics``."""

    def take_statistics(self, normalization: dict[str, Any]) -> None:
        """Copy the data module's statistics into the buffers."""
        for name in STATISTICS:
            values = normalization[name]
            if name.startswith("action_"):
                unbounded = math.inf if name == "action_high" else -math.inf
                values = [unbounded if value is None else value for value in values]
            getattr(self, name).copy_(torch.as_tensor(values))

    @property
    def normalization(self) -> dict[str, Any]:
        """The normaliser as plain numbers, as an exported folder holds it."""
        vectors = {name: getattr(self, name).tolist() for name in ("shift", "scale", "return_shift", "return_scale")}
        bounds = {
            name: [bound if math.isfinite(bound) else None for bound in getattr(self, name).tolist()]
            for name in ("action_low", "action_high")
        }
        return {"action_dim": self.action_dim, "stride": self.stride, **vectors, **bounds}

    def draw(self, batch: Batch, level: int | None = None) -> tuple[Tensor, Tensor]:
        """Return noise levels (B,) and noise (B, H, T), folded, which depend on the batch's seed alone.

        They are drawn for the whole global batch, of which each process takes the rows of its own windows: the number
        of processes changes nothing.

        Args:
            batch: The windows.
            level: One noise level for all windows, for validation; default: uniformly drawn levels.
        """
        draw, shape = batch.draw, self.folded
        # Each network and each validation level has a stream of its own.
        seed = (draw.seed + crc32(f"{self.loss_name} {level}".encode())) % 2**64
        generator = torch.Generator(self.device).manual_seed(seed)
        dtype, device = batch.trajectories.dtype, self.device
        noise = torch.randn(draw.total, *shape, generator=generator, dtype=dtype, device=device)
        if level is None:
            timesteps = torch.randint(self.levels, (draw.total,), generator=generator, device=device)
        else:
            timesteps = torch.full((draw.total,), level, device=device)
        return timesteps[draw.part :: draw.parts], noise[draw.part :: draw.parts]

    def noised(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Return trajectories (B, H, T) at the noise levels (B,), with the current observation pinned."""
        noised: Tensor = self.noise_scheduler.add_noise(clean, noise, timesteps)
        seen = slice(self.stride * self.action_dim, None)
        noised[:, 0, seen] = clean[:, 0, seen]
        return noised

    def normalise(self, batch: Batch) -> Tensor:
        """Return the batch's trajectories in normalised units, folded."""
        return fold((batch.trajectories - self.shift) / self.scale, self.stride, self.action_dim)

    def evaluate(self, trajectories: Tensor, timesteps: Tensor) -> Tensor:
        """Return the network's output, in the dtype of the trajectories: (B, T, H), or (B, 1) of a value function."""
        sample = trajectories.transpose(1, 2)
        plain = sample.device.type == "cpu" and sample.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if self.accelerated and plain:
            return forward(self.network, sample, timesteps)
        network = self.compiled if self.compiled is not None and self.training else self.network
        output: Tensor = network(sample, timesteps).sample
        return output.to(trajectories.dtype)

    def validation_levels(self) -> dict[str, int]:
        """Return the noise levels at which validation measures, by their names in the logs."""
        levels = torch.linspace(0, self.levels - 1, min(_VALIDATION_LEVELS, self.levels)).round().int().tolist()
        return {f"t{level:02d}": level for level in levels}


def _check_options(levels: int, learning_rate: float, weight_decay: float, warmup_steps: int, stride: int) -> None:
    """Refuse numbers with which nothing is learned, or the wrong thing."""
    if stride < 1:
        raise ValueError(f"model.init_args.stride is {stride}: it must be at least 1")
    if levels < 1:
        raise ValueError(f"model.init_args.num_train_timesteps is {levels}: it must be at least 1")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"model.init_args.learning_rate is {learning_rate}: it must be a finite number above 0")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"model.init_args.weight_decay is {weight_decay}: it must be a finite number, at least 0")
    if warmup_steps < 0:
        raise ValueError(f"model.init_args.warmup_steps is {warmup_steps}: it must be at least 0")
