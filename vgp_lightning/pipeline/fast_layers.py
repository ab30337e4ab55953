"""The layers of the paper's networks for inference on a CPU, with pullbacks by hand in place of a recorded graph.

Shapes: B trajectories, L time steps, C channels. Activations are (B, L, C), contiguous: a matrix product sees B * L
rows, a group of channels is contiguous, and GroupNorm (Wu & He 2018) is torch's own for channels-last images.

A pullback takes the gradient of a layer's output to the gradient of its input. Layers that are asked for one append it
to a list.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .fast_toomcook import KERNEL, SPAN_TILES, TILE, make_transforms, mish, mish_and_slope, pull_back_mish

# Rows of activations begin at multiples of 16 bytes, whatever the number of their channels: a BLAS kernel is chosen by
# how a row is aligned, and kernels round differently. Hence the channels of a trajectory are padded to multiples of 4.
GRAIN = 4
Pullback = Callable[[torch.Tensor], torch.Tensor]


def copy_weight(weight: torch.Tensor | None) -> torch.Tensor:
    """Return a contiguous copy of a layer's weight or bias.

    Raises:
        ValueError: If there is none; the layers of the paper's networks have all of them.
    """
    if weight is None:
        raise ValueError("a layer has no bias: this network is none of the paper's")
    return weight.detach().clone(memory_format=torch.contiguous_format)


def pad_channels(weight: torch.Tensor, dim: int) -> torch.Tensor:
    """Return a weight with zeros in a dimension of channels, up to the next multiple of ``GRAIN``."""
    missing = -weight.shape[dim] % GRAIN
    if missing == 0:
        return weight
    shape = list(weight.shape)
    shape[dim] = missing
    return torch.cat((weight, weight.new_zeros(shape)), dim=dim)


class Convolution:
    """A convolution over time of 5 taps and as many outputs as inputs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, length: int) -> None:
        self.transforms = make_transforms(length)
        weight = torch.einsum("pk,oik->pio", self.transforms.taps, weight)
        self.weight = weight.float().contiguous()  # (points, in, out)
        self.weight_back = self.weight.transpose(1, 2)
        self.bias = bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs (B, L, out) of the inputs (B, L, in)."""
        return self._convolve(x, self.transforms.spread, self.weight, self.transforms.gather, self.bias)

    def pull_back(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient (B, L, in) of the inputs for that of the outputs (B, L, out)."""
        return self._convolve(gradient, self.transforms.spread_back, self.weight_back, self.transforms.gather_back)

    def _convolve(
        self,
        x: torch.Tensor,
        spread: torch.Tensor,
        weight: torch.Tensor,
        gather: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        batch, length, channels = x.shape
        spans = self.transforms.spans
        if spans > 1:  # a dense matrix over all of a long trajectory would be mostly zeros
            step, edge = SPAN_TILES * TILE, KERNEL // 2
            x = nn.functional.pad(x, (0, 0, edge, spans * step - length + edge))
            x = x.unfold(1, step + 2 * edge, step).transpose(2, 3).reshape(batch * spans, -1, channels)
        # as_strided, here and below, stands for views, transpositions and permutations: each is a call.
        count, _, out_channels = weight.shape
        points = torch.bmm(spread.expand(len(x), -1, -1), x)  # (B, tiles * points, in)
        tiles = points.shape[0] * points.shape[1] // count
        points = points.as_strided((count, tiles, channels), (channels, count * channels, 1))
        products = torch.bmm(points, weight)  # (points, B * tiles, out)
        if bias is not None:
            products.select(0, 0).add_(bias)
        outputs = torch.bmm(gather.expand(tiles, -1, -1), products.transpose(0, 1)).view(batch, -1, out_channels)
        return outputs if outputs.shape[1] == length else outputs[:, :length].contiguous()


class ConvolutionBlock:
    """Convolution, GroupNorm and Mish."""

    def __init__(self, convolution: nn.Conv1d, norm: nn.GroupNorm, length: int) -> None:
        self.groups, self.eps = norm.num_groups, norm.eps
        weight = pad_channels(copy_weight(convolution.weight), dim=1).double()
        bias = copy_weight(convolution.bias).double()
        # torch takes the variance as E[y^2] - E[y]^2, which loses what a large mean leaves. The norm does not see what
        # a group's channels share: their mean bias need not be there, nor, in a single step, their mean weights.
        self.convolution = Convolution(
            without_mean(weight, self.groups) if length == 1 else weight, without_mean(bias, self.groups), length
        )
        # The norm's output is negated because that is what mish's sigmoid takes.
        self.weight, self.bias = -copy_weight(norm.weight), -copy_weight(norm.bias)

    def __call__(self, x: torch.Tensor, pullbacks: list[Pullback] | None = None) -> torch.Tensor:
        """Return the outputs (B, L, out) of the inputs (B, L, in)."""
        y = as_image(self.convolution(x))
        batch, channels, length, _ = y.shape
        sizes = (batch, channels, length, self.groups)
        z, mean, rstd = torch.native_group_norm(y, self.weight, self.bias, *sizes, self.eps)
        if pullbacks is None:
            return as_sequence(mish(z))
        out, slope = mish_and_slope(z)

        def pull_back(gradient: torch.Tensor) -> torch.Tensor:
            gradient = torch.ops.aten.native_group_norm_backward(
                pull_back_mish(as_image(gradient), slope), y, mean, rstd, self.weight, *sizes, [True, False, False]
            )[0]
            return self.convolution.pull_back(as_sequence(gradient))

        pullbacks.append(pull_back)
        return as_sequence(out)


def without_mean(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the weight or bias (out, ...) less its mean over each group of outputs."""
    grouped = weight.view(groups, -1, *weight.shape[1:])
    return (grouped - grouped.mean(1, keepdim=True)).view_as(weight)


def as_image(x: torch.Tensor) -> torch.Tensor:
    """Return (B, L, C) as (B, C, L, 1) in channels-last memory: the form for which torch's GroupNorm is fastest."""
    batch, length, channels = x.shape
    return x.as_strided((batch, channels, length, 1), (length * channels, 1, channels, channels))


def as_sequence(x: torch.Tensor) -> torch.Tensor:
    """Return what ``as_image`` was given."""
    batch, channels, length, _ = x.shape
    return x.as_strided((batch, length, channels), (length * channels, channels, 1))


class ResidualBlock:
    """diffusers' ResidualTemporalBlock1D: two convolution blocks, the time embedding between them, and a short cut."""

    def __init__(self, block: Any, length: int) -> None:
        self.first = ConvolutionBlock(block.conv_in.conv1d, block.conv_in.group_norm, length)
        self.second = ConvolutionBlock(block.conv_out.conv1d, block.conv_out.group_norm, length)
        self.short_cut = None if isinstance(block.residual_conv, nn.Identity) else Pointwise(block.residual_conv)

    def __call__(
        self, x: torch.Tensor, time_bias: torch.Tensor, pullbacks: list[Pullback] | None = None
    ) -> torch.Tensor:
        """Return the outputs (B, L, out) of the inputs (B, L, in) and the time embedding's bias (C,)."""
        inner: list[Pullback] | None = None if pullbacks is None else []
        out = self.second(self.first(x, inner).add_(time_bias), inner)
        out = out.add_(x) if self.short_cut is None else self.short_cut.add_to(out, x)
        if pullbacks is not None and inner is not None:
            first, second = inner

            def pull_back(gradient: torch.Tensor) -> torch.Tensor:
                below = first(second(gradient))
                if self.short_cut is None:
                    return below.add_(gradient)
                return self.short_cut.add_pulled_back_to(below, gradient)

            pullbacks.append(pull_back)
        return out


class Pointwise:
    """A convolution of one tap: a matrix product."""

    def __init__(self, convolution: nn.Conv1d) -> None:
        weight = copy_weight(convolution.weight[:, :, 0].T)  # (in, out)
        self.weight = pad_channels(pad_channels(weight, dim=0), dim=1)
        self.bias = pad_channels(copy_weight(convolution.bias), dim=0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs (B, L, out) of the inputs (B, L, in)."""
        return torch.addmm(self.bias, x.flatten(0, 1), self.weight).view(*x.shape[:2], -1)

    def add_to(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return ``out`` (B, L, out), to which the outputs of the inputs (B, L, in) have been added in place."""
        out.add_(self.bias).flatten(0, 1).addmm_(x.flatten(0, 1), self.weight)
        return out

    def add_pulled_back_to(self, out: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return ``out`` (B, L, in), to which the gradient of the inputs has been added in place."""
        out.flatten(0, 1).addmm_(gradient.flatten(0, 1), self.weight.T)
        return out


class Downsampling:
    """A convolution of three taps and stride 2, padded by one step: one product of windows."""

    def __init__(self, convolution: nn.Conv1d) -> None:
        self.weight = copy_weight(convolution.weight.permute(2, 1, 0).flatten(0, 1))  # (taps * in, out)
        self.bias = copy_weight(convolution.bias)

    def __call__(self, x: torch.Tensor, pullbacks: list[Pullback] | None = None) -> torch.Tensor:
        """Return the outputs (B, (L + 1) // 2, C) of the inputs (B, L, C)."""
        batch, length, channels = x.shape
        windows = nn.functional.pad(x, (0, 0, 1, 1)).unfold(1, 3, 2).transpose(2, 3).reshape(-1, 3 * channels)

        def pull_back(gradient: torch.Tensor) -> torch.Tensor:
            parts = (gradient.flatten(0, 1) @ self.weight.T).view(batch, -1, 3, channels)
            below = gradient.new_empty(batch, length, channels)
            below[:, ::2] = parts[:, :, 1]
            below[:, 1::2] = parts[:, : length // 2, 2]
            below[:, 1::2][:, : parts.shape[1] - 1] += parts[:, 1:, 0]
            return below

        if pullbacks is not None:
            pullbacks.append(pull_back)
        return torch.addmm(self.bias, windows, self.weight).view(batch, -1, channels)


class Upsampling:
    """A transposed convolution of four taps and stride 2: an input adds to its own two outputs and one on each side."""

    def __init__(self, convolution: nn.ConvTranspose1d) -> None:
        self.weight = copy_weight(convolution.weight[:, :, [1, 2, 3, 0]].transpose(1, 2).flatten(1))  # (in, taps * out)
        self.bias = copy_weight(convolution.bias).repeat(2)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs (B, 2 L, C) of the inputs (B, L, C)."""
        batch, length, channels = x.shape
        parts = (x.flatten(0, 1) @ self.weight).view(batch, length, -1)
        out = parts[:, :, : 2 * channels] + self.bias
        out[:, 1:, :channels] += parts[:, :-1, 2 * channels : 3 * channels]
        out[:, :-1, channels:] += parts[:, 1:, 3 * channels :]
        return out.view(batch, 2 * length, channels)
