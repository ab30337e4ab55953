"""The verbs of ``vgp``: what each one calls, and what its help says."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """What a verb calls. Module and function are text, because importing most of them imports torch.

    Attributes:
        what: What it does.
        module: Of the function, below ``vgp_lightning``.
        function: Its name; its parameters are the options.
        positional: Whether arguments without a default may be given by position.
        outcome: What is printed before the path that is returned.
        own_parser: Whether the function takes (verb and options, parse_error) and parses them itself.
        kept: What Ctrl-C leaves.
        plans: Whether it plans, with threads that wait as agent/threads.py says.
        example: Of its use.
        page: Of the documentation.
        listing: Module and function that return a text for the end of its help.
        rehearsed: Whether it has a dry run.
        aliases: Other names of its options.
        own_json: Whether its function has a parameter for the file of ``--json``, beside which it writes a page.
    """

    what: str
    module: str
    function: str
    positional: bool = False
    outcome: str | None = None
    own_parser: bool = False
    kept: str = "nothing was written"
    plans: bool = False
    example: str = ""
    page: str = ""
    listing: tuple[str, str] | None = None
    rehearsed: bool = False
    aliases: Mapping[str, str] = {}
    own_json: bool = False


_GOES_ON = "the episodes that were finished are kept: the same command goes on from there"
_FITS = "last.ckpt, if there is one yet, is kept: the same command with --ckpt_path last goes on from there"
_OUTPUT = {"output_dir": "output"}
VERBS = {
    "collect": Verb(
        *("let a behaviour act and write a Minari dataset", "agent.collection", "collect"),
        kept=_GOES_ON,
        example="vgp collect --env_id Hopper-v5 --behaviour hopper-linear --weight_noise 0.1 --action_noise 0.5 "
        "--steps 100000 --dataset_id me/hopper-v0",
        page="docs/training.md",
        listing=("agent.behaviours", "describe_behaviours"),
        rehearsed=True,
    ),
    "import-data": Verb(
        *(
            "write a Minari dataset from HDF5, npz, CSV, parquet or LeRobot",
            "recordings.importing",
            "import_data",
            True,
        ),
        example="vgp import-data runs.npz --dataset_id me/robot/runs-v0",
        page="docs/data.md",
    ),
    "describe": Verb(
        *("say what a dataset is like, and propose settings", "data.describing", "describe", True),
        example="vgp describe me/robot/runs-v0 --output own.yaml",
        page="docs/data.md",
    ),
    "fit": Verb(
        *("train a denoiser, a value function or both on Minari datasets", "training.fit", "run"),
        own_parser=True,
        kept=_FITS,
        example="vgp fit -c planner.yaml -c data/hopper-medium.yaml",
        rehearsed=True,
        page="docs/training.md",
    ),
    "validate": Verb(
        *("measure a checkpoint on the held-out episodes", "training.fit", "run"),
        own_parser=True,
        example="vgp validate -c planner.yaml -c data/hopper-medium.yaml --ckpt_path last",
        page="docs/training.md",
    ),
    "export": Verb(
        *("write two checkpoints as one pipeline folder", "export.trained", "export"),
        outcome="exported to",
        example="vgp export --denoiser runs/planner/version_0/checkpoints/last.ckpt --output exports/hopper",
        page="docs/planning.md",
        aliases=_OUTPUT,
    ),
    "import": Verb(
        *("write the original code's checkpoints as one pipeline folder", "export.original", "import_original"),
        positional=True,
        outcome="imported to",
        example="vgp import diffusion/state_900000.pt --value values/state_180000.pt --statistics hopper.hdf5 "
        "--output exports/hopper",
        page="docs/planning.md",
        aliases=_OUTPUT,
    ),
    "evaluate": Verb(
        *("let a pipeline folder act in its environment", "evaluation.evaluation", "evaluate", True),
        kept=_GOES_ON,
        plans=True,
        example="vgp evaluate exports/hopper --episodes 20 --n_guide_steps 2",
        rehearsed=True,
        page="docs/evaluation.md",
    ),
    "compare": Verb(
        *("say whether two evaluations differ, on the same seeds", "evaluation.comparison", "compare", True),
        own_json=True,
        example="vgp compare runs/evaluate/before runs/evaluate/after",
        page="docs/evaluation.md",
    ),
    "publish": Verb(
        *("write an evaluation into a planner's card, put its folder on the Hub", "evaluation.publishing", "publish"),
        positional=True,
        outcome="written to",
        example="vgp publish exports/hopper --evaluation runs/evaluate/hopper --push_to_hub me/hopper",
        page="docs/hub.md",
    ),
    "distill": Verb(
        *("teach a planner's actions to a small network in its folder", "distillation.distillation", "distill", True),
        kept="the folder is as it was; the same command begins anew",
        plans=True,
        example="vgp distill exports/hopper",
        rehearsed=True,
        page="docs/habit.md",
    ),
    "critic": Verb(
        *("train small networks in a planner's folder that rank its candidates", "distillation.criticism"),
        *("train_critic", True),
        kept="the folder is as it was; the same command begins anew",
        example="vgp critic exports/hopper",
        rehearsed=True,
        page="docs/strength.md",
    ),
    "tune": Verb(
        *("find the settings that return most, within a budget", "tuning.search", "tune", True),
        kept=_GOES_ON,
        plans=True,
        example="vgp tune exports/hopper --episodes 300 --latency_ms 50",
        rehearsed=True,
        page="docs/evaluation.md",
    ),
    "diagnose": Verb(
        *("show why a planner returns what it returns", "diagnostics.diagnosis", "diagnose", True),
        kept=_GOES_ON,
        plans=True,
        example="vgp diagnose exports/hopper",
        page="docs/diagnostics.md",
    ),
    "play": Verb(
        *("show a planner live in the browser, beside its plans", "play.server", "play", True),
        plans=True,
        example="vgp play exports/hopper",
        page="docs/play.md",
    ),
    "program": Verb(
        *("write a folder's planner as a program without Python", "export.program_folder", "make_program", True),
        outcome="written to",
        example="vgp program exports/hopper onnx --batch_size 16",
        page="docs/deploy.md",
    ),
    "demo": Verb(
        *("all of these in miniature, with a report", "demo", "demo"),
        kept="the next demo begins anew in its folder",
        example="vgp demo --output_dir runs/demo",
        rehearsed=True,
        page="README.md",
    ),
    "configs": Verb(
        *("list the configs that ship with the package, or print one", "cli.configs", "show_configs"),
        own_parser=True,
        example="vgp configs planner.yaml > mine.yaml",
        page="docs/training.md",
    ),
}


def function_of(verb: str) -> Callable[..., Any]:
    """Import what a verb calls."""
    entry = VERBS[verb]
    function: Callable[..., Any] = getattr(import_module(f"vgp_lightning.{entry.module}"), entry.function)
    return function


def reports(function: Callable[..., Any]) -> bool:
    """Return whether a verb's function returns a report."""
    return str(function.__annotations__.get("return")).startswith("dict")


def flags_of(verb: str) -> tuple[str, ...]:
    """Return the names of the flags that a verb takes, as its help and completion show them."""
    entry = VERBS[verb]
    has_report = not (entry.own_parser or entry.own_json) and reports(function_of(verb))
    return ("quiet", *(["dry_run"] if entry.rehearsed else []), *(["json"] if has_report else []))
