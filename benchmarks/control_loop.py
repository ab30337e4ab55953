"""A control loop at a fixed rate: the deadlines that a planning agent misses, and the tail of its planning call.

OMP_NUM_THREADS=1 python -m benchmarks.control_loop [--json FILE] [--pipeline FOLDER] [--rates 50 100]
    [--seconds 20] [--calls 5000] [--delay STEPS]

In each period the agent acts and MuJoCo steps; a deadline is missed if the period ends before that. The asynchronous
agent plans in its thread meanwhile. Its delay is the number of periods that 99 of 100 planning calls fit into, measured
beforehand, unless it is given; it plans every that many steps. An episode's first plan is waited for in any case, so
the clock stands still while an episode begins. The tail is that of calls without a loop: what is much longer in wall
time than in CPU time was taken by other processes, and a collection is one of Python's garbage collector.

Without --pipeline the networks have the recipes' size (H = 8, widths 64/128/128, 16 candidates, 5 DDIM steps) and
random weights, and act in a Hopper-v5 whose episodes do not end when it falls.
"""

import argparse
import gc
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.table import Table

from benchmarks.plan_rows import SIZES, make_folder
from vgp_lightning.agent.deployment import Deployment
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

WARM_UP, TRIALS = 20, 100  # planning calls before the rows


def describe(seconds: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the longest in milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": 1000 * float(p50), "p99": 1000 * float(p99), "longest": 1000 * max(seconds)}


def measure_tail(pipeline: ValueGuidedPlannerPipeline, calls: int) -> dict[str, Any]:
    """Return the times of planning calls for one observation, and how often garbage was collected in them."""
    observation = pipeline.frame.shift[pipeline.action_dim :]  # the mean of the data
    generator = torch.Generator(pipeline.device).manual_seed(0)
    wall, cpu = [], []
    collections = 0
    for call in range(WARM_UP + calls):
        if call == WARM_UP:
            collections = sum(generation["collections"] for generation in gc.get_stats())
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        pipeline(observation, generator=generator).actions.cpu()
        if call >= WARM_UP:
            wall.append(time.perf_counter() - begin)
            cpu.append(time.thread_time() - begin_cpu)
    return {
        "calls": calls,
        "ms": describe(wall),
        "cpu_ms": describe(cpu),
        "collections": sum(generation["collections"] for generation in gc.get_stats()) - collections,
    }


def run_loop(agent: PlanningAgent, environments: VectorEnv, rate: float, seconds: float) -> dict[str, Any]:
    """Return how long the agent took to act, and how many deadlines the loop missed."""
    period, steps = 1 / rate, max(1, round(seconds * rate))
    acted, missed, episodes = [], 0, 0
    observations = np.zeros((1, 0))
    ended = True
    deadline = 0.0
    for _ in range(steps):
        if ended:
            observations, _ = environments.reset(seed=[episodes])
            agent.reset([episodes])
            actions = agent.act(observations)
            episodes += 1
            deadline = time.perf_counter() + period  # the clock goes on when the robot has a plan
        else:
            begin = time.perf_counter()
            actions = agent.act(observations)
            acted.append(time.perf_counter() - begin)
        observations, _, terminated, truncated, _ = environments.step(actions)
        ended = bool(terminated[0] or truncated[0])
        late = time.perf_counter() - deadline
        if late > 0:
            missed += 1
            deadline += late  # the next period begins now
        else:
            time.sleep(-late)
        deadline += period
    return {"steps": steps, "episodes": episodes, "missed": missed, "act_ms": describe(acted or [0.0])}


def make_rows(
    pipeline: ValueGuidedPlannerPipeline, environments: VectorEnv, options: argparse.Namespace, call_ms: float
) -> list[dict[str, Any]]:
    """Return the measurements of each rate and agent.

    Args:
        pipeline: The planner.
        environments: One environment.
        options: Of the command line.
        call_ms: The 99th percentile of a planning call.
    """
    longest = int(pipeline.resolve_settings()["planning_horizon"]) // 2
    rows = []
    for rate in options.rates:
        delay = options.delay or min(max(1, math.ceil(call_ms * rate / 1000)), longest)
        agents: dict[str, dict[str, Any]] = {
            "synchronous, every step": {"replan_every": 1},
            f"synchronous, every {delay} steps": {"replan_every": delay},
            f"asynchronous, delay {delay}": {"replan_every": delay, "delay": delay, "asynchronous": True},
        }
        for name, settings in agents.items():
            measured = run_loop(PlanningAgent(pipeline, **settings), environments, rate, options.seconds)
            rows.append({"rate": rate, "agent": name, **settings, **measured})
    return rows


def main() -> None:
    """Measure, print the tables, and write them as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pipeline", type=Path, help="folder that acts in its own environment")
    parser.add_argument("--rates", type=float, nargs="+", default=[50.0, 100.0], help="periods a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each row's loop")
    parser.add_argument("--calls", type=int, default=TRIALS, help="calls of the tail")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--delay", type=int, help="of the asynchronous agent, in steps; by default by measurement")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        if options.pipeline is None:
            make_folder(SIZES["recipes"], Path(temporary))
        deployed = Deployment(str(options.pipeline or temporary))
        falls = {} if options.pipeline is not None else {"terminate_when_unhealthy": False}
        environments = make_environments(deployed.spec, 1, **falls)
        # A planning call leaves no cycles, but an environment may, and a full collection looks at all that was
        # imported, which takes a tenth of a second and more. What is frozen is not looked at.
        gc.collect()
        gc.freeze()
        tail = measure_tail(deployed.pipeline, options.calls)
        rows = make_rows(deployed.pipeline, environments, options, tail["ms"]["p99"])
        environments.close()
    device = str(deployed.pipeline.device)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {options.threads} threads"
    title = f"{name}: {tail['calls']} calls, {tail['collections']} collections"
    calls = Table("time", "p50, ms", "p99, ms", "longest, ms", "p99 / p50", title=title)
    for label, key in (("wall", "ms"), ("CPU", "cpu_ms")):
        times = tail[key]
        calls.add_row(label, *(f"{time_:.1f}" for time_ in times.values()), f"{times['p99'] / times['p50']:.2f}")
    loops = Table("Hz", "agent", "missed", "p50", "p99", "longest", title="Missed deadlines, and ms to act")
    for row in rows:
        missed = f"{row['missed']} of {row['steps']}"
        times = (f"{value:.2f}" for value in row["act_ms"].values())
        loops.add_row(f"{row['rate']:g}", row["agent"], missed, *times)
    Console().print(calls, loops)
    if options.json is not None:
        options.json.write_text(json.dumps({"device": name, "tail": tail, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
