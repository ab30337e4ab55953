"""Weights from a checkpoint that somebody else may have written, compared with a module's own before loading."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_UNBOUNDED = ("action_low", "action_high")  # infinite where an action has no bound


def check_weights(saved: Any, own: Mapping[str, Tensor], place: str) -> None:
    """Refuse weights that are not those of this module: missing, surplus, of another shape or kind, or not finite.

    Args:
        saved: A ``state_dict`` as it was read.
        own: The module's own, of which only shapes and types are used.
        place: Where the weights stand, for messages.

    Raises:
        ValueError: If a tensor is wrong. The message names it.
    """
    check_tensors(saved, place)
    if missing := sorted(own.keys() - saved.keys()):
        raise ValueError(f"{place} lacks {len(missing)} tensors of {len(own)}, such as {missing[0]}")
    if surplus := sorted(saved.keys() - own.keys()):
        raise ValueError(f"{place} has {len(surplus)} tensors that the module has not, such as {surplus[0]}")
    for name, tensor in own.items():
        if saved[name].shape != tensor.shape:
            raise ValueError(
                f"{place} has {name} of shape {list(saved[name].shape)}, but the module that its hyper-parameters "
                f"describe has {list(tensor.shape)}"
            )
        if saved[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{place} has {name} of dtype {saved[name].dtype}: {tensor.dtype} is needed")
        unbounded = name.rpartition(".")[2] in _UNBOUNDED
        if saved[name].isnan().any() or (not unbounded and not saved[name].isfinite().all()):
            raise ValueError(f"{place} has {name} with numbers that are not finite: the training had failed")


def check_tensors(saved: Any, place: str) -> None:
    """Refuse what is no dict of dense tensors that each hold as many numbers as they show.

    A tensor of a few bytes can show any number of elements (stride 0), which would take memory when it is copied.

    Raises:
        ValueError: If there is another value.
    """
    if not isinstance(saved, dict) or not saved:
        raise ValueError(f"{place} is {_kind(saved)}: tensors by their names are needed")
    for name, tensor in saved.items():
        dense = isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not dense or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            raise ValueError(f"{place} has {name!r}, which is {_kind(tensor)}: a dense tensor is needed")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{place} has {name} of shape {list(tensor.shape)}, but does not hold as many numbers")


def _kind(value: Any) -> str:
    empty = value is None or (isinstance(value, dict) and not value)
    return "empty or missing" if empty else f"a {type(value).__name__}"
