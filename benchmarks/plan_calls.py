"""Planning calls: made from a row of the benchmark, and timed, by this version of the package or by an older one.

``benchmarks.plan_latency`` imports this file for the version that it measures. For ``--against PYTHON`` it runs the
file as a script there: it needs torch, numpy and a vgp_lightning of any version, and nothing else of this repository.
The script answers one line of JSON on its standard output for each request on its standard input::

    {"row": {...}, "threads": 1, "seconds": 0.5, "most": 100} -> the seconds of each call
    {"row": {...}} -> the actions of a plan with a fixed seed, by which the versions are compared
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging

try:
    from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
except ImportError:  # before the package had rooms
    from vgp_lightning.pipeline import ValueGuidedPlannerPipeline


def load(folder: str) -> ValueGuidedPlannerPipeline:
    """Load a pipeline folder onto the GPU, or the CPU where there is none."""
    return ValueGuidedPlannerPipeline.from_pretrained(folder).to("cuda" if torch.cuda.is_available() else "cpu")


def make_call(pipeline: ValueGuidedPlannerPipeline, row: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that plans once, as an agent does: with one generator for each environment.

    Args:
        pipeline: The planner.
        row: ``settings`` of the call, the number of ``environments``, ``horizon``, ``warm``: whether it begins from a
            plan.
    """
    count, device = row["environments"], next(pipeline.unet.parameters()).device
    observations = np.zeros((count, pipeline.observation_dim), dtype=np.float32)
    dimensions = pipeline.action_dim + pipeline.observation_dim
    plans = torch.zeros(count, row["horizon"], dimensions) if row["warm"] else None
    generators = [torch.Generator(device).manual_seed(i) for i in range(count)]
    return lambda: pipeline(observations, warm_start=plans, generator=generators, **row["settings"])


def time_calls(call: Callable[[], Any], seconds: float, most: int) -> Iterator[float]:
    """Call until the seconds are over, at least once and not more often than ``most``; yield each call's seconds."""
    end = time.perf_counter() + seconds
    for _ in range(most):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        stop = time.perf_counter()
        yield stop - start
        if stop > end:
            return


def main() -> None:
    """Load the folder that is given as the argument, and answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipeline = load(sys.argv[1])
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = json.dumps(request["row"])
        if "threads" in request:
            torch.set_num_threads(request["threads"])
            if key not in calls:
                calls[key] = make_call(pipeline, request["row"])
            answer = list(time_calls(calls[key], request["seconds"], request["most"]))
        else:
            answer = make_call(pipeline, request["row"])().actions.cpu().tolist()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
