"""Evaluate the planner's two networks on a CPU, to float32 rounding, about twice as fast as diffusers does.

``FastDenoiser`` and ``FastValueFunction`` take over the weights of a ``UNet1DModel`` and compute what it computes.
This file travels in exported folders, joined with pipeline.py.

Shapes: B trajectories, L time steps (H at the top), C channels; activations are (B, L, C), contiguous. Trajectories
come so, a matrix product sees B * L rows, a group of channels is contiguous, and GroupNorm (Wu & He 2018) is torch's
own for channels-last images. What is saved:

* A convolution over time is done by Toom-Cook's algorithm (Winograd's; Lavin & Gray 2016, arXiv:1509.09308): two
  products a time step and channel pair in place of five, and its weights are laid out once, not at every call.
* Mish (Misra 2019, arXiv:1908.08681) takes one sigmoid: with s = sigmoid(-x), mish(x) = -x + 2 x / (1 + s^2).
* A time embedding is computed once per timestep.
* The value function's gradient is pulled back by hand: no graph, and no gradient of the weights.

A row's result is the same to the bit whatever batch it is in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from diffusers import UNet1DModel
from diffusers.models.downsampling import Downsample1D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Conv1dBlock, ResidualTemporalBlock1D
from diffusers.models.unets import unet_1d_blocks
from diffusers.models.upsampling import Upsample1D
from torch import nn

FastT = TypeVar("FastT", "FastDenoiser", "FastValueFunction")
Pullback = Callable[[torch.Tensor], torch.Tensor]  # from the gradient of a layer's output to that of its input

# Of the blocks' convolutions; 1 stands first because there the output transform is all ones: what is added to that
# product is added to every output.
KERNEL, TILE = 5, 4
_POINTS = (1.0, -1.0, 0.0, 2.0, -2.0, 0.5, -0.5)  # and infinity, last
_RECIPROCAL = (0, 1, 7, 5, 6, 3, 4, 2)  # where 1 / point stands
_DENSE_LENGTH, SPAN_TILES = 32, 4
_ROWS = 8  # the rest of a batch takes another path through BLAS and vector instructions, which rounds otherwise
_GRAIN, _VECTOR = 32768, 32  # elements that torch gives a thread at least, and two AVX-512 vectors, its step
_ONE = torch.ones(())
_MODULES = {
    *(UNet1DModel, Timesteps, TimestepEmbedding, Conv1dBlock, ResidualTemporalBlock1D, Downsample1D, Upsample1D),
    *(unet_1d_blocks.DownResnetBlock1D, unet_1d_blocks.UpResnetBlock1D, unet_1d_blocks.MidResTemporalBlock1D),
    *(unet_1d_blocks.ValueFunctionMidBlock1D, unet_1d_blocks.OutConv1DBlock, unet_1d_blocks.OutValueFunctionBlock),
    *(nn.ModuleList, nn.Conv1d, nn.ConvTranspose1d, nn.GroupNorm, nn.Linear, nn.Mish, nn.Identity),
}
_RECIPES = {("MidResTemporalBlock1D", "OutConv1DBlock", False), ("ValueFunctionMidBlock1D", "ValueFunction", True)}


def can_accelerate(network: UNet1DModel) -> bool:
    """Return whether the network is one of the recipes, as diffusers made it, in float32 on the CPU."""
    # Who has compiled it wants just that.
    if type(network) is not UNet1DModel or network._compiled_call_impl is not None:
        return False
    config = network.config
    downs, ups = len(config["down_block_types"]), len(config["up_block_types"])
    recipe = (config["mid_block_type"], config["out_block_type"], config["downsample_each_block"])
    return (
        recipe in _RECIPES
        and downs == len(config["block_out_channels"])
        and ups == (0 if config["downsample_each_block"] else downs - 1)
        and config["use_timestep_embedding"]
        and all(_is_plain(module) for module in _walk(network))
    )


def _is_plain(module: nn.Module) -> bool:
    # Types, not only the configuration: they show a module that was put in another's place.
    return (
        type(module) in _MODULES
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        and all(
            weight is not None
            and weight.dtype == torch.float32
            and weight.device.type == "cpu"
            and not weight.is_inference()
            for weight in module._parameters.values()
        )
    )


def _walk(network: nn.Module) -> list[nn.Module]:
    """Return all modules, as ``network.modules()`` does, in a fifth of the time."""
    modules = [network]
    for module in modules:  # which grows meanwhile
        modules += [child for child in module._modules.values() if child is not None]
    return modules


def weights_version(network: UNet1DModel) -> tuple[Any, ...]:
    """Return what changes whenever a weight is replaced or written to; it takes some 100 microseconds.

    ``weight.data.copy_`` leaves no trace in torch's counters. Who writes so (diffusers' EMAModel) writes all weights,
    hence the content of one.
    """
    weights = [weight for module in _walk(network) for weight in module._parameters.values() if weight is not None]
    content = weights[-1].detach().flatten()[:64].float().cpu().numpy().tobytes()
    return (*[weight.data_ptr() for weight in weights], *[weight._version for weight in weights], content)


@dataclass(frozen=True)
class Transforms:
    """Toom-Cook's matrices for a length: inputs to points, taps to points, products at the points to outputs.

    ``spread`` is (tiles * points, inputs), ``taps`` (points, 5), ``gather`` (outputs of a tile, points). The back
    pair turns the same weights, transposed, into the pullback.
    """

    spread: torch.Tensor
    taps: torch.Tensor
    gather: torch.Tensor
    spread_back: torch.Tensor
    gather_back: torch.Tensor
    spans: int  # 1, or how many windows a long trajectory is cut into


def _powers(points: int, count: int) -> np.ndarray:
    """Return the matrix (points, count) that evaluates a polynomial of so many coefficients at the points."""
    powers = np.zeros((points, count))
    powers[:-1] = np.power.outer(_POINTS[: points - 1], np.arange(count))
    powers[-1, -1] = 1  # infinity: the leading coefficient
    return powers


@cache
def make_transforms(length: int) -> Transforms:
    """Return the matrices for so many time steps."""
    if length <= TILE:
        # The outputs are a Toeplitz matrix (of 2 length - 1 diagonals) times the inputs, hence as many products: the
        # zeros beyond both ends cost nothing. It is symmetric in inputs and outputs, but for their order.
        points, reach = 2 * length - 1, KERNEL // 2
        diagonals = np.linalg.inv(_powers(points, points)).T
        taps = np.zeros((points, KERNEL))
        for tap in range(max(reach - length + 1, 0), min(reach + length, KERNEL)):
            taps[:, tap] = diagonals[:, tap - reach + length - 1]
        spread = _powers(points, length)
        gather = _powers(points, length)[:, ::-1].T
        spread_back, gather_back = gather.T, spread.T
        spans = 1
    else:
        points = TILE + KERNEL - 1
        window = np.linalg.inv(_powers(points, points)).T
        taps, gather = _powers(points, KERNEL), _powers(points, TILE).T
        # Reversed taps, which the pullback needs, are those at 1 / point times point^4: p^4 g(1 / p).
        order = list(_RECIPROCAL)
        scales = np.array([point**4 or 1 for point in _POINTS] + [1])
        gather_back = (gather * scales)[:, order]
        spans = 1 if length <= _DENSE_LENGTH else -(-length // (SPAN_TILES * TILE))
        tiles = -(-length // TILE) if spans == 1 else SPAN_TILES
        both = []
        for matrix in (window, window[order]):
            spread = np.zeros((tiles, points, tiles * TILE + KERNEL - 1))
            for tile in range(tiles):
                spread[tile, :, tile * TILE : tile * TILE + points] = matrix
            spread = spread.reshape(tiles * points, -1)
            both.append(spread if spans > 1 else spread[:, KERNEL // 2 :][:, :length])
        spread, spread_back = both
    tensors = (torch.tensor(matrix.copy()) for matrix in (spread, taps, gather, spread_back, gather_back))
    a, b, c, d, e = tensors
    return Transforms(a.float(), b, c.float(), d.float(), e.float(), spans)


class _Convolution:
    """A convolution over time of 5 taps and as many outputs as inputs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, length: int) -> None:
        self.transforms = make_transforms(length)
        weight = torch.einsum("pk,oik->pio", self.transforms.taps, weight)
        self.weight = weight.float().contiguous()  # (points, in, out)
        self.weight_back = self.weight.transpose(1, 2)
        self.bias = bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._convolve(x, self.transforms.spread, self.weight, self.transforms.gather, self.bias)

    def pull_back(self, gradient: torch.Tensor) -> torch.Tensor:
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


class _ConvolutionBlock:
    """Convolution, GroupNorm and Mish."""

    def __init__(self, convolution: nn.Conv1d, norm: nn.GroupNorm, length: int) -> None:
        self.groups, self.eps = norm.num_groups, norm.eps
        weight, bias = _copy(convolution.weight).double(), _copy(convolution.bias).double()
        # torch takes the variance as E[y^2] - E[y]^2, which loses what a large mean leaves. The norm does not see what
        # a group's channels share: their mean bias need not be there, nor, in a single step, their mean weights.
        self.convolution = _Convolution(
            without_mean(weight, self.groups) if length == 1 else weight, without_mean(bias, self.groups), length
        )
        # The norm's output is negated because that is what mish's sigmoid takes.
        self.weight, self.bias = -_copy(norm.weight), -_copy(norm.bias)

    def __call__(self, x: torch.Tensor, pullbacks: list[Pullback] | None = None) -> torch.Tensor:
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


def _sigmoid(z: torch.Tensor) -> torch.Tensor:
    """Return the sigmoid, such that an element's does not depend on where it stands.

    torch gives each thread an equal share of the elements, and rounds those otherwise that do not fill a vector at the
    end of a share: so shares are made whole vectors here.
    """
    workers = min(torch.get_num_threads(), -(-z.numel() // _GRAIN))
    rest = z.numel() % (_VECTOR * workers * max(workers - 1, 1))  # with workers - 1 too: what is left may need no more
    if rest == 0 or workers == 1:
        return torch.sigmoid(z)
    flat = z.as_strided((z.numel(),), (1,))
    s = torch.cat((torch.sigmoid(flat[:-rest]), _sigmoid(flat[-rest:])))
    return s.as_strided(z.shape, z.stride())


def mish(z: torch.Tensor) -> torch.Tensor:
    """Return mish at -z, in the place of z."""
    s = _sigmoid(z)
    torch.addcmul(_ONE, s, s, out=s)
    return z.addcdiv_(z, s, value=-2)


def mish_and_slope(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mish at -z, in the place of z, and k: its derivative by z is 1 - 2 k."""
    s = _sigmoid(z)
    r = torch.addcmul(_ONE, s, s).reciprocal_()
    u = z * r
    z.sub_(u, alpha=2)
    u.addcmul_(u, s, value=-1)
    u.addcmul_(u, r, value=-1)
    return z, r.sub_(u, alpha=2)  # k = r - 2 z r (1 - s) (1 - r)


def pull_back_mish(gradient: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Return the gradient by z, of the gradient of mish at -z and k."""
    return torch.addcmul(gradient, gradient, slope, value=-2)


class _ResidualBlock:
    """diffusers' ResidualTemporalBlock1D: two convolution blocks, the time embedding between them, and a short cut."""

    def __init__(self, block: ResidualTemporalBlock1D, length: int) -> None:
        self.first = _ConvolutionBlock(block.conv_in.conv1d, block.conv_in.group_norm, length)
        self.second = _ConvolutionBlock(block.conv_out.conv1d, block.conv_out.group_norm, length)
        self.short_cut = None if isinstance(block.residual_conv, nn.Identity) else _Pointwise(block.residual_conv)

    def __call__(
        self, x: torch.Tensor, time_bias: torch.Tensor, pullbacks: list[Pullback] | None = None
    ) -> torch.Tensor:
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


class _Pointwise:
    """A convolution of one tap: a matrix product."""

    def __init__(self, convolution: nn.Conv1d) -> None:
        self.weight = _copy(convolution.weight[:, :, 0].T)  # (in, out)
        self.bias = _copy(convolution.bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.flatten(0, 1), self.weight).view(*x.shape[:2], -1)

    def add_to(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        out.add_(self.bias).flatten(0, 1).addmm_(x.flatten(0, 1), self.weight)
        return out

    def add_pulled_back_to(self, out: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        out.flatten(0, 1).addmm_(gradient.flatten(0, 1), self.weight.T)
        return out


class _Downsampling:
    """A convolution of three taps and stride 2, padded by one step: one product of windows."""

    def __init__(self, convolution: nn.Conv1d) -> None:
        self.weight = _copy(convolution.weight.permute(2, 1, 0).flatten(0, 1))  # (taps * in, out)
        self.bias = _copy(convolution.bias)

    def __call__(self, x: torch.Tensor, pullbacks: list[Pullback] | None = None) -> torch.Tensor:
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


class _Upsampling:
    """A transposed convolution of four taps and stride 2: an input adds to its own two outputs and one on each side."""

    def __init__(self, convolution: nn.ConvTranspose1d) -> None:
        self.weight = _copy(convolution.weight[:, :, [1, 2, 3, 0]].transpose(1, 2).flatten(1))  # (in, taps * out)
        self.bias = _copy(convolution.bias).repeat(2)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, channels = x.shape
        parts = (x.flatten(0, 1) @ self.weight).view(batch, length, -1)
        out = parts[:, :, : 2 * channels] + self.bias
        out[:, 1:, :channels] += parts[:, :-1, 2 * channels : 3 * channels]
        out[:, :-1, channels:] += parts[:, 1:, 3 * channels :]
        return out.view(batch, 2 * length, channels)


def _copy(weight: torch.Tensor | None) -> torch.Tensor:
    assert weight is not None  # the recipes' layers all have a bias
    return weight.detach().clone(memory_format=torch.contiguous_format)


class _FastNetwork:
    """What both networks share: the biases that stand for the timestep, and batches of few rows."""

    def __init__(self, network: UNet1DModel, horizon: int) -> None:
        self.horizon = horizon
        # Not the network itself: who keeps a fast one for each network need not keep the network alive.
        self._time_modules = (network.time_proj, network.time_mlp)
        self._blocks: list[ResidualTemporalBlock1D] = []  # in the order of their use
        self._embeddings: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def _take(self, blocks: nn.ModuleList, length: int) -> list[_ResidualBlock]:
        self._blocks += blocks
        return [_ResidualBlock(block, length) for block in blocks]

    def _embed(self, timestep: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the timestep's embedding (1, C) and the bias (C,) that it is in each residual block."""
        if timestep not in self._embeddings:
            project, embed = self._time_modules
            embedding = embed(project(torch.tensor([timestep])))
            biases = [block.time_emb(block.time_emb_act(embedding))[0] for block in self._blocks]
            self._embeddings[timestep] = (embedding, biases)
        return self._embeddings[timestep]

    def _evaluate(
        self, function: Callable[[torch.Tensor, int], torch.Tensor], trajectories: torch.Tensor, timestep: int
    ) -> torch.Tensor:
        """Return the function of the trajectories, recording nothing, whatever mode torch is in."""
        batch, horizon, _ = trajectories.shape
        if horizon != self.horizon:
            raise ValueError(f"trajectories have {horizon} steps, but this network was prepared for {self.horizon}")
        with torch.inference_mode():  # half the overhead of no_grad
            x = trajectories.contiguous()
            if missing := -batch % _ROWS:
                x = torch.cat((x, x[-1:].expand(missing, -1, -1)))
            out = function(x, timestep)[:batch]
        return out.clone()  # an ordinary tensor, where the caller is not in inference mode


class FastDenoiser(_FastNetwork):
    """The denoiser, for one horizon, with the weights of this moment."""

    def __init__(self, network: UNet1DModel, horizon: int) -> None:
        super().__init__(network, horizon)
        length = horizon
        self._downs: list[tuple[list[_ResidualBlock], _Downsampling | None]] = []
        for down in network.down_blocks:
            blocks = self._take(down.resnets, length)
            self._downs.append((blocks, None if down.downsample is None else _Downsampling(down.downsample.conv)))
            length = length if down.downsample is None else (length + 1) // 2
        self._middle = self._take(network.mid_block.resnets, length)
        self._ups: list[tuple[list[_ResidualBlock], _Upsampling]] = []
        for up in network.up_blocks:
            blocks = self._take(up.resnets, length)
            self._ups.append((blocks, _Upsampling(up.upsample.conv)))
            length *= 2
        out = network.out_block
        self._last = _ConvolutionBlock(out.final_conv1d_1, out.final_conv1d_gn, length)
        self._out = _Pointwise(out.final_conv1d_2)

    def __call__(self, trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
        """Return the network's output (B, H, T) for trajectories (B, H, T) of a noise level."""
        return self._evaluate(self._denoise, trajectories, timestep)

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
        return self._out(self._last(x))


def _run(blocks: list[_ResidualBlock], x: torch.Tensor, biases: Iterator[torch.Tensor]) -> torch.Tensor:
    for block in blocks:
        x = block(x, next(biases))
    return x


class FastValueFunction(_FastNetwork):
    """The value function and its gradient, for one horizon, with the weights of this moment."""

    def __init__(self, network: UNet1DModel, horizon: int) -> None:
        super().__init__(network, horizon)
        middle = network.mid_block
        levels = [(down.resnets, down.downsample) for down in network.down_blocks]
        self._layers: list[_ResidualBlock | _Downsampling] = []
        length = horizon
        for blocks, downsample in (*levels, ([middle.res1], middle.down1), ([middle.res2], middle.down2)):
            self._layers += [*self._take(blocks, length), _Downsampling(downsample.conv)]
            length = (length + 1) // 2
        if length != 1:
            raise ValueError(f"horizon {horizon} leaves {length} steps at the end of the value function: it needs one")
        hidden, _, out = network.out_block.final_block
        channels = hidden.in_features - network.time_mlp.linear_2.out_features
        # Negated, as mish takes it.
        self._hidden, self._hidden_of_time = (-_copy(hidden.weight.T)).tensor_split([channels])
        self._hidden_bias = -_copy(hidden.bias)
        self._out, self._out_bias = _copy(out.weight[0]), _copy(out.bias)

    def __call__(self, trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
        """Return the predicted value (B,) of trajectories (B, H, T) of a noise level."""
        return self._evaluate(self._predict, trajectories, timestep)

    def gradient(self, trajectories: torch.Tensor, timestep: int) -> torch.Tensor:
        """Return the gradient (B, H, T) of the predicted values by the trajectories (B, H, T)."""
        return self._evaluate(self._differentiate, trajectories, timestep)

    def _predict(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
        return mish(self._run(x, timestep, None)).mul_(self._out).sum(1).add_(self._out_bias)

    def _differentiate(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
        pullbacks: list[Pullback] = []
        _, slope = mish_and_slope(self._run(x, timestep, pullbacks))
        gradient = (pull_back_mish(self._out, slope) @ self._hidden.T).unsqueeze(1)
        for pull_back in reversed(pullbacks):
            gradient = pull_back(gradient)
        return gradient

    def _run(self, x: torch.Tensor, timestep: int, pullbacks: list[Pullback] | None) -> torch.Tensor:
        """Return the negated input of the last activation."""
        embedding, biases = self._embed(timestep)
        remaining = iter(biases)
        for layer in self._layers:
            x = layer(x, next(remaining), pullbacks) if isinstance(layer, _ResidualBlock) else layer(x, pullbacks)
        bias = torch.addmm(self._hidden_bias, embedding, self._hidden_of_time)
        return torch.addmm(bias, x.squeeze(1), self._hidden)


_Fast = tuple[tuple[Any, ...], FastDenoiser | FastValueFunction]  # with the weights' version that it was made of
_prepared: WeakKeyDictionary[nn.Module, dict[int, _Fast]] = WeakKeyDictionary()  # by network and horizon


def accelerate_denoiser(network: UNet1DModel, horizon: int) -> FastDenoiser | None:
    """Return what evaluates the network fast, with the weights of this moment; None where only the network itself can.

    It is kept, and made anew when the weights have changed.
    """
    return _accelerate(FastDenoiser, network, horizon)


def accelerate_value_function(network: UNet1DModel, horizon: int) -> FastValueFunction | None:
    """Do for a value function what ``accelerate_denoiser`` does."""
    return _accelerate(FastValueFunction, network, horizon)


def _accelerate(kind: type[FastT], network: UNet1DModel, horizon: int) -> FastT | None:
    if not can_accelerate(network):
        return None
    horizons = _prepared.setdefault(network, {})
    version = weights_version(network)
    made = horizons.get(horizon)
    if made is None or made[0] != version:
        with torch.inference_mode(False):
            made = horizons[horizon] = (version, kind(network, horizon))
    return cast(FastT, made[1])
