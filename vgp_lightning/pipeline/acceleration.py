"""When the fast networks may stand in for diffusers' own, and how they are kept until a weight changes."""

from dataclasses import dataclass
from typing import TypeVar, cast
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

_SAMPLES = 8  # numbers of each weight that are looked at to see whether it was written to
# No set: an entry of a damaged config.json may be a list, which has no hash.
_RECIPES = (("MidResTemporalBlock1D", "OutConv1DBlock", False), ("ValueFunctionMidBlock1D", "ValueFunction", True))


def can_accelerate(network: UNet1DModel) -> bool:
    """Return whether the network is one of the paper's, as diffusers made it, in float32 on the CPU."""
    if type(network) is not UNet1DModel or _is_compiled(network):
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


# torch (2.13.0) has no public name for what a module has registered: its hooks, and whether it is compiled. Its public
# iterators over modules and weights take five times as long as these, at every call.


def _is_compiled(network: nn.Module) -> bool:
    """Return whether the user has compiled the network, and hence wants just that."""
    return network._compiled_call_impl is not None


def _walk(network: nn.Module) -> list[nn.Module]:
    """Return all modules, as ``network.modules()`` does."""
    modules = [network]
    for module in modules:  # which grows meanwhile
        modules += [child for child in module._modules.values() if child is not None]
    return modules


def _weights(network: nn.Module) -> list[torch.Tensor]:
    """Return all weights, as ``network.parameters()`` does."""
    return [weight for module in _walk(network) for weight in module._parameters.values() if weight is not None]


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


@dataclass(frozen=True)
class _State:
    """The weights of a moment.

    ``weight.data.copy_`` and its like leave no trace in torch's counters, so some numbers of each weight are looked at.
    """

    places: list[int]
    versions: list[int]
    samples: list[torch.Tensor]  # views of the weights, which keep their memory from being given to others
    numbers: torch.Tensor  # what the samples were

    @classmethod
    def of(cls, network: nn.Module) -> "_State":
        weights = _weights(network)
        samples = [_sample(weight.detach()) for weight in weights]
        places = [weight.data_ptr() for weight in weights]
        return cls(places, [weight._version for weight in weights], samples, torch.cat(samples))

    def holds(self, network: nn.Module) -> bool:
        """Return whether the weights are still the same."""
        weights = _weights(network)
        return (
            self.places == [weight.data_ptr() for weight in weights]
            and self.versions == [weight._version for weight in weights]
            and torch.equal(self.numbers, torch.cat(self.samples))
        )


def _sample(weight: torch.Tensor) -> torch.Tensor:
    """Return a view of evenly spaced numbers of a weight."""
    if weight.is_contiguous():
        return weight.view(-1)[:: -(-weight.numel() // _SAMPLES)]
    return weight[tuple(slice(1) for _ in weight.shape)].view(-1)  # the first


_Kept = tuple[_State, FastDenoiser | FastValueFunction]
_kept: WeakKeyDictionary[nn.Module, dict[int, _Kept]] = WeakKeyDictionary()  # by network and horizon


def accelerate_denoiser(network: UNet1DModel, horizon: int) -> FastDenoiser | None:
    """Return what evaluates the network fast, with the weights of this moment; None where only the network itself can.

    It is kept, and made anew when the weights have changed. A change by way of ``weight.data`` or of a numpy view is
    seen where it touches one of some evenly spaced numbers of the weight, so also where it is of a whole weight; after
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
    if not can_accelerate(network):
        return None
    horizons = _kept.setdefault(network, {})
    made = horizons.get(horizon)
    if made is None or not made[0].holds(network):
        with torch.inference_mode(False):
            made = horizons[horizon] = (_State.of(network), kind(network, horizon))
    return cast(FastT, made[1])
