"""Make the planner that ships with the package: collect, train two small networks, export, evaluate.

    python -m benchmarks.shipped runs/shipped                      # less than half an hour on two cores
    python -m benchmarks.shipped runs/shipped --install            # and replace planners/hopper-example by it

What is there already is taken, so an interrupted command goes on where it was. The planner is evaluated as it ships, in
half precision, against one unguided plan at a time, the data's own behaviour policy, and random actions, on the same
seeds.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from vgp_lightning.agent.behaviours import make_behaviour
from vgp_lightning.agent.collection import collect
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.demo import ACTION_NOISE, BEHAVIOUR, ENVIRONMENT, FIRST_SEED, WEIGHT_NOISE, train
from vgp_lightning.evaluation.evaluation import evaluate, evaluate_agent
from vgp_lightning.export.card import add_evaluation
from vgp_lightning.export.trained import export
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import ONE_PLAN
from vgp_lightning.report.documents import read_json
from vgp_lightning.report.files import write_report
from vgp_lightning.shipped import EXAMPLE, PLANNERS

DATASET, STEPS, EPISODES = "example/hopper/mixed-v0", 80_000, 20
# So small that both fit into 600 kB in half precision; less than half an hour on two cores.
TRAININGS: dict[str, tuple[str, int]] = {"denoiser": ("[32,48]", 8000), "value": ("[16,64]", 4000)}
DATA = f"""Its data are {STEPS} steps of `vgp collect --env_id {ENVIRONMENT} --behaviour {BEHAVIOUR}
--weight_noise {WEIGHT_NOISE} --action_noise {ACTION_NOISE}`: episodes from a good gait down to immediate falls.
`python -m benchmarks.shipped FOLDER` makes it anew."""
NOTE = """The copy that ships with vgp_lightning has no `pipeline.py`, because the package is that code:
`ValueGuidedPlannerPipeline.from_pretrained(vgp_lightning.example_planner()).save_pretrained("hopper")` writes a folder
that diffusers loads alone."""
SETTINGS: dict[str, Any] = {"batch_size": 16, "n_guide_steps": 1, "warm_start_strength": 0.4}


def train_missing(folder: Path) -> dict[str, str]:
    """Train the networks that are not trained yet, side by side; return the checkpoints."""
    missing = {}
    for kind, (widths, steps) in TRAININGS.items():
        if not (folder / f"{kind}.done").exists():
            shutil.rmtree(folder / kind, ignore_errors=True)
            missing[kind] = [  # paths are relative to the folder, because the planner carries its configs
                *("--data.dataset_id", DATASET, "--data.cache_dir", "cache", "--data.batch_size", "128"),
                *("--model.init_args.widths", widths, "--model.init_args.learning_rate", "1e-3"),
                *("--trainer.max_steps", str(steps)),
                *("--trainer.val_check_interval", str(steps // 2), "--trainer.limit_val_batches", "10"),
                *("--trainer.logger.init_args.save_dir", ".", "--seed_everything", "0"),
            ]
    os.chdir(folder)
    train(missing, folder)
    for kind in missing:
        (folder / f"{kind}.done").touch()
    return {kind: str(folder / kind / "version_0" / "checkpoints" / "last.ckpt") for kind in TRAININGS}


def halve(exported: Path, folder: Path) -> Path:
    """Write an exported planner with its weights in half precision, without the code, which the package has.

    They are loaded as float32, as all weights are, and it is these that are evaluated.
    """
    if not folder.exists():
        pipeline = ValueGuidedPlannerPipeline.from_pretrained(exported)
        pipeline.to(torch.float16, silence_dtype_warnings=True).save_pretrained(folder)
        (folder / "pipeline.py").unlink()
        card = (folder / "README.md").read_text()
        (folder / "README.md").write_text(card.replace("## Load\n", f"{DATA}\n\n## Load\n\n{NOTE}\n", 1))
    return folder


def play_others(output: Path) -> dict[str, Any]:
    """Evaluate what needs no planner: the behaviour policy that the data are from, and random actions."""
    reports = {}
    seeds = range(FIRST_SEED, FIRST_SEED + EPISODES)
    for name, options in (
        ("behaviour policy", {"behaviour": BEHAVIOUR, "weight_noise": WEIGHT_NOISE, "action_noise": ACTION_NOISE}),
        ("random actions", {"behaviour": "random"}),
    ):
        path = output / f"{name}.json"
        if not path.is_file():
            environments = make_environments(ENVIRONMENT, EPISODES)
            agent = make_behaviour(options.pop("behaviour"), environments, **options)
            output.mkdir(parents=True, exist_ok=True)
            write_report(evaluate_agent(agent, environments, seeds, description=name), path)
            environments.close()
        reports[name] = read_json(path)
    return reports


def main() -> None:
    """Make the planner, and put it into the clone if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where everything goes, outside of the repository")
    parser.add_argument("--install", action="store_true", help=f"replace planners/{EXAMPLE} of the clone")
    given = parser.parse_args()
    folder: Path = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "datasets")
    if not (folder / "datasets" / DATASET).exists():
        collect(ENVIRONMENT, BEHAVIOUR, STEPS, DATASET, seed=0, weight_noise=WEIGHT_NOISE, action_noise=ACTION_NOISE)
    checkpoints = train_missing(folder)
    if not (folder / "exported").exists():
        export(checkpoints["denoiser"], str(folder / "exported"), checkpoints["value"], **SETTINGS)
    planner = halve(folder / "exported", folder / EXAMPLE)
    output = folder / "evaluation"
    guided = evaluate(str(planner), EPISODES, str(output / "guided"), seed=FIRST_SEED, environments=EPISODES)
    sampled: dict[str, Any] = {**ONE_PLAN, "warm_start_strength": 1.0}
    unguided = evaluate(
        str(planner), EPISODES, str(output / "unguided"), seed=FIRST_SEED, environments=EPISODES, video=False, **sampled
    )
    others = {"one unguided plan at a time": unguided, **play_others(output)}
    add_evaluation(planner, guided, None, others)
    if given.install:
        target = PLANNERS / EXAMPLE
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(planner, target)
        print(f"installed as {target}")


if __name__ == "__main__":
    main()
