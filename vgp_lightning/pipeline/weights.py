"""The weights of the networks: all there, each of the shape that its network has, and finite."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet1DModel
from torch import nn

_HEADER = 100_000_000  # bytes; more is refused by the library safetensors too
_FLOATS = {"F16", "BF16", "F32", "F64", "torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"}


def check_weights(name: str, network: nn.Module) -> None:
    """Refuse a network with a weight that is not finite, or that its folder does not have.

    diffusers only logs which weights a file lacks and leaves them as they were made: random, or what lay in memory.

    Args:
        name: Of the component.
        network: Denoiser or value function. One that was loaded remembers from where.

    Raises:
        ValueError: If a weight is missing, unexpected, of another shape or type, or not finite.
    """
    origin = getattr(network, "config", {}).get("_name_or_path")
    if origin and type(network) is UNet1DModel:
        check_stored(name, network, Path(origin))
    if weight := find_unsound_weight(network):
        raise ValueError(
            f"weight {weight} of {name}{f' in {origin}' if origin else ''} is not finite: the training diverged, or "
            "the file is damaged"
        )


def find_unsound_weight(network: nn.Module) -> str | None:
    """Return the name of a weight that is not finite, if there is one. Weights without numbers (meta) are passed by."""
    for name, weight in network.state_dict().items():
        if not weight.is_meta and not weight.isfinite().all():
            return name
    return None


def check_stored(name: str, network: nn.Module, folder: Path) -> None:
    """Compare a network's weights with the names and shapes in the files of a folder, if it has files of weights.

    Args:
        name: Of the component.
        network: Its weights' numbers are not looked at.
        folder: The component's.

    Raises:
        ValueError: If a file cannot be read, or a weight is missing, unexpected or of another shape or type.
    """
    stored = _read_shapes(folder)
    if stored is None:
        return
    expected = {weight: list(tensor.shape) for weight, tensor in network.state_dict().items()}
    words = f"the weights of {name} in {folder} do not fit {folder / 'config.json'}"
    if missing := sorted(expected.keys() - stored.keys()):
        raise ValueError(f"{words}: {len(missing)} are missing, the first is {missing[0]}")
    if unexpected := sorted(stored.keys() - expected.keys()):
        raise ValueError(f"{words}: {len(unexpected)} have no place in it, the first is {unexpected[0]}")
    for weight, shape in expected.items():
        dtype, stored_shape = stored[weight]
        if stored_shape != shape:
            raise ValueError(f"{words}: {weight} has shape {stored_shape}, and {shape} is needed")
        if dtype not in _FLOATS:
            raise ValueError(f"{words}: {weight} is of type {dtype}, and a floating-point type is needed")


def _read_shapes(folder: Path) -> dict[str, tuple[str, list[int]]] | None:
    """Return type and shape of each stored weight, by name; None where there is no file of them."""
    found: dict[str, tuple[str, list[int]]] = {}
    paths = sorted(path for path in folder.glob("diffusion_pytorch_model*.safetensors") if path.is_file())
    for path in paths:
        for name, entry in _read_header(path).items():
            if name != "__metadata__":
                found[name] = entry["dtype"], entry["shape"]
    pickles = sorted(folder.glob("diffusion_pytorch_model*.bin")) if not paths else []
    for path in pickles:  # as data alone, never as code
        state: Mapping[str, torch.Tensor] = torch.load(path, map_location="meta", weights_only=True)
        found |= {name: (str(tensor.dtype), list(tensor.shape)) for name, tensor in state.items()}
    return found if paths or pickles else None


def _read_header(path: Path) -> dict[str, Any]:
    """Return what a file of the format safetensors says of its tensors: its length in 8 bytes, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= _HEADER else b""
    try:
        header = json.loads(text)
        if all(name == "__metadata__" or {"dtype", "shape"} <= entry.keys() for name, entry in header.items()):
            return dict(header)
    except (ValueError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{path} is no file of safetensors: its header cannot be read. Copy or export it again")
