"""The rows of the planning benchmark: the networks' sizes, and the calls that are timed with each.

A row has a kind. ``KINDS`` names for each kind the function that makes its call; another kind of planner is one more
function there, and rows that name it.
"""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.experimental import ValueGuidedRLPipeline

from benchmarks.plan_calls import load, make_call
from vgp_lightning.export.program_folder import make_program
from vgp_lightning.export.program_formats import load as load_program
from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import EXPORT_DEFAULTS
from vgp_lightning.pipeline.stock import StockEnvironment

ACTIONS, OBSERVATIONS, LEVELS = 3, 11, 20


@dataclass(frozen=True)
class Size:
    """A size of the networks: horizon and widths. Both networks have the same."""

    horizon: int
    widths: tuple[int, ...]


SIZES = {"paper": Size(32, (32, 64, 128, 256)), "recipes": Size(8, (64, 128, 128))}


@dataclass(frozen=True)
class Row:
    """A call that is timed.

    Attributes:
        size: Which of ``SIZES``.
        name: What is said of it in the table.
        settings: Settings of planning.
        environments: N.
        warm: Whether it begins from a plan.
        kind: Which of ``KINDS`` makes it.
    """

    size: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    environments: int = 1
    warm: bool = False
    kind: str = "planner"

    @property
    def plans(self) -> int:
        """The number of plans that a call makes."""
        return int(self.settings["batch_size"]) * self.environments

    def request(self) -> dict[str, Any]:
        """Return what ``plan_calls.make_call`` needs."""
        horizon = SIZES[self.size].horizon
        return {
            "settings": self.settings | {"planning_horizon": horizon},
            "environments": self.environments,
            "warm": self.warm,
            "horizon": horizon,
        }


PROGRAMS = ("onnx", "pt2")
STOCK, SAME = "stock ValueGuidedRLPipeline", "same work"
FIVE = {"sampler": "ddim", "num_inference_steps": 5}
SLOW = {"sampler": "ddpm", "num_inference_steps": LEVELS, "batch_size": 64, "n_guide_steps": 2}
BEST = FIVE | {"batch_size": 16, "n_guide_steps": 0, "warm_start_strength": 1.0}
GUIDED = BEST | {"n_guide_steps": 1}
WARM = {"warm_start_strength": 0.4}
ROWS = [
    row
    for size in SIZES
    for row in (
        Row(size, STOCK, SLOW, kind="stock"),
        Row(size, SAME, SLOW | {"warm_start_strength": 1.0}),
        Row(size, "DDIM 5 steps, 64 plans, 2 guide steps", FIVE | {"batch_size": 64, "n_guide_steps": 2}),
        Row(size, "DDIM 5 steps, a single plan (export's default)", BEST | {"batch_size": 1}),
        Row(size, "DDIM 5 steps, best of 16", BEST),
        Row(size, "DDIM 5 steps, 16 plans, 1 guide step", GUIDED),
        Row(size, "warm start (2 of 5 steps), best of 16", BEST | WARM, warm=True),
        Row(size, "warm start (2 of 5 steps), 16 plans, 1 guide step", GUIDED | WARM, warm=True),
        Row(size, "best of 16, N = 8 environments", BEST, 8),
        Row(size, "best of 16, N = 32 environments", BEST, 32),
    )
]
# Making the programs takes one and several minutes, so they are made at one size.
ROWS += [
    Row("recipes", "best of 16 as a program, onnx (one thread)", BEST, kind="onnx"),
    Row("recipes", "best of 16 as a program, pt2", BEST, kind="pt2"),
    Row("recipes", "a habit's answer (a chunk of 4 actions)", {"batch_size": 1}, kind="habit"),
]


def make_folder(size: Size, folder: Path) -> None:
    """Write a planner for Hopper with random weights, which do not affect the speed."""
    torch.manual_seed(0)
    dimensions = ACTIONS + OBSERVATIONS
    ValueGuidedPlannerPipeline(
        make_denoiser(dimensions, size.horizon, size.widths),
        make_noise_scheduler(LEVELS, "squaredcos_cap_v2", "sample"),
        make_value_function(dimensions, size.horizon, size.widths),
        normalization={
            "action_dim": ACTIONS,
            "shift": [0.0] * dimensions,
            "scale": [1.0] * dimensions,
            "return_shift": 0.0,
            "return_scale": 1.0,
            "action_low": [-1.0] * ACTIONS,
            "action_high": [1.0] * ACTIONS,
        },
        planner=dict(EXPORT_DEFAULTS) | {"planning_horizon": size.horizon},
        task={"env_id": "Hopper-v5"},
    ).save_pretrained(folder)


_load = cache(load)  # one pipeline for all rows of a folder


def make_planner(row: Row, folder: Path) -> Callable[[], Any]:
    """Return a call of this package's pipeline."""
    return make_call(_load(str(folder)), row.request())


def make_stock(row: Row, folder: Path) -> Callable[[], Any]:
    """Return a call of diffusers' own class."""
    stock = ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder), low_cpu_mem_usage=False)
    stock.to("cuda" if torch.cuda.is_available() else "cpu")
    observation = np.zeros(OBSERVATIONS, dtype=np.float32)
    options = {name: row.settings[name] for name in ("batch_size", "n_guide_steps")}
    horizon = SIZES[row.size].horizon

    def call() -> Any:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
            return stock(observation, planning_horizon=horizon, scale=0.1, **options)

    return call


def make_program_call(row: Row, folder: Path) -> Callable[[], Any]:
    """Return a call of the planner as a program; the row's kind is its format.

    Raises:
        ValueError: If a package or a compiler is missing.
    """
    path = make_program(str(folder), row.kind, **row.settings)
    run = load_program(path, row.kind)
    horizon, dimensions = SIZES[row.size].horizon, ACTIONS + OBSERVATIONS
    observation = torch.zeros(OBSERVATIONS)
    noise = torch.randn(1, row.settings["batch_size"], horizon, dimensions, generator=torch.Generator().manual_seed(0))
    return lambda: run({"observation": observation, "noise": noise})


def make_habit(row: Row, folder: Path) -> Callable[[], Any]:
    """Return a call of a habit of the size that ``vgp distill`` makes by default."""
    statistics = json.loads((folder / "model_index.json").read_text())["normalization"]
    habit = Habit(statistics, 4, [512, 512, 512]).eval()
    observation = np.zeros(OBSERVATIONS, dtype=np.float32)
    return lambda: habit.answer(observation)


KINDS: dict[str, Callable[[Row, Path], Callable[[], Any]]] = {
    "planner": make_planner,
    "stock": make_stock,
    "onnx": make_program_call,
    "pt2": make_program_call,
    "habit": make_habit,
}
