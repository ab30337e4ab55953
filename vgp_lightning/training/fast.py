"""The planner's two networks in training on a CPU: to float32 rounding diffusers' result, in less time.

``forward`` computes what a ``UNet1DModel`` computes, from the network's own parameters, and each parameter gets its
gradient in its usual place. The algorithm and the shapes are those of ``vgp_lightning/pipeline/fast_networks.py``:
activations are (B, L, C), contiguous. Gradients are computed by hand:

* With P the inputs at Toom-Cook's points, U the taps there, and D the gradient of the products, the gradient of the
  taps at the points is D^T P, which the transposed transform turns into that of the five taps. The gradient of the
  inputs is a convolution with the transposed U.
* Intermediate results that are used within one layer lie in buffers that are kept: allocating and freeing megabytes at
  each layer would cost as much as the products.
* P and U are computed again in the backward pass: they are larger than the input and the weight.

The result depends on the arguments and the number of threads alone, to the bit.
"""

import ctypes
import sys
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from diffusers import UNet1DModel
from diffusers.models.resnet import ResidualTemporalBlock1D
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vgp_lightning.pipeline.acceleration import can_accelerate
from vgp_lightning.pipeline.fast_layers import as_image, as_sequence, without_mean
from vgp_lightning.pipeline.fast_toomcook import (
    KERNEL,
    SPAN_TILES,
    TILE,
    make_transforms,
    mish,
    mish_and_slope,
    pull_back_mish,
)

_LONGEST = 32  # horizon


def can_forward(network: UNet1DModel, horizon: int) -> bool:
    """Return whether ``forward`` can replace the network, and is faster at this horizon with as many threads.

    It can for an unchanged network of a recipe, without hooks, in float32 on the CPU. A horizon above 32 is cut into
    pieces. With two threads their copies take longer than the products save: 0.84 times as fast as diffusers at
    H = 160; with one thread 1.22 times.
    """
    return (
        (horizon <= _LONGEST or torch.get_num_threads() == 1)
        and can_accelerate(network)
        and not any(_has_backward_hook(module) for module in network.modules())
    )


def _has_backward_hook(module: nn.Module) -> bool:
    """Return whether a module's gradients are watched or changed; torch 2.13 has no public name that tells."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for as long as the process lives; another C library is left alone.

    A step frees tens of megabytes that the next one allocates: getting them from the system page by page costs a tenth
    of the step, with diffusers' networks too. It affects the whole process: only a program should call it, no library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, the largest accepted value
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def forward(network: UNet1DModel, sample: Tensor, timesteps: Tensor) -> Tensor:
    """Return ``network(sample, timesteps).sample``, for a network for which ``can_forward`` is true.

    Args:
        network: The denoiser or the value function.
        sample: The trajectories (B, T, L), channels first.
        timesteps: Their noise levels (B,).

    Returns:
        The output (B, T, L), or (B, 1) of a value function.
    """
    if torch.is_autocast_enabled("cpu"):  # the user wants lower precision
        return cast(Tensor, network(sample, timesteps).sample)
    middle = network.mid_block
    predicts_value = not hasattr(middle, "resnets")
    blocks = [block for level in network.down_blocks for block in level.resnets]
    blocks += [middle.res1, middle.res2] if predicts_value else middle.resnets
    blocks += [block for level in network.up_blocks for block in level.resnets]
    embedding = network.time_mlp(network.time_proj(timesteps))
    biases = iter(_embed(embedding, blocks))

    x = sample.transpose(1, 2).contiguous()
    kept: list[Tensor] = []
    for level in network.down_blocks:
        for block in level.resnets:
            x = _run(block, x, next(biases))
        kept.append(x)
        x = x if level.downsample is None else _downsample(level.downsample.conv, x)
    if predicts_value:
        x = _downsample(middle.down1.conv, _run(middle.res1, x, next(biases)))
        x = _downsample(middle.down2.conv, _run(middle.res2, x, next(biases)))
        hidden, activation, out = network.out_block.final_block
        return cast(Tensor, out(activation(hidden(torch.cat((x.flatten(1), embedding), dim=1)))))
    for block in middle.resnets:
        x = _run(block, x, next(biases))
    for level in network.up_blocks:
        x = torch.cat((x, kept.pop()), dim=2)
        for block in level.resnets:
            x = _run(block, x, next(biases))
        x = _upsample(level.upsample.conv, x)
    out = network.out_block
    return _point(out.final_conv1d_2, _convolve(out.final_conv1d_1, out.final_conv1d_gn, x)).transpose(1, 2)


def _embed(embedding: Tensor, blocks: list[ResidualTemporalBlock1D]) -> tuple[Tensor, ...]:
    """Return the bias (B, 1, C) that the time embedding adds in each block, all from one product."""
    layers = [block.time_emb for block in blocks]
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    together = functional.linear(functional.mish(embedding), weight, bias).unsqueeze(1)
    return torch.split(together, [layer.out_features for layer in layers], dim=2)


def _run(block: ResidualTemporalBlock1D, x: Tensor, time_bias: Tensor) -> Tensor:
    inner = _convolve(block.conv_in.conv1d, block.conv_in.group_norm, x, time_bias)
    short_cut = x if isinstance(block.residual_conv, nn.Identity) else _point(block.residual_conv, x)
    return _convolve(block.conv_out.conv1d, block.conv_out.group_norm, inner, short_cut)


def _point(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """Return a convolution with a kernel of size 1."""
    return functional.linear(x, convolution.weight.squeeze(2), convolution.bias)


def _convolve(convolution: nn.Conv1d, norm: nn.GroupNorm, x: Tensor, addend: Tensor | None = None) -> Tensor:
    weights = (convolution.weight, convolution.bias, norm.weight, norm.bias)
    settings = (norm.num_groups, norm.eps, torch.is_grad_enabled())
    return _apply(_ConvolutionBlock, x, addend, *weights, *settings)


def _downsample(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    return _apply(_Downsampling, x, convolution.weight, convolution.bias)


def _upsample(convolution: nn.ConvTranspose1d, x: Tensor) -> Tensor:
    return _apply(_Upsampling, x, convolution.weight, convolution.bias)


def _apply(function: Any, *arguments: Any) -> Tensor:
    return cast(Tensor, function.apply(*arguments))


class _Buffers(threading.local):
    """Buffers that are kept, by use; each thread has its own."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}
        self._views: dict[tuple[str, int, int, int], Tensor] = {}  # of the memory; making one takes time

    def take(self, use: str, a: int, b: int, c: int) -> Tensor:
        view = self._views.get((use, a, b, c))
        return self._make(use, a, b, c) if view is None else view

    def _make(self, use: str, a: int, b: int, c: int) -> Tensor:
        count = a * b * c
        with torch.inference_mode(False):  # an inference tensor could not be written to in training
            if use not in self._memory or len(self._memory[use]) < count:
                self._memory[use] = torch.empty(count, dtype=torch.float32)
                self._views = {key: view for key, view in self._views.items() if key[0] != use}
            view = self._views[use, a, b, c] = self._memory[use][:count].view(a, b, c)
        return view


_buffers = _Buffers()


def _multiply(use: str, a: Tensor, b: Tensor) -> Tensor:
    """Return the batched product; it is valid until the next one of the same use."""
    return torch.bmm(a, b, out=_buffers.take(use, a.shape[0], a.shape[1], b.shape[2]))


@dataclass(frozen=True)
class _Matrices:
    """Toom-Cook's matrices, as ``Transforms`` of pipeline/fast_networks.py describes them, and their transposes."""

    spread: Tensor
    taps: Tensor
    taps_transposed: Tensor
    gather: Tensor
    gather_transposed: Tensor
    spread_back: Tensor | None  # None: the gradient of the products needs no transform
    gather_back: Tensor
    points: int
    spans: int


@cache
def _make_matrices(length: int) -> _Matrices:
    with torch.inference_mode(False):
        made = make_transforms(length)
        taps = made.taps.float()
        # In a single tile the transposed transforms give the gradient, as the transforms of reversed taps do.
        single = length <= TILE
        return _Matrices(
            spread=made.spread,
            taps=taps,
            taps_transposed=taps.T.contiguous(),
            gather=made.gather,
            gather_transposed=made.gather.T.contiguous(),
            spread_back=None if single else made.spread_back,
            gather_back=made.spread.T.contiguous() if single else made.gather_back,
            points=len(taps),
            spans=made.spans,
        )


def _to_points(x: Tensor, spread: Tensor, matrices: _Matrices) -> Tensor:
    """Return x (B, L, C) at the points: (points, B * tiles, C)."""
    batch, _, channels = x.shape
    if matrices.spans > 1:
        step, edge = SPAN_TILES * TILE, KERNEL // 2
        x = _cut(x, step + 2 * edge, step, edge, matrices.spans).view(batch * matrices.spans, -1, channels)
    points = _multiply("points", spread.expand(len(x), -1, -1), x)
    return points.view(-1, matrices.points, channels).transpose(0, 1)


def _from_points(products: Tensor, gather: Tensor, batch: int, length: int) -> Tensor:
    out = torch.bmm(gather.expand(products.shape[1], -1, -1), products.transpose(0, 1))
    out = out.view(batch, -1, products.shape[2])
    return out if out.shape[1] == length else out[:, :length].contiguous()


def _taps_at_points(weight: Tensor, groups: int, length: int, matrices: _Matrices) -> Tensor:
    """Return the weight (out, in, 5) at the points: (out, points, in)."""
    if length == 1:  # here, and for the bias, see _ConvolutionBlock of pipeline/fast_networks.py
        weight = without_mean(weight, groups)
    # One product per output: far faster than a single one, whose inner dimension is only five.
    return _multiply("taps", matrices.taps.expand(len(weight), -1, -1), weight.transpose(1, 2))


class _ConvolutionBlock(torch.autograd.Function):
    """Convolution, GroupNorm and Mish, plus an addend: (B, L, out), or (B, 1, out) for all steps."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        addend: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        groups: int,
        eps: float,
        recorded: bool,
    ) -> Tensor:
        batch, length, _ = x.shape
        matrices = _make_matrices(length)
        taps = _taps_at_points(weight, groups, length, matrices)
        points = _to_points(x, matrices.spread, matrices)
        products = _multiply("products", points, taps.permute(1, 2, 0))
        products[0].add_(without_mean(bias, groups))
        y = as_image(_from_points(products, matrices.gather, batch, length))
        sizes = (batch, len(weight), length, groups)
        norm_weight = norm_weight.neg()  # negated output: mish takes the sigmoid of -x
        z, mean, rstd = torch.native_group_norm(y, norm_weight, norm_bias.neg(), *sizes, eps)
        if recorded:
            z, slope = mish_and_slope(z)
            ctx.save_for_backward(x, weight, y, mean, rstd, norm_weight, slope)
            ctx.sizes, ctx.addend_shape = sizes, None if addend is None else addend.shape
        else:
            z = mish(z)
        out = as_sequence(z)
        return out if addend is None else out.add_(addend)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, mean, rstd, norm_weight, slope = ctx.saved_tensors
        batch, out_channels, length, groups = ctx.sizes
        matrices = _make_matrices(length)
        of_x, of_addend, of_weight, of_bias, of_norm_weight, of_norm_bias = ctx.needs_input_grad[:6]
        gradient = gradient.contiguous()
        d_addend = gradient.sum_to_size(ctx.addend_shape) if of_addend else None
        dy, d_norm_weight, d_norm_bias = torch.ops.aten.native_group_norm_backward(
            pull_back_mish(as_image(gradient), slope),
            *(y, mean, rstd, norm_weight, *ctx.sizes),
            [True, True, True],  # with a False, torch 2.13 writes to gradients that it has not allocated
        )
        dx = d_weight = d_bias = None
        if of_x or of_weight or of_bias:
            dy = as_sequence(dy)
            d_bias = dy.sum((0, 1)) if of_bias else None
        if of_x or of_weight:
            points = _to_points(x, matrices.spread, matrices)
            tiles = points.shape[1]
            steps = tiles // batch * matrices.gather.shape[0]
            whole = dy if steps == length else functional.pad(dy, (0, 0, 0, steps - length))
            whole = whole.reshape(tiles, -1, out_channels)
            d_products = _multiply("gradients", matrices.gather_transposed.expand(tiles, -1, -1), whole).transpose(0, 1)
        if of_weight:
            d_taps = _multiply("taps", d_products.transpose(1, 2), points)  # (points, out, in)
            five = matrices.taps_transposed.expand(out_channels, -1, -1)
            d_weight = _multiply("five", five, d_taps.transpose(0, 1)).transpose(1, 2).contiguous()
        if of_x:
            taps = _taps_at_points(weight, groups, length, matrices)
            if matrices.spread_back is not None:
                d_products = _to_points(dy, matrices.spread_back, matrices)
            d_points = _multiply("products", d_products, taps.transpose(0, 1))
            dx = _from_points(d_points, matrices.gather_back, batch, length)
        d_norm_weight = d_norm_weight.neg_() if of_norm_weight else None
        d_norm_bias = d_norm_bias.neg_() if of_norm_bias else None
        return dx, d_addend, d_weight, d_bias, d_norm_weight, d_norm_bias, None, None, None


def _cut(x: Tensor, size: int, step: int, edge: int, count: int) -> Tensor:
    """Return windows (B, count, size * C) of x (B, L, C); the first starts ``edge`` zeros before x."""
    batch, length, channels = x.shape
    x = functional.pad(x, (0, 0, edge, (count - 1) * step + size - edge - length))
    return x.as_strided((batch, count, size * channels), (x.stride(0), step * channels, 1)).contiguous()


def _lay(windows: Tensor, step: int, edge: int, length: int) -> Tensor:
    """Return the sum (B, L, C) of windows (B, count, size, C), placed where ``_cut`` takes them; size <= 2 * step."""
    batch, count, size, channels = windows.shape
    out = windows.new_zeros(batch, count + 1, step, channels)
    out[:, :-1] = windows[:, :, :step]
    out[:, 1:, : size - step] += windows[:, :, step:]
    return out.view(batch, -1, channels)[:, edge : edge + length]


class _Downsampling(torch.autograd.Function):
    """A convolution with a kernel of size 3 and stride 2, padded by one step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        windows = _cut(x, 3, 2, 1, (x.shape[1] + 1) // 2)
        weight = weight.transpose(1, 2).flatten(1)  # (out, taps * in)
        ctx.save_for_backward(windows, weight)
        ctx.shape = x.shape
        return functional.linear(windows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight = ctx.saved_tensors
        batch, length, channels = ctx.shape
        rows = gradient.flatten(0, 1)
        dx = d_weight = None
        if ctx.needs_input_grad[0]:
            dx = _lay((rows @ weight).view(batch, -1, 3, channels), 2, 1, length).contiguous()
        if ctx.needs_input_grad[1]:
            d_weight = (rows.T @ windows.flatten(0, 1)).view(-1, 3, channels).transpose(1, 2).contiguous()
        return dx, d_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


class _Upsampling(torch.autograd.Function):
    """A transposed convolution with a kernel of size 4 and stride 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        batch, length, _ = x.shape
        weight = weight.transpose(1, 2).flatten(1)  # (in, taps * out)
        ctx.save_for_backward(x, weight)
        return _lay((x.flatten(0, 1) @ weight).view(batch, length, 4, -1), 2, 1, 2 * length) + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        batch, length, channels = x.shape
        windows = _cut(gradient, 4, 2, 1, length).flatten(0, 1)
        dx = d_weight = None
        if ctx.needs_input_grad[0]:
            dx = (windows @ weight.T).view(batch, length, channels)
        if ctx.needs_input_grad[1]:
            d_weight = (x.flatten(0, 1).T @ windows).view(channels, 4, -1).transpose(1, 2).contiguous()
        return dx, d_weight, gradient.sum((0, 1)) if ctx.needs_input_grad[2] else None
