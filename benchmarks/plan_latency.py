"""Milliseconds a planning step, the stock diffusers pipeline beside ours: same weights, same threads, one process.

python -m benchmarks.plan_latency [--json FILE] [--threads 2] [--rounds 3]

The networks are the paper's for Hopper (H = 32, T = 20) with random weights: speed does not depend on them.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.experimental import ValueGuidedRLPipeline
from diffusers.utils import logging
from rich.console import Console
from rich.table import Table

from vgp_lightning.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline import StockEnvironment, ValueGuidedPlannerPipeline
from vgp_lightning.training import make_noise_scheduler

ACTIONS, OBSERVATIONS, HORIZON, LEVELS, WIDTHS = 3, 11, 32, 20, (32, 64, 128, 256)


def make_folder(folder: str) -> None:
    """Write a planner with random weights."""
    torch.manual_seed(0)
    dimensions = ACTIONS + OBSERVATIONS
    ValueGuidedPlannerPipeline(
        make_denoiser(dimensions, HORIZON, WIDTHS),
        make_noise_scheduler(LEVELS, "squaredcos_cap_v2", "sample"),
        make_value_function(dimensions, HORIZON, WIDTHS),
        normalization={
            "action_dim": ACTIONS,
            "shift": [0.0] * dimensions,
            "scale": [1.0] * dimensions,
            "return_shift": 0.0,
            "return_scale": 1.0,
            "action_low": [None] * ACTIONS,
            "action_high": [None] * ACTIONS,
        },
    ).save_pretrained(folder)


def make_rows(folder: str, device: str) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Return for each row how many plans one step makes, and the step."""
    ours = ValueGuidedPlannerPipeline.from_pretrained(folder).to(device)
    stock = ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder)).to(device)
    observation = np.zeros(OBSERVATIONS, dtype=np.float32)

    def stock_step() -> Any:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
            return stock(observation, batch_size=64, planning_horizon=HORIZON, n_guide_steps=2, scale=0.1)

    def row(plans: int, environments: int = 1, **settings: Any) -> tuple[int, Callable[[], Any]]:
        observations = np.repeat(observation[None], environments, axis=0)
        return plans * environments, lambda: ours(observations, batch_size=plans, **settings)

    five = {"sampler": "ddim", "num_inference_steps": 5}
    return {
        "stock ValueGuidedRLPipeline": (64, stock_step),
        "same work": row(64, sampler="ddpm", n_guide_steps=2),
        "DDIM 5 steps": row(64, n_guide_steps=2, **five),
        "DDIM 5 steps, 16 plans, 1 guide step (export's default)": row(16, n_guide_steps=1, **five),
        "DDIM 5 steps, best of 16": row(16, n_guide_steps=0, **five),
        "export's default, N = 8 environments": row(16, environments=8, n_guide_steps=1, **five),
        "export's default, N = 32 environments": row(16, environments=32, n_guide_steps=1, **five),
    }


def measure(rows: dict[str, tuple[int, Callable[[], Any]]], rounds: int, device: str) -> list[dict[str, Any]]:
    """Take the rows in turn, round by round, so that a drift of the machine's speed meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        for name, (_, step) in rows.items():
            start = time.perf_counter()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    reference = medians["stock ValueGuidedRLPipeline"]
    return [
        {
            "name": name,
            "ms_per_step": 1000 * medians[name],
            "ratio_to_stock": reference / medians[name],
            "plans_per_second": plans / medians[name],
        }
        for name, (plans, _) in rows.items()
    ]


def main() -> None:
    """Measure, print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder)
        results = measure(make_rows(folder, device), options.rounds, device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {options.threads} threads"
    table = Table(title=f"H = {HORIZON}, T = {LEVELS}, widths {WIDTHS}; {name}; median of {options.rounds}")
    for heading in ("row", "ms a step", "times stock", "plans a second"):
        table.add_column(heading, justify="left" if heading == "row" else "right")
    for row in results:
        numbers = (row["ms_per_step"], row["ratio_to_stock"], row["plans_per_second"])
        table.add_row(row["name"], *(f"{number:.1f}" for number in numbers))
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps({"device": name, "rows": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
