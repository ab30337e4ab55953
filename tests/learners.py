"""Tiny modules, batches and recorders that the training tests share.

Shapes: B windows, H steps, A action dimensions, T dimensions in all; the datasets of ``make_data`` fit them.
"""

import math
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import torch

from vgp_lightning.data.windows import Batch, Draw
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.value import ValueModule

A, H, T, B = 1, 4, 3, 3
MODULES = [DenoiserModule, ValueModule]


def make_module(kind=DenoiserModule, **options):
    widths = [16, 16] if kind is DenoiserModule else [16, 64]
    sizes = {"transition_dim": T, "action_dim": A, "horizon": H, "task": {"env_id": "Tiny-v0"}}
    return kind(**sizes | {"widths": widths, "num_train_timesteps": 5, "warmup_steps": 0} | options)


def alone(module):
    """Give the module a trainer of a single process, which logs each step."""
    module._trainer = SimpleNamespace(world_size=1, global_step=0, log_every_n_steps=1)
    return module


def make_batch(trajectories, returns, seed=0):
    count = len(trajectories)
    return Batch(trajectories, returns, Draw(np.arange(count), count, 0, 1, seed))


def with_statistics(module):
    module.shift.copy_(torch.tensor([4.0, 5.0, 6.0]))
    module.scale.copy_(torch.tensor([1.0, 2.0, 4.0]))
    module.return_shift.fill_(3)
    module.return_scale.fill_(2)
    return module


def cosine_alphas(levels):
    """Return the products of alphas of Nichol and Dhariwal's cosine schedule, each beta at most 0.999."""
    f = [math.cos((i / levels + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(levels + 1)]
    return np.cumprod([1 - min(1 - f[i + 1] / f[i], 0.999) for i in range(levels)])


class Steps(pl.Callback):
    """Records each step's loss, and the norm of all its gradients before clipping."""

    def __init__(self):
        self.losses, self.norms = [], []

    def on_after_backward(self, trainer, module):
        squares = sum((weights.grad.double() ** 2).sum() for weights in module.network.parameters())
        self.norms.append(squares.sqrt().item())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: name + text)


def differ(first, second):
    return any(not torch.equal(first[name], second[name]) for name in first)


class Recorder(pl.Callback):
    """Records the module's state after each training step, during and after each validation."""

    def __init__(self):
        self.start, self.steps, self.validating, self.sanity, self.after = None, [], [], [], []

    def on_train_start(self, trainer, module):
        self.start = copied(module)

    def on_train_batch_end(self, trainer, module, *args):
        self.steps.append(copied(module))

    def on_validation_batch_end(self, trainer, module, *args):
        (self.sanity if trainer.sanity_checking else self.validating).append(copied(module))

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.after.append(copied(module))


def average_by_hand(steps, decay):
    """The average starts at the first step's weights; of k steps in it, it keeps min(decay, (1 + k) / (10 + k))."""
    average = {name: value.double() for name, value in steps[0].items()}
    for k, weights in enumerate(steps[1:], start=1):
        kept = min(decay, (1 + k) / (10 + k))
        for name, value in average.items():
            average[name] = kept * value + (1 - kept) * weights[name].double()
    return {name: value.float() for name, value in average.items()}
