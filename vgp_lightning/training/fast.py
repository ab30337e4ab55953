"""The planner's two networks in training on a CPU: to float32 rounding diffusers' result, in less time.

``forward`` computes what a ``UNet1DModel`` computes, from the network's own parameters, and each parameter gets its
gradient in its usual place. The layers are those of fast_layers.py: activations are (B, L, C), contiguous.

The result depends on the arguments and the number of threads alone, to the bit.
"""

import ctypes
import sys
from typing import Any, cast

import torch
from diffusers import UNet1DModel
from diffusers.models.resnet import ResidualTemporalBlock1D
from torch import Tensor, nn
from torch.nn import functional

from vgp_lightning.pipeline.acceleration import can_accelerate
from vgp_lightning.training.fast_layers import ConvolutionBlock, Downsampling, Upsampling

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
    return _apply(ConvolutionBlock, x, addend, *weights, *settings)


def _downsample(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    return _apply(Downsampling, x, convolution.weight, convolution.bias)


def _upsample(convolution: nn.ConvTranspose1d, x: Tensor) -> Tensor:
    return _apply(Upsampling, x, convolution.weight, convolution.bias)


def _apply(function: Any, *arguments: Any) -> Tensor:
    return cast(Tensor, function.apply(*arguments))
