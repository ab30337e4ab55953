"""The layers of the networks in the form of a program: matrix products, which ONNX Runtime evaluates fast.

diffusers' networks convolve short sequences. ONNX Runtime evaluates a convolution for each trajectory by itself, and
Mish by functions that it does not vectorise. The gradient of these layers consists of products too, so that value
guidance can be exported.

Shapes: B trajectories, C channels, L time steps; (B, C, L) as in diffusers.
"""

from copy import deepcopy
from typing import Any

import torch
from diffusers import UNet1DModel
from torch import nn


class ConvolutionProduct(nn.Module):
    """A convolution over a known number of time steps: the product of its windows with its weights."""

    weight: torch.Tensor
    bias: torch.Tensor
    windows: torch.Tensor | None

    def __init__(self, convolution: nn.Conv1d, length: int) -> None:
        """Take over the weights.

        Args:
            convolution: Without dilation or groups, padded by zeros.
            length: L of its inputs.
        """
        super().__init__()
        (kernel,), (stride,), padding = convolution.kernel_size, convolution.stride, int(convolution.padding[0])
        self.steps = (length + 2 * padding - kernel) // stride + 1
        starts = [step * stride - padding for step in range(self.steps)]
        # Taps that meet nothing but the padding are left out.
        taps = [tap for tap in range(kernel) if any(0 <= start + tap < length for start in starts)]
        first, last = starts[0] + taps[0], starts[-1] + taps[-1]
        self.edges = (max(0, -first), max(0, last - length + 1))
        index = [[start + tap + self.edges[0] for tap in taps] for start in starts]
        weight = convolution.weight.detach()[:, :, taps].permute(2, 1, 0).flatten(0, 1)  # (taps * in, out)
        bias = convolution.bias.detach() if convolution.bias is not None else weight.new_zeros(weight.shape[1])
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias.clone())
        # A window of one step is the step itself.
        windows = None if index == [[step] for step in range(length)] else torch.tensor(index).flatten()
        self.register_buffer("windows", windows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs (B, out, L') of the inputs (B, in, L)."""
        steps: Any = x.transpose(1, 2)
        if self.edges != (0, 0):
            steps = nn.functional.pad(steps, (0, 0, *self.edges))
        if self.windows is not None:
            steps = steps.index_select(1, self.windows)
        taken, out = self.weight.shape
        products = torch.addmm(self.bias, steps.reshape(-1, taken), self.weight)
        return products.reshape(-1, self.steps, out).transpose(1, 2)


class SigmoidMish(nn.Module):
    """Mish (Misra 2019) by one sigmoid: with s = sigmoid(-x), mish(x) = x (1 - s^2) / (1 + s^2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return mish at x, of any shape."""
        share = torch.sigmoid(-x)
        square = share * share
        return x * ((1 - square) / (1 + square))


def as_products(network: UNet1DModel, horizon: int) -> UNet1DModel:
    """Return a copy of a network for trajectories of one horizon, with these layers in place of diffusers'.

    A layer of another kind stays as it is.
    """
    network = deepcopy(network).eval().requires_grad_(False)
    lengths: dict[nn.Module, int] = {}

    def note_length(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        lengths[layer] = inputs[0].shape[-1]

    hooks = [layer.register_forward_pre_hook(note_length) for layer in network.modules() if _is_plain(layer)]
    weight = next(network.parameters())
    plan = torch.zeros(1, network.config["in_channels"], horizon, dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        network(plan, torch.zeros(1, dtype=torch.long, device=weight.device))
    for hook in hooks:
        hook.remove()
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if layer in lengths and isinstance(layer, nn.Conv1d):
                setattr(module, name, ConvolutionProduct(layer, lengths[layer]))
            elif type(layer) is nn.Mish:
                setattr(module, name, SigmoidMish())
    return network


def _is_plain(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv1d
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1,), 1, "zeros")
        and not isinstance(layer.padding, str)
    )
