"""What users hand in: numbers, arrays of them and random generators, checked and made plain."""

from collections.abc import Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Generator


def as_number(value: Any, *, whole: bool = False) -> float | None:
    """Return a number as one of Python's own; None if the value is not a finite number, or not a whole one.

    Numbers of numpy and fractions are numbers; True, False and text are not.
    """
    kind: type[Any] = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        return None
    try:
        number: float = int(value) if whole else float(value)
        return number if isfinite(number) else None
    except (OverflowError, ValueError):
        return None


def shorten(value: Any) -> str:
    """Return a value as text for an error, cut where it is long."""
    try:
        text = str(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        text = f"a {type(value).__name__} of very many digits"
    return text if len(text) <= 500 else f"{text[:200]} ... {text[-50:]}"


def as_floats(given: Any, name: str, device: torch.device) -> torch.Tensor:
    """Return an array of numbers in float32: a tensor on its own device, anything else as a copy on the CPU.

    Args:
        given: An array or a tensor, or a sequence of numbers.
        name: What the user calls it.
        device: The planner's. A tensor of ``meta`` has no numbers and is of use there only.

    Raises:
        ValueError: If it does not hold real numbers.
    """
    if isinstance(given, torch.Tensor):
        meta = given.device.type == "meta" and device.type != "meta"
        if given.layout != torch.strided or given.is_complex() or given.is_quantized or meta:
            raise ValueError(
                f"{name} is a tensor of {given.layout} and {given.dtype} on {given.device}: a dense tensor of real "
                "numbers is needed"
            )
        return given.detach().to(torch.float32)
    if isinstance(given, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array: fill it first; in a condition NaN leaves a dimension free")
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} is {shorten(given)}, of type {array.dtype}: an array of real numbers is needed")
    # A copy: torch warns of arrays that it may not write to, and takes neither reversed nor byte-swapped ones.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def all_finite(numbers: torch.Tensor) -> bool:
    """Tell whether no number is infinite or NaN."""
    # A sum is finite only if all of its terms are; where it is not, its own size may be the reason.
    return isfinite(numbers.sum().item()) or bool(numbers.isfinite().all())


def check_generators(generator: Any, count: int, device: torch.device) -> Any:
    """Return the random generators: one, a list of one for each observation, or None.

    Args:
        generator: What the user gave.
        count: N.
        device: The planner's.

    Raises:
        ValueError: If there are more or fewer, or one is something else or on a device that the planner is not on.
    """
    if generator is None:
        return None
    alone = not isinstance(generator, Sequence) or isinstance(generator, str | bytes)
    generators = [generator] if alone else list(generator)
    for one in generators:
        if not isinstance(one, Generator):
            seed = one if isinstance(one, int) else 0
            raise ValueError(
                f"generator is {shorten(generator)}: torch.Generator({str(device)!r}).manual_seed({shorten(seed)}) is "
                "needed, or a list of one for each observation"
            )
        # Numbers of the CPU can be drawn for any device; those of another device cannot.
        if one.device.type not in ("cpu", device.type):
            raise ValueError(
                f"generator is on {one.device}, but the planner on {device}: use torch.Generator({str(device)!r})"
            )
    if not alone and len(generators) != count:
        raise ValueError(f"{len(generators)} generators for {count} observations: one, or one for each, is needed")
    return generator if alone else generators  # diffusers' schedulers know lists alone
