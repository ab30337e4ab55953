"""A device that is not the CPU, for machines without one: mixed devices fail, and each wait of the host is noted.

torch's ``meta`` device stands for a GPU. Its tensors have no numbers, so what the host reads of one is made up.
"""

import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torchmetrics import Metric

import vgp_lightning

DEVICE = torch.device("meta")
_READS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}
_SIZES = {"aten::_unique2", "aten::nonzero"}  # the host waits for the number of results
_MAKERS = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}
_PACKAGE = f"{Path(vgp_lightning.__file__).parent}/"
_WATCHED = (_PACKAGE, "diffusers/", "lightning/pytorch/", "torchmetrics/")
_INLINED = ("<listcomp>", "<dictcomp>", "<setcomp>")  # no functions from Python 3.12 on


class FakeDevice(TorchDispatchMode):
    """Notes waits and copies.

    Attributes:
        waits: How often the host waited, by (kind, where). Kinds are ``read`` of a number, ``copy to host`` and a
            blocking ``copy to device``. Where is the innermost function of this package, else of a library.
    """

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def note(self, kind):
        frames = [
            frame
            for frame in traceback.extract_stack()
            if any(part in frame.filename for part in _WATCHED) and frame.name not in _INLINED
        ]
        ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)]
        where = "the test"
        if frames:
            innermost = (ours or frames)[-1]
            where = f"{innermost.filename.rpartition('/')[2]}:{innermost.name}"
        self.waits[kind, where] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if tensor.device == DEVICE]
        if there and name in _READS:
            self.note("read")
            if name != "aten::_local_scalar_dense":
                return name == "aten::equal"
            kind = there[0].dtype
            if kind == torch.bool:
                # A check that all numbers are good passes, a look for any bad one finds none.
                return hasattr(there[0], "of_all")
            return 1.0 if kind.is_floating_point else 1
        if there and name in _SIZES:
            self.note("read")
            args, kwargs = tree_map_only(torch.Tensor, made_up, (args, kwargs))
            return tree_map_only(torch.Tensor, _there, function(*args, **kwargs))
        if name == "aten::_to_copy":
            target = torch.device(kwargs.get("device") or tensors[0].device)
            if there and target.type == "cpu":
                self.note("copy to host")
                return made_up(tensors[0], kwargs.get("dtype"))
            if not there and target == DEVICE and not kwargs.get("non_blocking"):
                self.note("copy to device")
        if name == "aten::copy_" and args[0].device != args[1].device:
            self.note("copy to device" if args[0].device == DEVICE else "copy to host")
            if args[0].device != DEVICE:
                return args[0]
        if name == "aten::index_put_" and args[2].numel() > 1 and any(_is_mask(index) for index in args[1]):
            self.note("read")  # the host waits for the number of entries, unless all get the same number
        result = function(*args, **kwargs)
        if there and name == "aten::all":
            result.of_all = True
        return result


class _Makers(TorchFunctionMode):
    """Notes tensors that are made there from Python's numbers: torch dispatches nothing for them."""

    def __init__(self, device):
        super().__init__()
        self._device = device

    def __torch_function__(self, function, types, args=(), kwargs=None):
        before = self._device.waits.total()
        result = function(*args, **(kwargs or {}))
        numbers = args[-1] if args else None  # or an argument by name
        if function in _MAKERS and result.device == DEVICE and not isinstance(numbers, torch.Tensor):
            dispatched = self._device.waits.total() > before  # an array's are, and noted already
            if not dispatched:
                self._device.note("copy to device")
        return result


def made_up(tensor, dtype=None):
    """Return numbers of the shape of a tensor, none of them equal."""
    numbers = torch.linspace(0.99, 0.01, max(tensor.numel(), 1))[: tensor.numel()]
    return numbers.to(dtype or tensor.dtype).reshape(tensor.shape)


@contextmanager
def fake_device():
    """Run on the stand-in device: ``with fake_device() as device: ...; device.waits``."""
    # Else torch refuses to make tensors of numbers there.
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with FakeDevice() as device, _Makers(device):
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def move(module):
    """Move a network, with its metrics, to the device, where it has no numbers; ``module.to`` refuses to."""
    for part in module.modules():
        if isinstance(part, Metric):
            part._apply(_there)
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(_there(weight), requires_grad=weight.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = _there(buffer)
    return module


def _is_mask(index):
    return index is not None and index.dtype == torch.bool


def _there(tensor):
    return torch.empty(tensor.shape, device=DEVICE, dtype=tensor.dtype)
