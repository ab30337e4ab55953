"""The command line: ``vgp VERB ...``. Each verb imports what it needs when it is called, so that help is fast."""

import difflib
import inspect
import os
import select
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn, get_args

from vgp_lightning import __version__
from vgp_lightning.failures import explain, fail, mark_as_bug
from vgp_lightning.given import read_options
from vgp_lightning.options import error_of
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


_GOES_ON = "the episodes that were finished are kept: the same command goes on from there"
_FITS = "last.ckpt, if there is one yet, is kept: the same command with --ckpt_path last goes on from there"
_VERBS = {
    "collect": _Verb("let a behaviour act and write a Minari dataset", "agent.collection", "collect", kept=_GOES_ON),
    "fit": _Verb(
        *("train a denoiser, a value function or both on Minari datasets", "training.fit", "run"),
        own_parser=True,
        kept=_FITS,
    ),
    "validate": _Verb("measure a checkpoint on the held-out episodes", "training.fit", "run", own_parser=True),
    "export": _Verb("write two checkpoints as one pipeline folder", "export.trained", "export", outcome="exported to"),
    "import": _Verb(
        *("write the original code's checkpoints as one pipeline folder", "export.original", "import_original"),
        positional=True,
        outcome="imported to",
    ),
    "evaluate": _Verb(
        *("let a pipeline folder act in its environment", "evaluation.evaluation", "evaluate", True),
        kept=_GOES_ON,
        plans=True,
    ),
    "publish": _Verb(
        *("write an evaluation into a planner's card, put its folder on the Hub", "evaluation.publishing", "publish"),
        positional=True,
        outcome="written to",
    ),
    "compare": _Verb("say whether two evaluations differ, on the same seeds", "evaluation.comparison", "compare", True),
    "distill": _Verb(
        *("teach a planner's actions to a small network in its folder", "distillation.distillation", "distill", True),
        kept="the folder is as it was; the same command begins anew",
        plans=True,
    ),
    "critic": _Verb(
        *("train small networks in a planner's folder that rank its candidates", "distillation.criticism"),
        *("train_critic", True),
        kept="the folder is as it was; the same command begins anew",
    ),
    "tune": _Verb(
        *("find the settings that return most, within a budget", "tuning.search", "tune", True),
        kept=_GOES_ON,
        plans=True,
    ),
    "diagnose": _Verb(
        *("show why a planner returns what it returns", "diagnostics.diagnosis", "diagnose", True),
        kept=_GOES_ON,
        plans=True,
    ),
    "program": _Verb(
        *("write a folder's planner as a program without Python", "export.program_folder", "make_program", True),
        outcome="written to",
    ),
    "demo": _Verb(
        *("all of these in miniature, with a report", "demo", "demo"), kept="the next demo begins anew in its folder"
    ),
    "configs": _Verb(
        "list the configs that ship with the package, or print one", "shipped", "show_configs", own_parser=True
    ),
}
_OF_FIT = ("model", "data", "trainer", "ema", "health", "checkpoint", "seed_everything", "ckpt_path", "may_differ")


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
    if os.environ.get("VGP_TRACEBACK"):
        _run(verb, rest)
        return
    try:
        _run(verb, rest)
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
        print(_help())
        return
    if verb == "--version":
        print(__version__)
        return
    if verb not in _VERBS:
        near = difflib.get_close_matches(verb, _VERBS, n=1)
        guess = f". Did you mean {near[0]}?" if near else ""
        fail(f"unknown verb {verb!r}: choose from {', '.join(_VERBS)}{guess}")
    entry, options = _VERBS[verb], locate_configs(args)
    if entry.plans:
        own_threads()  # before anything loads torch
    parse_error = error_of(verb, read_options(options), _verbs_with)
    function = _function(verb)
    if entry.own_parser:
        function([verb, *options], parse_error)
    else:
        _call(verb, function, options, parse_error)


def _function(verb: str) -> Callable[..., Any]:
    entry = _VERBS[verb]
    function: Callable[..., Any] = getattr(import_module(f"vgp_lightning.{entry.module}"), entry.function)
    return function


def _call(verb: str, function: Callable[..., Any], args: list[str], parse_error: Callable[..., NoReturn]) -> None:
    """Call a verb's function with its parameters as options."""
    from diffusers.utils import logging
    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

    from vgp_lightning.report.documents import restrict_parsers

    restrict_parsers(classes=False)

    class Parser(ArgumentParser):
        error = parse_error

        def format_help(self, *args: Any, **kwargs: Any) -> str:
            """Return the help, with the docstrings' double backticks as single ones."""
            return super().format_help(*args, **kwargs).replace("``", "`")

    entry = _VERBS[verb]
    takes_settings = "settings" in inspect.signature(function).parameters
    epilog = _SETTINGS_HELP if takes_settings else None
    parser = Parser(prog=f"vgp {verb}", description=entry.what, epilog=epilog, allow_abbrev=False)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help=_CONFIG_HELP)
    parser.add_function_arguments(function, as_group=False, as_positional=entry.positional, fail_untyped=True)
    options = parser.instantiate(parser.parse_args(args)).as_dict()
    del options["config"]
    for name, value in options.items():
        if value == "":
            fail(f"{name} is empty: give a value, or leave it out (is a variable of the shell not set?)")
    _refuse_trust_by_file(options, args)
    logging.disable_progress_bar()  # of the three files of a folder
    result = function(**options)
    if entry.outcome is not None:
        print(f"{entry.outcome} {result}")


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


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10}{entry.what}" for verb, entry in _VERBS.items())
    return (
        "usage: vgp VERB [options]\n\nFrom offline episodes to a planner that acts.\n\n"
        f"{verbs}\n\nvgp VERB --help lists a verb's options; every option can be in a file named with -c."
    )


if __name__ == "__main__":
    main()
