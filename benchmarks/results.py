"""Run the recipes end to end, each with several seeds, and keep their results, from which RESULTS.md is made.

python -m benchmarks.results [RECIPE ...] [--seeds 0 1 2] [--machine cpu|gpu] [--accelerator cpu|gpu] [--jobs 2]
    [--folder runs/results]

A recipe is a dataset of configs/data, the sizes of its environment in configs/cpu, or in configs/gpu for the larger
mazes (with `--machine gpu` the paper's, and configs/hardware/gpu.yaml), and the planner's settings in configs/evaluate,
and in configs/critic where a critic is to choose by default. For each recipe and each seed of training: `vgp fit` of
both networks, `vgp export`, `vgp critic`, the planners on the same seeds, `vgp diagnose` (of the first training), and
the time of a planning call when nothing else runs. In mazes plans end at the goal (configs/inpainting): `vgp fit` of
the denoiser alone, and what acts are the plans' own actions or a controller that follows their states.
`--accelerator gpu` trains the networks of configs/cpu on a GPU. A step whose result exists is not repeated, so the same
command goes on after an interruption, also days later. The results go to benchmarks/results/MACHINE/RECIPE/SEED.json,
and RESULTS.md is made again (benchmarks.results_page).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import minari
import torch
import yaml
from diffusers.utils import logging
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import results_page
from vgp_lightning.agent.deployment import load_pipeline, measure_latency
from vgp_lightning.diagnostics.diagnosis import diagnose
from vgp_lightning.distillation.criticism import train_critic
from vgp_lightning.evaluation.comparison import compare
from vgp_lightning.evaluation.evaluation import evaluate
from vgp_lightning.export.trained import export
from vgp_lightning.pipeline.companions import CRITIC, has_companion
from vgp_lightning.report.files import write_report
from vgp_lightning.report.statistics import summarize

CONFIGS = results_page.ROOT / "configs"
UNGUIDED = results_page.UNGUIDED  # neither guided nor chosen: what the others have to return more than
PLANNERS, MAZE_PLANNERS = results_page.PLANNERS, results_page.MAZE_PLANNERS
FIRST_SEED = 5_000_000  # far from the seeds of the data, of tuning and of manual trials
AT_ONCE = 20  # environments that are stepped together
EPISODES = {"pointmaze": 50}  # of evaluation, where they are short
LONG = ("pointmaze-medium", "pointmaze-large")  # the minutes of configs/cpu are too few: trained by configs/gpu
DIAGNOSED = 5  # episodes, of the first training alone: a diagnosis takes as long as three evaluations
_NETWORK = ("widths", "stride", "learning_rate", "num_train_timesteps")


def overlays(recipe: str, machine: str) -> list[Path]:
    """Return the recipe's training configs, base first."""
    environment, name = recipe.split("-", 1)
    if machine == "gpu":
        sizes = CONFIGS / "hardware" / "gpu.yaml"
    else:
        sizes = CONFIGS / ("gpu" if recipe in LONG else "cpu") / f"{environment}.yaml"
    data = CONFIGS / "data" / f"{recipe}.yaml"
    if results_page.is_maze(recipe):
        return [CONFIGS / "denoiser.yaml", data, CONFIGS / "inpainting" / f"{name}.yaml", sizes]
    return [CONFIGS / "planner.yaml", data, sizes]


def settings_of(recipe: str, folder: str) -> dict[str, Any]:
    """Return a recipe's settings of planning in a folder of configs; none if it has no file there."""
    path = CONFIGS / folder / f"{recipe}.yaml"
    return dict(yaml.safe_load(path.read_text())) if path.exists() else {}


def train(recipe: str, machine: str, accelerator: str | None, seed: int, folder: Path) -> Path:
    """Train the networks, or resume an interrupted run, and return the last checkpoint."""
    with (folder / "fit.log").open("a") as log:
        subprocess.run(
            [
                *(sys.executable, "-m", "vgp_lightning.cli", "fit"),
                *(word for file in overlays(recipe, machine) for word in ("-c", str(file))),
                *("--seed_everything", str(seed)),
                *(("--trainer.accelerator", accelerator, "--trainer.devices", "1") if accelerator else ()),
                *("--trainer.logger.init_args.save_dir", str(folder), "--ckpt_path", "last"),
            ],
            check=True,
            stdout=log,
            stderr=log,
        )
    return last_checkpoint(recipe, folder)


def last_checkpoint(recipe: str, folder: Path) -> Path:
    """Return the path of a recipe's last checkpoint."""
    name = "denoiser" if results_page.is_maze(recipe) else "planner"
    return folder / name / "version_0" / "checkpoints" / "last.ckpt"


def describe_training(recipe: str, folder: Path) -> dict[str, Any]:
    """Return what was trained, an estimate of its time, and the last validation.

    ``minutes`` are the training steps divided by the median rate of training steps. The time of validation,
    checkpoints and the start of the run is left out.
    """
    run = last_checkpoint(recipe, folder).parent.parent
    config = yaml.safe_load((run / "config.yaml").read_text())
    events = EventAccumulator(str(run))
    events.Reload()
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    steps = config["trainer"]["max_steps"]
    on_gpu = config["trainer"]["accelerator"] == "gpu"
    threads = torch.get_num_threads()
    return {
        "steps": steps,
        "minutes": steps / statistics.median(scalars["train/steps_per_second"]) / 60,
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {threads} thread{'s' * (threads > 1)}",
        **{name: config["data"][name] for name in ("horizon", "discount", "batch_size")},
        **{name: config["model"]["init_args"][name] for name in _NETWORK},
        "validation": {tag: values[-1] for tag, values in sorted(scalars.items()) if tag.startswith("val")},
    }


@cache  # several trainings have the same
def describe_dataset(dataset_id: str) -> dict[str, Any]:
    """Return a summary of the episode returns of a dataset, those of its behaviour policy, and of the best of them.

    ``best_tenth`` is the mean return of the tenth of the episodes that returned most, of one at least.
    """
    dataset = minari.load_dataset(dataset_id)
    returns = [float(episode.rewards.sum()) for episode in dataset.iterate_episodes()]
    return {
        "id": dataset_id,
        "steps": int(dataset.total_steps),
        "episodes": len(returns),
        "best_tenth": statistics.mean(sorted(returns)[-max(1, round(len(returns) / 10)) :]),
        **asdict(summarize(returns)),
    }


def run(recipe: str, machine: str, seed: int, folder: Path, accelerator: str | None) -> None:
    """Run all steps of a recipe with one seed except the timing, and leave the results in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = folder / "pipeline"
    if not pipeline.exists():
        checkpoint = train(recipe, machine, accelerator, seed, folder)
        export(str(checkpoint), str(pipeline), **settings_of(recipe, "evaluate"))
    maze = results_page.is_maze(recipe)
    if not maze and not has_companion(pipeline, CRITIC):
        train_critic(str(pipeline), str(folder / "critic"), seed=seed, **settings_of(recipe, "critic"))
    if not (folder / "training.json").exists():
        write_report(describe_training(recipe, folder), folder / "training.json")
    episodes = EPISODES.get(recipe.split("-")[0], 20)
    for name, settings in (MAZE_PLANNERS if maze else PLANNERS).items():
        output = folder_of(name, folder)
        if not (output / "evaluation.json").exists():
            evaluate(
                str(pipeline),
                episodes,
                str(output),
                seed=FIRST_SEED,
                environments=min(episodes, AT_ONCE),
                video=False,
                **settings,
            )
    if not maze and seed == 0 and not (folder / "diagnosis" / "diagnostics.json").exists():
        guided = PLANNERS["guided, best by value"]
        diagnose(str(pipeline), DIAGNOSED, str(folder / "diagnosis"), seed=FIRST_SEED, video=False, **guided)


def folder_of(planner: str, folder: Path) -> Path:
    """Return the folder of a planner's evaluation."""
    return folder / planner.replace(",", "").replace(" ", "-")


def gather(recipe: str, machine: str, seed: int, folder: Path) -> dict[str, Any]:
    """Time the planners, and return all results of a recipe with one seed."""
    pipeline, maze = load_pipeline(folder / "pipeline"), results_page.is_maze(recipe)
    names = list(MAZE_PLANNERS if maze else PLANNERS)  # the first is what the others are compared with
    reports = {name: json.loads((folder_of(name, folder) / "evaluation.json").read_text()) for name in names}
    anyone = reports[names[0]]
    results = {
        "recipe": recipe,
        "machine": machine,
        "seed": seed,
        "configs": [str(file.relative_to(CONFIGS.parent)) for file in overlays(recipe, machine)],
        "dataset": describe_dataset(pipeline.task["dataset_id"][0]),
        "training": json.loads((folder / "training.json").read_text()),
        "first_seed": anyone["seed"],
        **{name: anyone[name] for name in ("env_id", "reference", "checkpoints", "weights_sha256", "versions")},
        "planners": {name: shorten(report) for name, report in reports.items()},
        "pairs": {name: compared(folder_of(names[0], folder), folder_of(name, folder)) for name in names[1:]},
    }
    if maze:
        return results | {"latency_ms": dict.fromkeys(names, measure_latency(pipeline))}  # either acts on such a plan
    default = pipeline.resolve_settings()
    results |= {
        # The planner that a user of the folder gets.
        "default": next((name for name, report in reports.items() if report["settings"] == default), None),
        "latency_ms": {name: measure_latency(pipeline, **settings) for name, settings in PLANNERS.items()},
    }
    diagnosis = folder / "diagnosis" / "diagnostics.json"
    if diagnosis.exists():
        kept = ("calibration", "ranking", "dynamics", "horizon", "guidance", "choice", "missing")
        found = json.loads(diagnosis.read_text())
        results["diagnosis"] = {name: found[name] for name in kept if name in found}
    return results


def shorten(report: dict[str, Any]) -> dict[str, Any]:
    """Return of an evaluation what is kept, the episodes in the order of their seeds."""
    episodes = sorted(report["episodes"], key=lambda one: one["seed"])
    kept = ("return_mean", "return_ci95", "return_iqm", "length_mean", "terminated_share", "success_rate")
    return {name: report[name] for name in (*kept, "first_success_mean", "settings")} | {
        "seeds": [one["seed"] for one in episodes],
        "returns": [round(one["return"], 3) for one in episodes],
        "lengths": [one["length"] for one in episodes],
    }


def compared(a: Path, b: Path) -> dict[str, Any]:
    """Return the comparison's result that RESULTS.md shows."""
    result = compare(str(a), str(b))
    return {name: result[name] for name in ("difference", "ci95", "permutation_p", "share_higher", "told", "verdict")}


def main() -> None:
    """Run the recipes in parallel, time them one after the other, and make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted(path.stem for path in (CONFIGS / "evaluate").glob("*.yaml"))
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--machine", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--accelerator", choices=("cpu", "gpu"), help="where the networks are trained; default: as the configs say"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings in parallel, each with its share of the cores")
    parser.add_argument("--folder", type=Path, default=Path("runs/results"))
    options = parser.parse_args()
    if unknown := sorted(set(options.recipes) - set(known)):
        parser.error(f"unknown recipes {unknown}: choose from {known}")
    # First one training of each recipe, then the second: an interruption leaves something of all.
    asked = [(recipe, options.machine, seed) for seed in options.seeds for recipe in options.recipes or known]
    folders = {one: options.folder / one[1] / one[0] / f"seed-{one[2]}" for one in asked}
    logging.disable_progress_bar()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    # Spawned processes, each of which sets its own number of threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, take_cores, (threads,), max_tasks_per_child=1) as pool:
        jobs = [pool.submit(run, *one, folder, options.accelerator) for one, folder in folders.items()]
        for job in jobs:
            job.result()
    for (recipe, machine, seed), folder in folders.items():
        target = results_page.RESULTS / machine / recipe / f"{seed}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_report(gather(recipe, machine, seed, folder), target)
    results_page.main()


def take_cores(threads: int) -> None:
    """Limit this process, and those that it starts, to a number of threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
