"""A device that is not the CPU, for machines without one: mixed devices fail, and each wait of the host is noted.

torch's ``meta`` device stands for a GPU. Its tensors have no numbers, so what the host reads of one is made up.
"""

import traceback
from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
_READS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}
_WATCHED = ("vgp_lightning/", "diffusers/", "lightning/pytorch/", "torchmetrics/")


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
        frames = [f for f in traceback.extract_stack() if any(part in f.filename for part in _WATCHED)]
        ours = [frame for frame in frames if "/vgp_lightning/" in frame.filename]
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
            return False if kind == torch.bool else 1.0 if kind.is_floating_point else 1
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
        return function(*args, **kwargs)


def made_up(tensor, dtype):
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
        with FakeDevice() as device:
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def move(module):
    """Move a network to the device, where it has no numbers; ``module.to`` refuses to."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                empty = torch.empty(weight.shape, device=DEVICE, dtype=weight.dtype)
                part._parameters[name] = torch.nn.Parameter(empty, requires_grad=weight.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, device=DEVICE, dtype=buffer.dtype)
    return module
