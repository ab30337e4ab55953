"""The layers of the planner's networks in training on a CPU, with their gradients by hand.

Shapes: B trajectories, L time steps, C channels; activations are (B, L, C), contiguous. The algorithm is that of
``vgp_lightning/pipeline/fast_layers.py``:

* With P the inputs at Toom-Cook's points, U the taps there, and D the gradient of the products, the gradient of the
  taps at the points is D^T P, which the transposed transform turns into that of the five taps. The gradient of the
  inputs is a convolution with the transposed U.
* Intermediate results that are used within one layer lie in buffers that are kept: allocating and freeing megabytes at
  each layer would cost as much as the products.
* U is kept from the forward to the backward pass; P is computed again there: it is larger than the input.
"""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

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


def multiply(use: str, a: Tensor, b: Tensor) -> Tensor:
    """Return the batched product; it is valid until the next one of the same use."""
    return torch.bmm(a, b, out=_buffers.take(use, a.shape[0], a.shape[1], b.shape[2]))


@dataclass(frozen=True)
class _Matrices:
    """Toom-Cook's matrices, as ``Transforms`` of pipeline/fast_toomcook.py describes them, and their transposes."""

    spread: Tensor
    taps: Tensor
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
    points = multiply("points", spread.expand(len(x), -1, -1), x)
    return points.view(-1, matrices.points, channels).transpose(0, 1)


def _from_points(products: Tensor, gather: Tensor, batch: int, length: int) -> Tensor:
    out = torch.bmm(gather.expand(products.shape[1], -1, -1), products.transpose(0, 1))
    out = out.view(batch, -1, products.shape[2])
    return out if out.shape[1] == length else out[:, :length].contiguous()


def _taps_at_points(weight: Tensor, groups: int, length: int, matrices: _Matrices) -> Tensor:
    """Return the weight (out, in, 5) at the points: (points, out, in)."""
    if length == 1:  # here, and for the bias, see ConvolutionBlock of pipeline/fast_layers.py
        weight = without_mean(weight, groups)
    return torch.mm(matrices.taps, weight.reshape(-1, KERNEL).T).view(-1, *weight.shape[:2])


class ConvolutionBlock(torch.autograd.Function):
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
        """Return the output (B, L, out)."""
        batch, length, _ = x.shape
        matrices = _make_matrices(length)
        taps = _taps_at_points(weight, groups, length, matrices)
        points = _to_points(x, matrices.spread, matrices)
        products = multiply("products", points, taps.transpose(1, 2))
        products[0].add_(without_mean(bias, groups))
        y = as_image(_from_points(products, matrices.gather, batch, length))
        sizes = (batch, len(weight), length, groups)
        norm_weight = norm_weight.neg()  # negated output: mish takes the sigmoid of -x
        z, mean, rstd = torch.native_group_norm(y, norm_weight, norm_bias.neg(), *sizes, eps)
        if recorded:
            z, slope = mish_and_slope(z)
            ctx.save_for_backward(x, weight, y, mean, rstd, norm_weight, slope, taps)
            ctx.sizes, ctx.addend_shape = sizes, None if addend is None else addend.shape
        else:
            z = mish(z)
        out = as_sequence(z)
        return out if addend is None else out.add_(addend)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments for that of the output."""
        x, weight, y, mean, rstd, norm_weight, slope, taps = ctx.saved_tensors
        batch, out_channels, length, _ = ctx.sizes
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
            d_products = multiply("gradients", matrices.gather_transposed.expand(tiles, -1, -1), whole).transpose(0, 1)
        if of_weight:
            d_taps = multiply("taps", d_products.transpose(1, 2), points)  # (points, out, in)
            d_weight = torch.mm(d_taps.view(matrices.points, -1).T, matrices.taps).view_as(weight)
        if of_x:
            if matrices.spread_back is not None:
                d_products = _to_points(dy, matrices.spread_back, matrices)
            d_points = multiply("products", d_products, taps)
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


class Downsampling(torch.autograd.Function):
    """A convolution with a kernel of size 3 and stride 2, padded by one step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the output (B, (L + 1) // 2, C)."""
        windows = _cut(x, 3, 2, 1, (x.shape[1] + 1) // 2)
        weight = weight.transpose(1, 2).flatten(1)  # (out, taps * in)
        ctx.save_for_backward(windows, weight)
        ctx.shape = x.shape
        return functional.linear(windows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments for that of the output."""
        windows, weight = ctx.saved_tensors
        batch, length, channels = ctx.shape
        rows = gradient.flatten(0, 1)
        dx = d_weight = None
        if ctx.needs_input_grad[0]:
            dx = _lay((rows @ weight).view(batch, -1, 3, channels), 2, 1, length).contiguous()
        if ctx.needs_input_grad[1]:
            d_weight = (rows.T @ windows.flatten(0, 1)).view(-1, 3, channels).transpose(1, 2).contiguous()
        return dx, d_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


class Upsampling(torch.autograd.Function):
    """A transposed convolution with a kernel of size 4 and stride 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the output (B, 2 L, C)."""
        batch, length, _ = x.shape
        weight = weight.transpose(1, 2).flatten(1)  # (in, taps * out)
        ctx.save_for_backward(x, weight)
        return _lay((x.flatten(0, 1) @ weight).view(batch, length, 4, -1), 2, 1, 2 * length) + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments for that of the output."""
        x, weight = ctx.saved_tensors
        batch, length, channels = x.shape
        windows = _cut(gradient, 4, 2, 1, length).flatten(0, 1)
        dx = d_weight = None
        if ctx.needs_input_grad[0]:
            dx = (windows @ weight.T).view(batch, length, channels)
        if ctx.needs_input_grad[1]:
            d_weight = (x.flatten(0, 1).T @ windows).view(channels, 4, -1).transpose(1, 2).contiguous()
        return dx, d_weight, gradient.sum((0, 1)) if ctx.needs_input_grad[2] else None
