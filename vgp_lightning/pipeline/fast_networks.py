"""The planner's two networks on a CPU: to float32 rounding what diffusers computes, about twice as fast.

``FastDenoiser`` and ``FastValueFunction`` take over the weights of a ``UNet1DModel`` for one horizon. A time embedding
is computed once for each timestep.

Shapes: B trajectories, H steps at the top and L further down, T channels of a trajectory and C inside.
A row's result is the same to the bit whatever batch it is in.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from diffusers import UNet1DModel
from torch import nn

from .fast_layers import (
    GRAIN,
    ConvolutionBlock,
    Downsampling,
    Pointwise,
    Pullback,
    ResidualBlock,
    Upsampling,
    copy_weight,
)
from .fast_toomcook import mish, mish_and_slope, pull_back_mish

# With fewer rows BLAS takes other kernels, which round differently; most rows are needed where a product has its
# weights transposed.
_ROWS, _GRADIENT_ROWS = 8, 16


class _FastNetwork:
    """What both networks share: the time embeddings, and batches of few rows."""

    def __init__(self, network: UNet1DModel, horizon: int) -> None:
        self.horizon, self.channels = horizon, network.config["in_channels"]
        # Copies: a later change of the network's weights changes nothing here, and the network is not kept alive.
        self._time_modules = deepcopy((network.time_proj, network.time_mlp))
        self._embedders: list[tuple[nn.Module, nn.Module]] = []  # of the residual blocks, in the order of their use
        self._embeddings: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def _take(self, blocks: Sequence[Any], length: int) -> list[ResidualBlock]:
        self._embedders += [deepcopy((block.time_emb_act, block.time_emb)) for block in blocks]
        return [ResidualBlock(block, length) for block in blocks]

    def _embed(self, timestep: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the timestep's embedding (1, C) and the bias (C,) that it is in each residual block."""
        if timestep not in self._embeddings:
            project, embed = self._time_modules
            embedding = embed(project(torch.tensor([timestep])))
            self._embeddings[timestep] = embedding, [layer(act(embedding))[0] for act, layer in self._embedders]
        return self._embeddings[timestep]

    def _evaluate(
        self,
        function: Callable[[torch.Tensor, int], torch.Tensor],
        trajectories: torch.Tensor,
        timestep: int,
        rows: int,
    ) -> torch.Tensor:
        """Return a function of the trajectories (B, H, T), recording nothing, whatever mode torch is in.

        Args:
            function: Of trajectories (B', H, T') whose channels and number are padded, and the timestep.
            trajectories: (B, H, T).
            timestep: The noise level.
            rows: What the number of trajectories is made a multiple of: BLAS takes another kernel for fewer rows.
        """
        batch, horizon, channels = trajectories.shape
        if horizon != self.horizon:
            raise ValueError(f"trajectories have {horizon} steps, but this network was prepared for {self.horizon}")
        with torch.inference_mode():  # half the overhead of no_grad
            x = nn.functional.pad(trajectories, (0, -channels % GRAIN)).contiguous()
            if missing := -batch % rows:
                x = torch.cat((x, x[-1:].expand(missing, -1, -1)))
            out = function(x, timestep)[:batch]
        return out.clone()  # an ordinary tensor, where the caller is not in inference mode


class FastDenoiser(_FastNetwork):
    """The denoiser, for one horizon, with the weights of this moment."""

    def __init__(self, network: UNet1DModel, horizon: int) -> None:
        super().__init__(network, horizon)
        length = horizon
        self._downs: list[tuple[list[ResidualBlock], Downsampling | None]] = []
        for down in network.down_blocks:
            blocks = self._take(down.resnets, length)
            self._downs.append((blocks, None if down.downsample is None else Downsampling(down.downsample.conv)))
            length = length if down.downsample is None else (length + 1) // 2
        self._middle = self._take(network.mid_block.resnets, length)
        self._ups: list[tuple[list[ResidualBlock], Upsampling]] = []
        for up in network.up_blocks:
            blocks = self._take(up.resnets, length)
            self._ups.append((blocks, Upsampling(up.upsample.conv)))
            length *= 2
        out = network.out_block
        self._last = ConvolutionBlock(out.final_conv1d_1, out.final_conv1d_gn, length)
        self._out = Pointwise(out.final_conv1d_2)

    def __call__(self, trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
        """Return the network's output (B, H, T) for trajectories (B, H, T) of a noise level."""
        return self._evaluate(self._denoise, trajectories, timestep, _ROWS)

    def _denoise(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
        biases = iter(self._embed(timestep)[1])
        kept: list[torch.Tensor] = []
        for blocks, downsampling in self._downs:
            x = _run(blocks, x, biases)
            kept.append(x)
            x = x if downsampling is None else downsampling(x)
        x = _run(self._middle, x, biases)
        for blocks, upsampling in self._ups:
            x = upsampling(_run(blocks, torch.cat((x, kept.pop()), dim=2), biases))
        return self._out(self._last(x))[..., : self.channels]


def _run(blocks: list[ResidualBlock], x: torch.Tensor, biases: Iterator[torch.Tensor]) -> torch.Tensor:
    for block in blocks:
        x = block(x, next(biases))
    return x


class FastValueFunction(_FastNetwork):
    """The value function and its gradient, for one horizon, with the weights of this moment."""

    def __init__(self, network: UNet1DModel, horizon: int) -> None:
        super().__init__(network, horizon)
        middle = network.mid_block
        levels = [(down.resnets, down.downsample) for down in network.down_blocks]
        self._layers: list[ResidualBlock | Downsampling] = []
        length = horizon
        for blocks, downsample in (*levels, ([middle.res1], middle.down1), ([middle.res2], middle.down2)):
            self._layers += [*self._take(blocks, length), Downsampling(downsample.conv)]
            length = (length + 1) // 2
        if length != 1:
            raise ValueError(f"horizon {horizon} leaves {length} steps at the end of the value function: it needs one")
        hidden, _, out = network.out_block.final_block
        channels = hidden.in_features - network.time_mlp.linear_2.out_features
        # Negated, as mish takes it.
        self._hidden, self._hidden_of_time = (-copy_weight(hidden.weight.T)).tensor_split([channels])
        self._hidden_bias = -copy_weight(hidden.bias)
        self._out, self._out_bias = copy_weight(out.weight[0]), copy_weight(out.bias)

    def __call__(self, trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
        """Return the predicted value (B,) of trajectories (B, H, T) of a noise level."""
        return self._evaluate(self._predict, trajectories, timestep, _ROWS)

    def gradient(self, trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
        """Return the gradient (B, H, T) of the predicted values by the trajectories (B, H, T)."""
        return self._evaluate(self._differentiate, trajectories, timestep, _GRADIENT_ROWS)

    def _predict(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
        return mish(self._run(x, timestep, None)).mul_(self._out).sum(1).add_(self._out_bias)

    def _differentiate(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
        pullbacks: list[Pullback] = []
        _, slope = mish_and_slope(self._run(x, timestep, pullbacks))
        gradient = (pull_back_mish(self._out, slope) @ self._hidden.T).unsqueeze(1)
        for pull_back in reversed(pullbacks):
            gradient = pull_back(gradient)
        return gradient[..., : self.channels]

    def _run(self, x: torch.Tensor, timestep: int, pullbacks: list[Pullback] | None) -> torch.Tensor:
        """Return the negated input of the last activation."""
        embedding, biases = self._embed(timestep)
        remaining = iter(biases)
        for layer in self._layers:
            x = layer(x, next(remaining), pullbacks) if isinstance(layer, ResidualBlock) else layer(x, pullbacks)
        bias = torch.addmm(self._hidden_bias, embedding, self._hidden_of_time)
        return torch.addmm(bias, x.squeeze(1), self._hidden)
