"""What is in a checkpoint that somebody else may have written, checked before any of it is loaded."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_COUNTS = ("ready", "started", "processed", "completed", "_batches_that_stepped")  # in the state of Lightning's loops
_UNBOUNDED = ("action_low", "action_high")  # infinite where an action has no bound


def check_form(checkpoint: Any, path: object) -> None:
    """Refuse a checkpoint that is not made as vgp fit makes them.

    Raises:
        ValueError: If a part is missing or of another kind, or a callback's file lies outside of its folder.
    """
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}: it is no checkpoint of vgp fit")
    for key, needed, kind in (
        ("state_dict", True, dict),
        ("global_step", True, int),
        ("vgp_config", False, str),
        ("callbacks", False, dict),
        ("loops", False, dict),
        ("optimizer_states", False, list),
        ("lr_schedulers", False, list),
        ("current_model_state", "averaging_state" in checkpoint, dict),
        ("averaging_state", False, dict),
    ):
        value = checkpoint.get(key)
        if (value is None and (needed or key in checkpoint)) or (value is not None and not isinstance(value, kind)):
            found = "no" if value is None else f"a {type(value).__name__} as"
            raise ValueError(f"{path} has {found} {key}, but vgp fit writes a {kind.__name__}: the file is damaged")
    if checkpoint["global_step"] < 0:
        raise ValueError(f"{path} has the global_step {checkpoint['global_step']}: the file is damaged")
    if "fit_loop" not in checkpoint.get("loops", {"fit_loop": None}):
        raise ValueError(f"{path} has loops without fit_loop, so that a training cannot go on: the file is damaged")
    updates = checkpoint.get("averaging_state", {"n_averaged": torch.tensor(0)}).get("n_averaged")
    if not isinstance(updates, Tensor) or updates.numel() != 1:
        raise ValueError(f"{path} has an averaging_state without the number n_averaged: the file is damaged")
    for name, value in _numbers(checkpoint.get("loops", {}), "loops"):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise ValueError(f"{path} has {name} {str(value)[:50]!r}, which counts something: the file is damaged")
    check_callbacks(checkpoint, path)


def _numbers(state: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Yield the counts in the state of Lightning's loops, with their names."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{name}.{key}")
        elif key in _COUNTS:
            yield f"{name}.{key}", value


def check_callbacks(checkpoint: Mapping[str, Any], path: object) -> None:
    """Refuse states of callbacks with files outside of the callback's folder.

    Lightning's ModelCheckpoint keeps paths in a checkpoint, and removes those files when a resumed run has better ones.

    Raises:
        ValueError: If a state is no dict, or has such a file.
    """
    for name, state in (checkpoint.get("callbacks") or {}).items():
        if not isinstance(state, dict):
            raise ValueError(f"{path} has a {type(state).__name__} as the state of the callback {name}")
        folder = os.path.abspath(str(state.get("dirpath") or "."))
        ranked = state.get("best_k_models")
        files = [state.get(key) for key in ("best_model_path", "kth_best_model_path", "last_model_path")]
        for file in (*files, *(ranked if isinstance(ranked, dict) else ())):
            # ModelCheckpoint itself compares paths as they are written: .. would lead out of the folder.
            inside = Path(folder) in Path(os.path.abspath(str(file))).parents and ".." not in Path(str(file)).parts
            if file and not inside:
                raise ValueError(f"{path} has a callback {name} with the file {file}, which lies outside of {folder}")


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
