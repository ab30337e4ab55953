"""The command line: ``vgp VERB ...``. Each verb imports what it needs when it is called, so that help is fast."""

import difflib
import inspect
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from vgp_lightning import __version__
from vgp_lightning.shipped import locate_configs


@dataclass(frozen=True)
class _Verb:
    """What a verb calls. Module and function are text, because importing most of them imports torch."""

    what: str
    module: str
    function: str
    positional: bool = False  # whether arguments without a default may be given by position
    outcome: str | None = None  # what is printed before the path that is returned
    own_parser: bool = False  # whether the function takes (verb and options, parse_error) and parses them itself


_VERBS = {
    "collect": _Verb("let a behaviour act and write a Minari dataset", "agent.collection", "collect"),
    "fit": _Verb(
        "train a denoiser, a value function or both on Minari datasets", "training.fit", "run", own_parser=True
    ),
    "validate": _Verb("measure a checkpoint on the held-out episodes", "training.fit", "run", own_parser=True),
    "export": _Verb("write two checkpoints as one pipeline folder", "export.trained", "export", outcome="exported to"),
    "import": _Verb(
        *("write the original code's checkpoints as one pipeline folder", "export.original", "import_original"),
        positional=True,
        outcome="imported to",
    ),
    "evaluate": _Verb("let a pipeline folder act in its environment", "evaluation.evaluation", "evaluate", True),
    "compare": _Verb("say whether two evaluations differ, on the same seeds", "evaluation.comparison", "compare", True),
    "tune": _Verb("find the settings that return most, within a budget", "tuning.search", "tune", True),
    "diagnose": _Verb("show why a planner returns what it returns", "diagnostics.diagnosis", "diagnose", True),
    "demo": _Verb("all of these in miniature, with a report", "demo", "demo"),
    "configs": _Verb(
        "list the configs that ship with the package, or print one", "shipped", "show_configs", own_parser=True
    ),
}


_CONFIG_HELP = "a file of these options, from the current folder or one of `vgp configs`; later files take precedence"
_SETTINGS_HELP = """The options without a default that are not required are settings of planning (docs/planning.md). One
that is not given keeps its default: the folder's, or for a new folder that of the verb. null stands for None."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a verb.

    Args:
        args: Verb and options; default: the process's.

    Raises:
        SystemExit: With 2 and one message if an argument is wrong. ``VGP_TRACEBACK=1`` shows where.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    verb, *rest = arguments
    if verb not in _VERBS:
        near = difflib.get_close_matches(verb, _VERBS, n=1)
        guess = f". Did you mean {near[0]}?" if near else ""
        _fail(f"unknown verb {verb!r}: choose from {', '.join(_VERBS)}{guess}")
    if os.environ.get("VGP_TRACEBACK"):
        _run(verb, rest)
        return
    try:
        _run(verb, rest)
    except (ValueError, OSError, FloatingPointError, pickle.UnpicklingError) as error:
        _fail(_message(error))
    except Exception as error:
        # Lightning's word for a user's error; imported by now, unless the error came before.
        if type(error).__name__ != "MisconfigurationException":
            raise
        _fail(str(error))


def _run(verb: str, args: list[str]) -> None:
    """Find the configs that are named, import what the verb calls, and call it."""
    entry, options = _VERBS[verb], locate_configs(args)
    function: Callable[..., Any] = getattr(import_module(f"vgp_lightning.{entry.module}"), entry.function)
    if entry.own_parser:
        function([verb, *options], _parse_error)
    else:
        _call(verb, function, options)


def _call(verb: str, function: Callable[..., Any], args: list[str]) -> None:
    """Call a verb's function with its parameters as options."""
    from diffusers.utils import logging
    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

    from vgp_lightning.report.documents import restrict_parsers

    restrict_parsers(classes=False)

    class Parser(ArgumentParser):
        error = _parse_error

        def format_help(self, *args: Any, **kwargs: Any) -> str:
            """Return the help, with the docstrings' double backticks as single ones."""
            return super().format_help(*args, **kwargs).replace("``", "`")

    entry = _VERBS[verb]
    takes_settings = "settings" in inspect.signature(function).parameters
    epilog = _SETTINGS_HELP if takes_settings else None
    parser = Parser(prog=f"vgp {verb}", description=entry.what, epilog=epilog)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help=_CONFIG_HELP)
    parser.add_function_arguments(function, as_group=False, as_positional=entry.positional, fail_untyped=True)
    options = parser.instantiate(parser.parse_args(args)).as_dict()
    del options["config"]
    _refuse_trust_by_file(options, args)
    logging.disable_progress_bar()  # of the three files of a folder
    result = function(**options)
    if entry.outcome is not None:
        print(f"{entry.outcome} {result}")


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


def _message(error: BaseException) -> str:
    """Return the words of the error that this package raised, where jsonargparse has wrapped it in its own."""
    cause: BaseException | None = error
    while cause is not None:
        frames = list(traceback.walk_tb(cause.__traceback__))
        if frames and frames[-1][0].f_globals.get("__name__", "").startswith("vgp_lightning."):
            return str(cause)
        cause = cause.__cause__
    return str(error)


def _parse_error(parser: Any, message: str, ex: Exception | None = None) -> NoReturn:
    """Say in one line what is wrong with the options, without jsonargparse's listing of types and of all options."""
    del ex
    noise = ("Does not validate", "Subtypes:", "Errors:", "- Expected a <class 'NoneType'>", "Given value")
    lines = [line.strip() for line in message.splitlines()]
    prog = parser.prog.replace(" [options]", "")
    _fail(" ".join(line for line in lines if line and not line.startswith(noise)) + f" ({prog} --help)")


def _fail(message: str) -> NoReturn:
    print(f"vgp: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
