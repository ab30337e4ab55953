"""What a stride saves: the time of a planning call and of a training step with several strides, side by side.

python -m benchmarks.strides [--horizon 160] [--widths 32 64 128 128] [--strides 1 4] [--rounds 12]

The denoiser of configs/inpainting/umaze.yaml and configs/cpu/pointmaze.yaml, untrained, on one thread: the values do
not affect the speed. The rows alternate; a row's figure is the median of the processor's time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vgp_lightning.data.windows import Batch, Draw
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.fast import can_forward

ACTIONS, OBSERVATIONS, LEVELS, BATCH = 2, 8, 64, 64
_WARM_UP = 2  # rounds


def prepare(stride: int, horizon: int, widths: list[int]) -> dict[str, Callable[[], object]]:
    """Return a planning call and a training step with a stride."""
    dimensions = {"transition_dim": ACTIONS + OBSERVATIONS, "action_dim": ACTIONS, "horizon": horizon}
    module = DenoiserModule(**dimensions, task={}, widths=widths, num_train_timesteps=LEVELS, stride=stride)
    module.accelerated = can_forward(module.network, module.folded[0])  # as fit decides
    settings = {"planning_horizon": horizon, "batch_size": 1, "sampler": "ddim", "num_inference_steps": 10}
    pipeline = ValueGuidedPlannerPipeline(
        module.network, module.noise_scheduler, normalization=module.normalization, planner=settings
    )
    windows = torch.randn(BATCH, horizon, ACTIONS + OBSERVATIONS)
    batch = Batch(windows, torch.zeros(BATCH), Draw(np.arange(BATCH), BATCH, 0, 1, 0))

    def train() -> None:
        module.zero_grad()
        module.training_loss(batch).backward()  # type: ignore[no-untyped-call]

    return {"a plan": lambda: pipeline(torch.zeros(OBSERVATIONS)), "a training step": train}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--horizon", type=int, default=160)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 128])
    parser.add_argument(
        "--strides", type=int, nargs="+", default=[1, 4], help="the first is what others are compared with"
    )
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    works = {stride: prepare(stride, options.horizon, options.widths) for stride in options.strides}
    seconds: dict[tuple[int, str], list[float]] = {}
    for _ in range(_WARM_UP + options.rounds):
        for stride, work in works.items():
            for name, call in work.items():
                start = time.process_time()
                call()
                seconds.setdefault((stride, name), []).append(time.process_time() - start)
    medians = {key: statistics.median(times[_WARM_UP:]) for key, times in seconds.items()}
    table = Table(title=f"H = {options.horizon}, widths {options.widths}, one thread")
    for heading in ("stride", *(f"ms {name}" for name in works[options.strides[0]])):
        table.add_column(heading, justify="right")
    for stride, work in works.items():
        cells = []
        for name in work:
            share = medians[stride, name] / medians[options.strides[0], name]
            cells.append(f"{1000 * medians[stride, name]:.0f} ({share:.2f})")
        table.add_row(str(stride), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
