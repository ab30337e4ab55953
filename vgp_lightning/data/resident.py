"""Windows whose rows lie on the device that trains: a batch is one gather there, and no copy.

Shapes: n rows, B windows, H steps, T = A + O dimensions, in physical units.

Without them a batch is gathered from the memory-mapped rows on the host, put into page-locked memory and copied.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vgp_lightning.data.windows import Batch, Draw, WindowDataset

OnDevice = bool | Literal["auto"]

# Of a GPU's free memory, the most that ``auto`` fills: the networks' activations need the rest.
_SHARE = 0.25
_CHUNK = 1 << 22  # numbers that are copied at a time


def can_reside(on_device: OnDevice, device: torch.device, size: int, num_workers: int) -> bool:
    """Return whether the rows are to be copied to the device.

    On a CPU they never are: they are mapped there already.

    Args:
        on_device: ``true``: on any other device; ``auto``: on a CUDA device of whose free memory they take at most a
            quarter, unless there are workers, which cannot gather there; ``false``: never.
        device: The device that trains.
        size: Of rows and returns in bytes.
        num_workers: Processes that gather batches.

    Raises:
        ValueError: If ``true`` cannot be done: there are workers, or too little memory is free.
    """
    if on_device is False or device.type == "cpu":
        return False
    free = _free_memory(device)
    if on_device == "auto":
        return free is not None and num_workers == 0 and size <= _SHARE * free
    if num_workers > 0:
        raise ValueError(
            f"data.on_device is true and data.num_workers is {num_workers}: other processes cannot gather on the "
            "device. Set data.num_workers to 0, or data.on_device to false"
        )
    if free is not None and size > free:
        raise ValueError(
            f"data.on_device is true, but the dataset takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of {device} "
            "are free: set data.on_device to false"
        )
    return True


def _free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a CUDA device; None: unknown, for a device of another kind."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def copy_to(device: torch.device, array: NDArray[np.float32]) -> Tensor:
    """Return an array's copy on a device; a memory-mapped one is read in parts."""
    copy = torch.empty(array.shape, device=device, dtype=torch.float32)
    count = max(_CHUNK // max(array[:1].size, 1), 1)
    for first in range(0, len(array), count):
        # np.array: torch refuses a read-only array.
        copy[first : first + count].copy_(torch.from_numpy(np.array(array[first : first + count])))
    return copy


class ResidentWindows(Dataset[Batch]):
    """The windows of a WindowDataset, gathered on a device; a batch is the same to the bit."""

    def __init__(self, windows: WindowDataset, rows: Tensor, returns: Tensor) -> None:
        """Take the windows.

        Args:
            windows: Which rows each window has.
            rows: Their rows (n, T) on the device.
            returns: (n,), the return from each row, on the device.
        """
        self._windows, self._rows, self._returns = windows, rows, returns
        self._steps = torch.arange(windows.horizon, device=rows.device)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, draw: Draw) -> Batch:
        """Return the drawn windows as one batch, whose tensors are on the device."""
        bounds = torch.from_numpy(np.stack(self._windows.bounds(draw)))
        if self._rows.device.type == "cuda":
            bounds = bounds.pin_memory()  # or the copy would wait for the device
        first, last = bounds.to(self._rows.device, non_blocking=True)  # (B,) each
        rows = torch.minimum(first[:, None] + self._steps, last[:, None])
        return Batch(self._rows[rows], self._returns[first], draw)
