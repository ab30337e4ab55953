"""One checkpoint of the original code (github.com/jannerm/diffuser) -> the same network in diffusers.

The weights are in ``state_N.pt``, what they mean is in the ``*_config.pkl`` files beside it. H steps, T action and
observation dimensions, action first in both codes.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet1DModel

from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler, make_value_function
from vgp_lightning.training.checkpoints import read_checkpoint
from vgp_lightning.training.contents import check_tensors

SCHEDULE = "squaredcos_cap_v2"  # diffusers' name of the only one that the original has

_LARGEST_CONFIG = 1_000_000  # bytes; the published ones have some hundred
_CONFIGS = ("dataset", "model", "diffusion")
_KINDS = {"downs": "TemporalUnet", "blocks": "ValueFunction"}  # by what they call the way down
_CONSTANTS = re.compile(r"betas|\w*alphas_cumprod\w*|posterior_\w+|loss_fn\.weights")  # not the network's
# The original's names -> diffusers': where a block stands, then what is in it. A change of resolution is part 3 of its
# block, or part 2 in code without a place for attention; a normalisation is part 2, or 1 without a Rearrange before it.
_PLACES = {
    "downs": (
        (r"^(down|up)s\.(\d+)\.([01])\.", r"\1_blocks.\2.resnets.\3."),
        (r"^(down|up)s\.(\d+)\.[23]\.conv\.", r"\1_blocks.\2.\1sample.conv."),
        (r"^mid_block1\.", "mid_block.resnets.0."),
        (r"^mid_block2\.", "mid_block.resnets.1."),
        (r"^final_conv\.0\.block\.0\.", "out_block.final_conv1d_1."),
        (r"^final_conv\.0\.block\.[12]\.", "out_block.final_conv1d_gn."),
        (r"^final_conv\.1\.", "out_block.final_conv1d_2."),
    ),
    "blocks": (
        (r"^blocks\.(\d+)\.([01])\.", r"down_blocks.\1.resnets.\2."),
        (r"^blocks\.(\d+)\.2\.conv\.", r"down_blocks.\1.downsample.conv."),
        (r"^mid_block([12])\.", r"mid_block.res\1."),
        (r"^mid_down([12])\.", r"mid_block.down\1."),
        (r"^final_block\.", "out_block.final_block."),
    ),
}
_PARTS = (
    (r"^time_mlp\.1\.", "time_mlp.linear_1."),
    (r"^time_mlp\.3\.", "time_mlp.linear_2."),
    (r"\.time_mlp\.1\.", ".time_emb."),
    (r"\.blocks\.0\.block\.", ".conv_in."),
    (r"\.blocks\.1\.block\.", ".conv_out."),
    (r"\.(conv_in|conv_out)\.0\.", r".\1.conv1d."),
    (r"\.(conv_in|conv_out)\.[12]\.", r".\1.group_norm."),
)
_REASONS = (
    (".fn.", "linear attention (half-cheetah's denoisers have it), which diffusers' UNet1DModel cannot express"),
    ("cond_mlp", "a condition on the observation, which only networks older than the published code have"),
    ("", "no part of the paper's network"),
)


@dataclass(frozen=True)
class OriginalNetwork:
    """A network of the original code, and what is known of its training."""

    path: Path
    network: UNet1DModel
    channels: int  # T
    horizon: int  # H
    levels: int  # diffusion steps
    step: Any  # of its training, as far as it came
    configs: dict[str, dict[str, Any]]  # of dataset, model and diffusion; empty where there is no file

    def known(self, name: str, given: Any, config: str) -> Any:
        """Return what the user or the config says.

        Raises:
            ValueError: If neither does, or they differ.
        """
        configured = self.configs[config].get(name)
        path = self.path.with_name(f"{config}_config.pkl")
        if given is None and configured is None:
            raise ValueError(f"{name} is unknown, for {path} does not say it: give --{name}")
        if None not in (given, configured) and given != configured:
            raise ValueError(f"--{name} is {given}, but {path} says {configured}")
        return configured if given is None else given


def read_denoiser(path: Path, weights: str) -> OriginalNetwork:
    """Read a TemporalUnet, which GaussianDiffusion wraps.

    Raises:
        ValueError: If the file cannot be read, or holds what a UNet1DModel cannot express.
    """
    tensors, step, configs = _read(path, weights)
    widths = _widths(tensors, "downs", path)
    horizon, channels = _constant(tensors, "loss_fn.weights", 2, path).shape
    network = make_denoiser(channels, horizon, widths)
    network.load_state_dict(_rename(tensors, "downs", network.state_dict(), path))
    return OriginalNetwork(path, network, channels, horizon, _levels(tensors, path), step, configs)


def read_value_function(path: Path, weights: str, horizon: int) -> OriginalNetwork:
    """Read a ValueFunction, which ValueDiffusion wraps; ``horizon`` counts where its config says none.

    Raises:
        ValueError: If the file cannot be read, or holds what a UNet1DModel cannot express.
    """
    tensors, step, configs = _read(path, weights)
    widths = _widths(tensors, "blocks", path)
    channels = tensors["model.blocks.0.0.blocks.0.block.0.weight"].shape[1]
    horizon = configs["diffusion"].get("horizon", horizon)
    network = make_value_function(channels, horizon, widths)
    network.load_state_dict(_rename(tensors, "blocks", network.state_dict(), path))
    return OriginalNetwork(path, network, channels, horizon, _levels(tensors, path), step, configs)


def _read(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], Any, dict[str, dict[str, Any]]]:
    """Return a state file's tensors, its step, and the configs beside it."""
    state = read_checkpoint(path)
    tensors = state.get(weights) if isinstance(state, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path} is no checkpoint of the original code: it has no weights named {weights!r}")
    check_tensors(tensors, f"{weights} of {path}")
    configs = {name: _read_config(path.with_name(f"{name}_config.pkl")) for name in _CONFIGS}
    return tensors, state.get("step"), configs


def _read_config(path: Path) -> dict[str, Any]:
    """Return the arguments in a pickled Config of the original, or nothing if there is no such file.

    Its classes become empty ones of the same name, and a name from elsewhere is refused: no code is imported or run.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.split(".")[0] != "diffuser":
                raise pickle.UnpicklingError(f"it names {module}.{name}, which is none of diffuser's classes")
            return type(name, (), {})

    if not path.exists():
        return {}
    try:
        content = path.read_bytes() if path.stat().st_size <= _LARGEST_CONFIG else b""
        if not content:
            raise ValueError(f"it has {path.stat().st_size} bytes, where 1 to {_LARGEST_CONFIG} are expected")
        _check_claims(content)
        return dict(Unpickler(io.BytesIO(content)).load()._dict)
    except (
        *(OSError, EOFError, LookupError, TypeError, AttributeError, ValueError, RecursionError, MemoryError),
        *(OverflowError, pickle.UnpicklingError),
    ) as error:
        raise ValueError(f"{path} is not read: {error}. Move it away, and give what it says as options") from error


def _check_claims(content: bytes) -> None:
    """Refuse a pickle that announces more bytes than it has, or a larger memo than it has instructions.

    The unpickler takes that memory before it reads on.

    Raises:
        ValueError: If it does, or is no pickle.
    """
    count, largest = 0, 0
    for opcode, argument, _ in pickletools.genops(content):  # which raises where bytes are missing
        count += 1
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            largest = max(largest, int(argument or 0))
    if largest > count:
        raise ValueError(f"it has a memo of {largest} entries, but {count} instructions")


def _widths(tensors: Mapping[str, torch.Tensor], entry: str, path: Path) -> list[int]:
    """Return the channels of each level on the way down."""
    (other,) = set(_KINDS) - {entry}
    name = "model.{}.{}.0.blocks.0.block.0.weight"
    if name.format(other, 0) in tensors:
        place = "--value" if entry == "downs" else "the denoiser"
        raise ValueError(f"{path} holds a {_KINDS[other]}: give it as {place}")
    widths: list[int] = []
    while (weight := tensors.get(name.format(entry, len(widths)))) is not None and weight.ndim == 3:
        widths.append(len(weight))
    if not widths:
        raise ValueError(f"{path} holds no {_KINDS[entry]}: it lacks {name.format(entry, 0)}")
    return widths


def _levels(tensors: Mapping[str, torch.Tensor], path: Path) -> int:
    """Return the number of diffusion steps, after a look at whether the noise schedule is ours."""
    betas = _constant(tensors, "betas", 1, path)
    difference = (betas - make_noise_scheduler(len(betas), SCHEDULE, "sample").betas).abs().max().item()
    if not difference < 1e-5:  # so that NaN is refused
        raise ValueError(f"{path} has betas up to {difference:.2g} off the cosine schedule of {len(betas)} steps")
    return len(betas)


def _constant(tensors: Mapping[str, torch.Tensor], name: str, ndim: int, path: Path) -> torch.Tensor:
    if name not in tensors or tensors[name].ndim != ndim:
        raise ValueError(f"{path} lacks {name}, which the original stores beside the network")
    return tensors[name]


def _rename(
    tensors: Mapping[str, torch.Tensor], entry: str, expected: Mapping[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """Return the network's weights by diffusers' names; all of them, in the right shapes, and no other."""
    renamed: dict[str, torch.Tensor] = {}
    surplus = []
    for key in sorted(key for key in tensors if not _CONSTANTS.fullmatch(key)):
        name = key.removeprefix("model.")
        for pattern, replacement in (*_PLACES[entry], *_PARTS):
            name = re.sub(pattern, replacement, name)
        if not key.startswith("model.") or name not in expected or name in renamed:
            surplus.append(key)
        elif tensors[key].shape != expected[name].shape:
            shapes = f"{tuple(tensors[key].shape)}, where the paper's network has {tuple(expected[name].shape)}"
            raise ValueError(f"{path} cannot be imported: {key} is {shapes}")
        else:
            renamed[name] = tensors[key]
    for sign, reason in _REASONS:
        if keys := [key for key in surplus if sign in key]:
            raise ValueError(f"{path} cannot be imported: {len(keys)} tensors such as {keys[0]} are {reason}")
    if missing := sorted(set(expected) - set(renamed)):
        raise ValueError(f"{path} lacks {len(missing)} tensors, such as {missing[0]} (by diffusers' name)")
    return renamed
