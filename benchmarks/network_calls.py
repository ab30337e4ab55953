"""The network evaluations of a planning call: recorded in one call, then repeated without the call around them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers import UNet1DModel

from vgp_lightning.pipeline.fast_networks import FastDenoiser, FastValueFunction

# What evaluates a network: on the accelerated CPU path the first three, elsewhere the network itself.
_EVALUATIONS = (
    (FastDenoiser, "__call__"),
    (FastValueFunction, "__call__"),
    (FastValueFunction, "gradient"),
    (UNet1DModel, "forward"),
)


def record(call: Callable[[], Any]) -> list[Callable[[], Any]]:
    """Return the network evaluations that a call makes, in their order, each with its inputs prepared.

    Raises:
        ValueError: If it makes none that this file knows of.
    """
    made: list[Callable[[], Any]] = []
    with _intercepted(made):
        call()
    if not made:
        raise ValueError("the call evaluates no network that is known here: see _EVALUATIONS in network_calls.py")
    return made


def repeat(evaluations: list[Callable[[], Any]]) -> None:
    """Evaluate the networks with the recorded inputs."""
    with torch.no_grad():  # as the pipeline does
        for evaluate in evaluations:
            evaluate()


@contextmanager
def _intercepted(made: list[Callable[[], Any]]) -> Iterator[None]:
    """Note each evaluation of a network meanwhile."""
    patches = [
        mock.patch.object(kind, name, _noting(getattr(kind, name), made, name == "forward"))
        for kind, name in _EVALUATIONS
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def _noting(original: Callable[..., Any], made: list[Callable[[], Any]], graph: bool) -> Callable[..., Any]:
    """Return the function, which also notes itself with copies of its arguments.

    Args:
        original: A method.
        made: Where it is noted.
        graph: Whether an input may ask for its gradient, which is then a part of the evaluation.
    """

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = [_copy(arg) for arg in args]
        wanted = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad] if graph else []

        def evaluate() -> Any:
            if not wanted:
                return original(self, *inputs, **kwargs)
            with torch.enable_grad():
                return torch.autograd.grad(original(self, *inputs, **kwargs).sample.sum(), wanted)

        made.append(evaluate)
        return original(self, *args, **kwargs)

    return noting


def _copy(arg: Any) -> Any:
    if not isinstance(arg, torch.Tensor):
        return arg
    with torch.inference_mode(False):
        return arg.detach().clone().requires_grad_(arg.requires_grad)
