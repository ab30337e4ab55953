"""The formats of a program: ONNX, and PyTorch's AOTInductor package; each written and run."""

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

Format = Literal["onnx", "pt2"]
Run = Callable[[dict[str, torch.Tensor]], list[np.ndarray]]
# What each format needs, to be written and to be tried.
PACKAGES: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}


def check_format(kind: Format) -> None:
    """Refuse a format for which a package or a compiler is missing.

    Raises:
        ValueError: With the command that installs it.
    """
    for package in PACKAGES[kind]:
        try:
            import_module(package)
        except ImportError as error:
            raise ValueError(
                f"a program in the format {kind} needs {package}, which is not installed: pip install "
                f'"vgp_lightning[program]"'
            ) from error
    compiler = os.environ.get("CXX") or "g++"
    if kind == "pt2" and shutil.which(compiler) is None:
        raise ValueError(
            f"a program in the format pt2 needs a C++ compiler, and there is no {compiler}: install one (on Debian: "
            "apt install g++), or name yours in the environment variable CXX"
        )


def trace(module: nn.Module, inputs: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """Return a module as a graph of torch's own operations, gradients included, for inputs of these shapes."""
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        graph = make_fx(module)(*inputs)
        _fold_constants(graph)
        return torch.export.export(graph, tuple(inputs), strict=False)


def _fold_constants(graph: fx.GraphModule) -> None:
    """Compute once what depends on no input: the embeddings of the noise levels, above all."""
    known: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(graph, node.target)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            arguments, options = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*arguments, **options)
    for number, (node, value) in enumerate(known.items()):
        if node.op == "get_attr" or all(user in known or user.op != "call_function" for user in node.users):
            continue
        name = f"_folded_{number}"
        graph.register_buffer(name, value)
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(name))
    graph.graph.eliminate_dead_code()
    graph.recompile()


def write(
    program: torch.export.ExportedProgram,
    kind: Format,
    path: Path,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
) -> None:
    """Write a traced module as a file.

    Args:
        program: The module.
        kind: The format.
        path: Of the file.
        inputs: The inputs' names and shapes, in their order.
        outputs: The outputs' names, in their order.
    """
    with _quiet():
        if kind == "onnx":
            # ONNX Runtime optimises a graph when it loads it; the exporter's own optimiser takes longer than the rest.
            written: Any = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
                optimize=False,
            )
            written.save(path)
        else:
            shapes = {name: "x".join(map(str, shape)) for name, shape in inputs.items()}  # for a reader in C++
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"aot_inductor.metadata": shapes}
            )


def load(path: Path, kind: Format) -> Run:
    """Return a program's file as a function of its inputs, by name, in one thread."""
    if kind == "pt2":
        package: Any = torch._inductor.aoti_load_package(str(path))
        return lambda inputs: [output.numpy() for output in package(*inputs.values())]
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporters say of their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
