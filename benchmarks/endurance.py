"""Memory, latency and open files over very many calls, pipelines and resumed trainings, each in one process.

OMP_NUM_THREADS=1 python -m benchmarks.endurance [--json benchmarks/results/endurance.json]
    [--calls 20000] [--pipelines 1000] [--trainings 200]

Calls: one tiny pipeline plans again and again. Pipelines: each is loaded, called and dropped. Trainings: ``vgp fit``
goes on from its last checkpoint, one step at a time. A tenth of each warms up before memory is looked at. Growth is the
slope of a line through the resident memory of what follows, so that one lump of the allocator's counts for little. The
whole takes about a quarter of an hour on one core. Memory, threads and open files are read from Linux's /proc.
"""

import argparse
import gc
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from rich.console import Console
from rich.table import Table

from benchmarks.data_scale import DATASET, STEPS, make_dataset
from vgp_lightning.cli import main as vgp
from vgp_lightning.export.folder import write_folder
from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.shipped import CONFIGS

ACTIONS, OBSERVATIONS, HORIZON, LEVELS = 2, 3, 8, 20
DIMENSIONS = ACTIONS + OBSERVATIONS
OBSERVATION = np.array([0.3, -0.2, 0.7])
SETTINGS = {
    "planning_horizon": HORIZON,
    "batch_size": 2,
    "num_inference_steps": 2,
    "sampler": "ddim",
    "n_guide_steps": 1,
    "scale": 0.01,
}
POINTS = 50  # at which memory is looked at


def make_folder(folder: Path) -> Path:
    """Write a tiny planner of random weights."""
    torch.manual_seed(0)
    pipeline = ValueGuidedPlannerPipeline(
        make_denoiser(DIMENSIONS, HORIZON, [16, 32, 64]),
        make_noise_scheduler(LEVELS, "squaredcos_cap_v2", "sample"),
        make_value_function(DIMENSIONS, HORIZON, [16, 32, 64]),
        normalization={
            "action_dim": ACTIONS,
            "shift": [0.0] * DIMENSIONS,
            "scale": [1.0] * DIMENSIONS,
            "return_shift": 0.0,
            "return_scale": 1.0,
            "action_low": [-1.0] * ACTIONS,
            "action_high": [1.0] * ACTIONS,
        },
        planner=SETTINGS,
    )
    return write_folder(pipeline, {}, folder)


def look() -> dict[str, int]:
    """Return this process's resident memory in bytes, its threads and its open files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident": 1024 * int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
    }


def repeat(act: Callable[[int], Any], count: int) -> dict[str, Any]:
    """Act so many times; return how memory, threads and open files grew, and how long each time took."""
    seconds = np.zeros(count)  # all of it now, or the list of latencies would be what grows
    seen: list[tuple[int, dict[str, int]]] = []
    every = max(1, count // POINTS)
    for i in range(count):
        start = time.perf_counter()
        act(i)
        seconds[i] = time.perf_counter() - start
        if i % every == every - 1:
            gc.collect()
            seen.append((i + 1, look()))
    settled = [(i, one) for i, one in seen if i > count // 10] or seen
    first, last = settled[0][1], settled[-1][1]
    turns, memory = [i for i, _ in settled], [one["resident"] for _, one in settled]
    slope = np.polyfit(turns, memory, 1)[0] if len(settled) > 1 else 0.0
    shares = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "max": 100}
    return {
        "count": count,
        "bytes_each": round(float(slope), 1),
        "resident_first_mb": round(first["resident"] / 1e6, 1),
        "resident_last_mb": round(last["resident"] / 1e6, 1),
        "threads": [first["threads"], last["threads"]],
        "files": [first["files"], last["files"]],
        "ms": {name: round(1000 * float(np.percentile(seconds, share)), 2) for name, share in shares.items()},
    }


def plan_again(folder: Path, count: int) -> dict[str, Any]:
    """Plan many times with one pipeline."""
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    return repeat(lambda i: pipeline(OBSERVATION, generator=torch.Generator().manual_seed(i)), count)


def load_again(folder: Path, count: int) -> dict[str, Any]:
    """Load many pipelines, and plan once with each."""
    return repeat(lambda i: ValueGuidedPlannerPipeline.from_pretrained(folder)(OBSERVATION), count)


def train_again(folder: Path, count: int) -> dict[str, Any]:
    """Resume a training many times in this process, for one more step each time."""
    make_dataset(folder, STEPS)
    files = [word for name in ("denoiser", "smoke") for word in ("-c", str(CONFIGS / f"{name}.yaml"))]
    options = {
        "data.dataset_id": DATASET,
        "data.cache_dir": str(folder / "cache"),
        "data.validation_share": "0",
        "trainer.accelerator": "cpu",
        "trainer.enable_model_summary": "false",
        "trainer.limit_val_batches": "0",
        "trainer.logger.init_args.save_dir": str(folder / "runs"),
        "trainer.default_root_dir": str(folder / "runs"),
        "may_differ": "[trainer.max_steps]",
        "ckpt_path": "last",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]

    def train(turn: int) -> None:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                vgp(["fit", *files, *words, "--trainer.max_steps", str(turn + 1)])

    result = repeat(train, count)
    (last,) = (folder / "runs").rglob("last.ckpt")
    return result | {"last_step": torch.load(last, weights_only=True)["global_step"]}


def main() -> None:
    """Measure, print a table, and write JSON if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--pipelines", type=int, default=1000)
    parser.add_argument("--trainings", type=int, default=200)
    options = parser.parse_args()
    logging.set_verbosity_error()
    getLogger("lightning").setLevel(ERROR)
    getLogger("lightning.pytorch").setLevel(ERROR)
    getLogger("lightning.fabric").setLevel(ERROR)
    logging.disable_progress_bar()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_folder(Path(temporary) / "planner")
        for name, work, count in (
            ("calls", lambda n: plan_again(folder, n), options.calls),
            ("pipelines", lambda n: load_again(folder, n), options.pipelines),
            ("trainings", lambda n: train_again(Path(temporary), n), options.trainings),
        ):
            rows[name] = work(count)
            Console(stderr=True).print(f"{name}: {rows[name]}", markup=False)
    table = Table(title=f"Endurance; {torch.get_num_threads()} threads")
    for heading in ("what", "count", "bytes each", "MB", "threads", "files", "p50 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, row in rows.items():
        megabytes = f"{row['resident_first_mb']:.0f} to {row['resident_last_mb']:.0f}"
        spans = ["{} to {}".format(*row[key]) for key in ("threads", "files")]
        times = [f"{row['ms'][key]:.1f}" for key in ("p50", "p99", "max")]
        table.add_row(name, str(row["count"]), f"{row['bytes_each']:.0f}", megabytes, *spans, *times)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
