"""The command line: ``vgp VERB ...``. Each verb imports what it needs when it is called, so that help is fast."""

import difflib
import inspect
import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NoReturn, get_args

from vgp_lightning.failures import Failure, explain, fail, mark_as_bug
from vgp_lightning.flags import Flags, directed, spell, take_flags, write_json
from vgp_lightning.given import read_options
from vgp_lightning.manual import FIT_OPTIONS, fit_help, flags_help, overview, versions
from vgp_lightning.options import error_of
from vgp_lightning.own_modules import find_here
from vgp_lightning.shipped import locate_configs
from vgp_lightning.threads import own_threads


@dataclass(frozen=True)
class _Verb:
    """What a verb calls. Module and function are text, because importing most of them imports torch."""

    what: str
    module: str
    function: str
    positional: bool = False  # whether arguments without a default may be given by position
    outcome: str | None = None  # what is printed before the path that is returned
    own_parser: bool = False  # whether the function takes (verb and options, parse_error) and parses them itself
    kept: str = "nothing was written"  # what Ctrl-C leaves
    plans: bool = False  # whether it plans, with threads that wait as threads.py says
    example: str = ""  # of its use
    page: str = ""  # of the documentation
    listing: tuple[str, str] | None = None  # module and function that return a text for the end of its help
    rehearsed: bool = False  # whether it has a dry run
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of its options


_GOES_ON = "the episodes that were finished are kept: the same command goes on from there"
_FITS = "last.ckpt, if there is one yet, is kept: the same command with --ckpt_path last goes on from there"
_OUTPUT = {"output_dir": "output"}
_VERBS = {
    "collect": _Verb(
        *("let a behaviour act and write a Minari dataset", "agent.collection", "collect"),
        kept=_GOES_ON,
        example="vgp collect --env_id Hopper-v5 --behaviour hopper-linear --weight_noise 0.1 --action_noise 0.5 "
        "--steps 100000 --dataset_id me/hopper-v0",
        page="docs/training.md",
        listing=("agent.behaviours", "describe_behaviours"),
        rehearsed=True,
    ),
    "import-data": _Verb(
        *("write a Minari dataset from HDF5, npz, CSV, parquet or LeRobot", "data.importing", "import_data", True),
        example="vgp import-data runs.npz --dataset_id me/robot/runs-v0",
        page="docs/data.md",
    ),
    "describe": _Verb(
        *("say what a dataset is like, and propose settings", "data.describing", "describe", True),
        example="vgp describe me/robot/runs-v0 --output own.yaml",
        page="docs/data.md",
    ),
    "fit": _Verb(
        *("train a denoiser, a value function or both on Minari datasets", "training.fit", "run"),
        own_parser=True,
        kept=_FITS,
        example="vgp fit -c planner.yaml -c data/hopper-medium.yaml",
        rehearsed=True,
        page="docs/training.md",
    ),
    "validate": _Verb(
        *("measure a checkpoint on the held-out episodes", "training.fit", "run"),
        own_parser=True,
        example="vgp validate -c planner.yaml -c data/hopper-medium.yaml --ckpt_path last",
        page="docs/training.md",
    ),
    "export": _Verb(
        *("write two checkpoints as one pipeline folder", "export.trained", "export"),
        outcome="exported to",
        example="vgp export --denoiser runs/planner/version_0/checkpoints/last.ckpt --output exports/hopper",
        page="docs/planning.md",
        aliases=_OUTPUT,
    ),
    "import": _Verb(
        *("write the original code's checkpoints as one pipeline folder", "export.original", "import_original"),
        positional=True,
        outcome="imported to",
        example="vgp import diffusion/state_900000.pt --value values/state_180000.pt --statistics hopper.hdf5 "
        "--output exports/hopper",
        page="docs/planning.md",
        aliases=_OUTPUT,
    ),
    "evaluate": _Verb(
        *("let a pipeline folder act in its environment", "evaluation.evaluation", "evaluate", True),
        kept=_GOES_ON,
        plans=True,
        example="vgp evaluate exports/hopper --episodes 20 --n_guide_steps 2",
        rehearsed=True,
        page="docs/evaluation.md",
    ),
    "compare": _Verb(
        *("say whether two evaluations differ, on the same seeds", "evaluation.comparison", "compare", True),
        example="vgp compare runs/evaluate/before runs/evaluate/after",
        page="docs/evaluation.md",
    ),
    "publish": _Verb(
        *("write an evaluation into a planner's card, put its folder on the Hub", "evaluation.publishing", "publish"),
        positional=True,
        outcome="written to",
        example="vgp publish exports/hopper --evaluation runs/evaluate/hopper --push_to_hub me/hopper",
        page="docs/hub.md",
    ),
    "distill": _Verb(
        *("teach a planner's actions to a small network in its folder", "distillation.distillation", "distill", True),
        kept="the folder is as it was; the same command begins anew",
        plans=True,
        example="vgp distill exports/hopper",
        page="docs/habit.md",
    ),
    "critic": _Verb(
        *("train small networks in a planner's folder that rank its candidates", "distillation.criticism"),
        *("train_critic", True),
        kept="the folder is as it was; the same command begins anew",
        example="vgp critic exports/hopper",
        rehearsed=True,
        page="docs/strength.md",
    ),
    "tune": _Verb(
        *("find the settings that return most, within a budget", "tuning.search", "tune", True),
        kept=_GOES_ON,
        plans=True,
        example="vgp tune exports/hopper --episodes 300 --latency_ms 50",
        rehearsed=True,
        page="docs/evaluation.md",
    ),
    "diagnose": _Verb(
        *("show why a planner returns what it returns", "diagnostics.diagnosis", "diagnose", True),
        kept=_GOES_ON,
        plans=True,
        example="vgp diagnose exports/hopper",
        page="docs/diagnostics.md",
    ),
    "play": _Verb(
        *("show a planner live in the browser, beside its plans", "play.server", "play", True),
        plans=True,
        example="vgp play exports/hopper",
        page="docs/play.md",
    ),
    "program": _Verb(
        *("write a folder's planner as a program without Python", "export.program_folder", "make_program", True),
        outcome="written to",
        example="vgp program exports/hopper onnx --batch_size 16",
        page="docs/deploy.md",
    ),
    "demo": _Verb(
        *("all of these in miniature, with a report", "demo", "demo"),
        kept="the next demo begins anew in its folder",
        example="vgp demo --output_dir runs/demo",
        page="README.md",
    ),
    "configs": _Verb(
        *("list the configs that ship with the package, or print one", "shipped", "show_configs"),
        own_parser=True,
        example="vgp configs planner.yaml > mine.yaml",
        page="docs/training.md",
    ),
}
_OF_FIT = (
    *("model", "data", "trainer", "ema", "health", "checkpoint", "seed_everything", "ckpt_path", "may_differ"),
    "output_dir",
)

_CONFIG_HELP = "a file of these options, from the current folder or one of `vgp configs`; later files take precedence"
_SETTINGS_HELP = """The options without a default that are not required are settings of planning (docs/planning.md). One
that is not given keeps its default: the folder's, or for a new folder that of the verb. null stands for None."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a verb.

    Args:
        args: Verb and options; default: the process's.

    Raises:
        SystemExit: With 2 and one message if the user can cure what is wrong, with 130 after Ctrl-C. With
            ``VGP_TRACEBACK=1`` the exception itself is raised.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    verb, *rest = arguments or ["--help"]
    verb = verb if verb in _VERBS else verb.replace("_", "-")
    try:
        if os.environ.get("VGP_TRACEBACK"):
            _run(verb, rest)
        else:
            _run_explained(verb, rest)
    except Failure as failure:
        print(f"vgp: {failure.message}", file=sys.stderr)
        raise SystemExit(failure.code) from None


def _run_explained(verb: str, args: list[str]) -> None:
    """Run a verb; where it fails by what a user can cure, say so in one message."""
    try:
        _run(verb, args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        kept = f": {_VERBS[verb].kept}" if verb in _VERBS else ""
        fail(f"interrupted{kept}", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise SystemExit(141) from None  # as SIGPIPE ends a process
        message = explain(error)
        if message is None:
            mark_as_bug(error)
            raise
        fail(message)


def _nobody_reads() -> bool:
    """Return whether the reader of the output has seen enough, as `head` has; if so, discard the rest of it."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter flushes it once more
    return True


def _run(verb: str, args: list[str]) -> None:
    """Find the configs that are named, import what the verb calls, and call it."""
    if verb in ("-h", "--help"):
        print(overview({name: entry.what for name, entry in _VERBS.items()}))
        return
    if verb == "--version":
        print(versions())
        return
    if verb.partition("=")[0] in ("--print-completion", "--print_completion"):
        print(_completion(verb.partition("=")[2] or (args[0] if args else "")))
        return
    if verb not in _VERBS:
        near = difflib.get_close_matches(verb, _VERBS, n=1)
        guess = f". Did you mean {near[0]}?" if near else ""
        fail(f"unknown verb {verb!r}: choose from {', '.join(_VERBS)}{guess}")
    entry = _VERBS[verb]
    flags, options = take_flags(verb, spell(args, entry.aliases))
    if entry.function == "run" and {"-h", "--help"} & set(options):
        print(fit_help(verb, entry.what))
        return
    options = ["--help" if word == "--help_all" else word for word in locate_configs(options)]
    if entry.plans:
        own_threads()  # before anything loads torch
    parse_error = error_of(verb, read_options(options), _verbs_with)
    function = _function(verb)
    _check_flags(verb, flags, function)
    if verb == "fit" and flags.dry_run:
        function = import_module(f"vgp_lightning.{entry.module}").rehearse
    with directed(flags):
        if entry.own_parser:
            function([verb, *options], parse_error)
            return
        result = _call(verb, function, options, parse_error, flags)
    if flags.json is not None and not flags.dry_run and not _has_own_json(function, flags):
        write_json(result, flags.json)


def _check_flags(verb: str, flags: Flags, function: Callable[..., Any]) -> None:
    """Refuse a flag that has no meaning for the verb."""
    if flags.json is not None and not _reports(function):
        others = ", ".join(name for name in _VERBS if _reports(_function(name)))
        fail(f"vgp {verb} has no report for --json: it is for vgp {others} (vgp {verb} --help)")
    if flags.dry_run and not _VERBS[verb].rehearsed:
        others = ", ".join(name for name, entry in _VERBS.items() if entry.rehearsed)
        fail(f"vgp {verb} has no --dry_run: it is for vgp {others} (vgp {verb} --help)")


def _reports(function: Callable[..., Any]) -> bool:
    """Return whether a verb's function returns a report."""
    return str(inspect.signature(function).return_annotation).startswith("dict")


def _has_own_json(function: Callable[..., Any], flags: Flags) -> bool:
    """Return whether the function writes the file itself; none prints it."""
    return "json" in inspect.signature(function).parameters and flags.json != "-"


def _function(verb: str) -> Callable[..., Any]:
    entry = _VERBS[verb]
    function: Callable[..., Any] = getattr(import_module(f"vgp_lightning.{entry.module}"), entry.function)
    return function


def _call(
    verb: str, function: Callable[..., Any], args: list[str], parse_error: Callable[..., NoReturn], flags: Flags
) -> Any:
    """Call a verb's function with its parameters as options, and return what it returns."""
    from diffusers.utils import logging

    entry = _VERBS[verb]
    parser = _parser(verb, function, parse_error)
    if flags.json is not None and _has_own_json(function, flags):
        args = [*args, f"--json={flags.json}"]
    options = parser.instantiate(parser.parse_args(args)).as_dict()
    del options["config"]
    for name, value in options.items():
        if value == "":
            fail(f"{name} is empty: give a value, or leave it out (is a variable of the shell not set?)")
    _refuse_trust_by_file(options, args)
    find_here(options.get("env_id"))  # typed, as the line before makes sure
    logging.disable_progress_bar()  # of the three files of a folder
    if flags.dry_run:
        from vgp_lightning.rehearsal import rehearse

        return rehearse(verb, options)
    result = function(**options)
    if entry.outcome is not None:
        print(f"{entry.outcome} {result}")
    return result


def _parser(verb: str, function: Callable[..., Any], parse_error: Callable[..., NoReturn]) -> Any:
    """Return a parser that has a function's parameters as options."""
    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

    from vgp_lightning.report.documents import restrict_parsers

    restrict_parsers(classes=False)
    entry = _VERBS[verb]

    class Parser(ArgumentParser):
        error = parse_error

        def format_help(self, *args: Any, **kwargs: Any) -> str:
            """Return the help, with the docstrings' double backticks as single ones, and what all verbs have."""
            text = super().format_help(*args, **kwargs).replace("``", "`")
            names = (
                "quiet",
                *(["dry_run"] if entry.rehearsed else []),
                *(["json"] if _reports(function) and "json" not in parameters else []),
            )
            listing = ""
            if entry.listing is not None:
                module, name = entry.listing
                listing = f"\n{getattr(import_module(f'vgp_lightning.{module}'), name)()}\n"
            return f"{text}{flags_help(names)}\n{listing}\nexample:\n  {entry.example}\n\n{entry.page} explains more.\n"

    parameters = inspect.signature(function).parameters
    places = [name for name, one in parameters.items() if one.default is one.empty and name != "settings"]
    shown = "".join(f" {name.upper()}" for name in places if entry.positional)
    parser = Parser(
        prog=f"vgp {verb}",
        usage=f"vgp {verb}{shown} [options]",
        description=entry.what,
        epilog=_SETTINGS_HELP if "settings" in parameters else None,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help=_CONFIG_HELP)
    parser.add_function_arguments(function, as_group=False, as_positional=entry.positional, fail_untyped=True)
    return parser


def _completion(shell: str) -> str:
    """Return the script that completes the command in a shell."""
    from vgp_lightning.completion import Option, complete

    verbs: dict[str, tuple[str, list[Option]]] = {}
    for verb, entry in _VERBS.items():
        if not entry.own_parser:
            actions = _parser(verb, _function(verb), fail)._actions  # argparse has no public list of them
            options = [
                Option(one.option_strings or [one.dest], str(one.help), list(one.choices) if one.choices else None)
                for one in actions
                if "--help" not in one.option_strings
            ]
            options.append(Option(["--quiet"], "print nothing but errors"))
        elif entry.function == "run":
            short = {"config": ["-c"]}
            options = [Option([*short.get(name, []), f"--{name}"], meaning) for name, _, meaning in FIT_OPTIONS]
        else:
            options = []
        verbs[verb] = (entry.what, options)
    return complete(shell, verbs)


def _verbs_with(name: str) -> list[str]:
    """Return the verbs that have an option of this name."""
    verbs = ["fit", "validate"] if name in _OF_FIT else []
    for verb, entry in _VERBS.items():
        if not entry.own_parser:
            parameters = inspect.signature(_function(verb)).parameters
            settings = get_args(parameters["settings"].annotation) if "settings" in parameters else ()
            if name in parameters or any(name in kind.__annotations__ for kind in settings):
                verbs.append(verb)
    return verbs


def _refuse_trust_by_file(options: dict[str, Any], args: list[str]) -> None:
    """Refuse a config that allows code to run: a config is passed on, so that the user's own word is needed.

    Raises:
        ValueError: If a file gives ``trust_environment``, or an environment of another package.
    """
    if options.get("trust_environment") and not any(word.startswith("--trust_environment") for word in args):
        raise ValueError("a config gives trust_environment: it counts only as an option, --trust_environment true")
    env_id = options.get("env_id")
    if env_id is not None and ":" in env_id and not {env_id, f"--env_id={env_id}"} & set(args):
        raise ValueError(f"a config gives env_id {env_id}, which imports a package: give it as an option, --env_id")


if __name__ == "__main__":
    main()
