"""When the fast networks may stand in for diffusers' own, and how they are kept until a weight changes."""

from collections.abc import Iterable
from itertools import chain, repeat
from operator import attrgetter, contains, is_
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from diffusers import UNet1DModel
from torch import nn

from .fast_networks import FastDenoiser, FastValueFunction

try:
    # diffusers has no public names for the blocks of UNet1DModel. Seen in diffusers 0.42.1; where another version has
    # other blocks, the networks themselves are evaluated.
    from diffusers.models.downsampling import Downsample1D
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps
    from diffusers.models.resnet import Conv1dBlock, ResidualTemporalBlock1D
    from diffusers.models.unets import unet_1d_blocks
    from diffusers.models.upsampling import Upsample1D

    _MODULES = {
        *(UNet1DModel, Timesteps, TimestepEmbedding, Conv1dBlock, ResidualTemporalBlock1D, Downsample1D, Upsample1D),
        *(unet_1d_blocks.DownResnetBlock1D, unet_1d_blocks.UpResnetBlock1D, unet_1d_blocks.MidResTemporalBlock1D),
        *(unet_1d_blocks.ValueFunctionMidBlock1D, unet_1d_blocks.OutConv1DBlock, unet_1d_blocks.OutValueFunctionBlock),
        *(nn.ModuleList, nn.Conv1d, nn.ConvTranspose1d, nn.GroupNorm, nn.Linear, nn.Mish, nn.Identity),
    }
except (ImportError, AttributeError):
    _MODULES = set()

FastT = TypeVar("FastT", FastDenoiser, FastValueFunction)

_SAMPLES = 4  # numbers at each end of a weight that are looked at to see whether it was written to
# No set: an entry of a damaged config.json may be a list, which has no hash.
_RECIPES = (("MidResTemporalBlock1D", "OutConv1DBlock", False), ("ValueFunctionMidBlock1D", "ValueFunction", True))


def can_accelerate(network: UNet1DModel) -> bool:
    """Return whether the network is one of the paper's, as diffusers made it, in float32 on the CPU."""
    if type(network) is not UNet1DModel or _is_compiled(network):
        return False
    config = network.config
    downs, ups = len(network.down_blocks), len(network.up_blocks)  # a user may have added one
    recipe = (config["mid_block_type"], config["out_block_type"], config["downsample_each_block"])
    return (
        recipe in _RECIPES
        and downs == len(config["block_out_channels"])
        and ups == (0 if config["downsample_each_block"] else downs - 1)
        and config["use_timestep_embedding"]
        and all(_is_plain(module) for module in network.modules())
    )


# torch (2.13.0) has no public name for what a module has registered: its hooks, and whether it is compiled.


def _is_compiled(network: nn.Module) -> bool:
    """Return whether the user has compiled the network, and hence wants just that."""
    return network._compiled_call_impl is not None


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


class _Watch:
    """Tells whether a network is still what it was: its modules, their hooks, and the numbers of its weights.

    The pipeline asks at every call, so each question is one loop in C over lists that are made once: together they take
    0.1 ms for a network of 180 modules. ``weight.data.copy_`` and its like leave no trace in torch's counters, so some
    numbers of each weight are compared.
    """

    def __init__(self, network: nn.Module) -> None:
        modules = list(network.modules())
        self._below = modules[1:]  # without the network itself, which would otherwise be kept alive
        self._types = [type(module) for module in self._below]
        self._attributes = [vars(module) for module in modules]
        self._hooks = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        # What is given later to a module that has none takes no part in the evaluation, but for lists of blocks.
        self._children_of = [
            module._modules for module in modules if module._modules or isinstance(module, nn.ModuleList)
        ]
        self._weights_of = [module._parameters for module in modules if module._parameters]
        self._children, self._weights = _values(self._children_of), _values(self._weights_of)
        self._versions = list(map(_version, self._weights))
        self._places = list(map(torch.Tensor.data_ptr, self._weights))
        # Views, which keep the weights' memory from being given to others.
        self._samples = [view for weight in self._weights for view in _sample(weight.detach())]
        self._numbers = b"".join(self._samples)

    def holds(self, network: nn.Module) -> bool:
        """Return whether nothing has changed."""
        return (
            not _is_compiled(network)
            and not any(self._hooks)
            and not any(map(contains, self._attributes, repeat("forward")))
            and self._types == list(map(type, self._below))
            and _identical(self._children, _values(self._children_of))
            and _identical(self._weights, _values(self._weights_of))
            and self._versions == list(map(_version, self._weights))
            and self._places == list(map(torch.Tensor.data_ptr, self._weights))
            and self._numbers == b"".join(self._samples)
        )


_version = attrgetter("_version")


def _values(dictionaries: Iterable[dict[str, Any]]) -> list[Any]:
    """Return the values of all dictionaries."""
    return [*chain.from_iterable(map(dict.values, dictionaries))]


def _identical(old: list[Any], new: list[Any]) -> bool:
    """Return whether both lists hold the same objects."""
    return len(old) == len(new) and all(map(is_, old, new))


def _sample(weight: torch.Tensor) -> list[memoryview]:
    """Return views of the first and the last numbers of a weight."""
    flat = weight.view(-1) if weight.is_contiguous() else weight[tuple(slice(1) for _ in weight.shape)].view(-1)
    return [flat[:_SAMPLES].numpy().data, flat[-_SAMPLES:].numpy().data]


# By network, with what was made of it for each horizon.
_kept: WeakKeyDictionary[nn.Module, tuple[_Watch, dict[int, FastDenoiser | FastValueFunction]]] = WeakKeyDictionary()


def accelerate_denoiser(network: UNet1DModel, horizon: int) -> FastDenoiser | None:
    """Return what evaluates the network fast, with the weights of this moment; None where only the network itself can.

    It is kept, and made anew when the weights have changed. A change by way of ``weight.data`` or of a numpy view is
    seen where it touches one of the first or last numbers of the weight, so also where it is of a whole weight; after
    another one call ``forget``.
    """
    return _accelerate(FastDenoiser, network, horizon)


def accelerate_value_function(network: UNet1DModel, horizon: int) -> FastValueFunction | None:
    """Do for a value function what ``accelerate_denoiser`` does."""
    return _accelerate(FastValueFunction, network, horizon)


def forget(network: nn.Module) -> None:
    """Drop what is kept of a network's weights, so that the next call takes them over anew."""
    _kept.pop(network, None)


def _accelerate(kind: type[FastT], network: UNet1DModel, horizon: int) -> FastT | None:
    kept = _kept.get(network)
    if kept is None or not kept[0].holds(network):
        forget(network)
        if not can_accelerate(network):
            return None
        kept = _kept[network] = (_Watch(network), {})
    made = kept[1].get(horizon)
    if made is None:
        with torch.inference_mode(False):
            made = kept[1][horizon] = kind(network, horizon)
    return cast(FastT, made)
