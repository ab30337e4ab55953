"""The command line: ``vgp VERB ...``. Each verb imports what it needs when it is called, so that help is quick."""

import difflib
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

# In a clone they stand beside the package, in an installed wheel inside it.
_BESIDE = Path(__file__).parent.parent / "configs"
CONFIGS = _BESIDE if _BESIDE.is_dir() else Path(__file__).parent / "configs"

_VERBS = {
    "collect": "let a behaviour act and write a Minari dataset",
    "fit": "train a denoiser, a value function or both on Minari datasets",
    "validate": "measure a checkpoint on the held-out episodes",
    "export": "write two checkpoints as one pipeline folder",
    "import": "write the original code's checkpoints as one pipeline folder",
    "evaluate": "let a pipeline folder act in its environment",
    "compare": "say whether two evaluations differ, on the same seeds",
    "tune": "find the settings that return most, within a budget",
    "diagnose": "show why a planner returns what it returns",
    "demo": "all of these in miniature, with a report",
}


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
        print(version("vgp_lightning"))
        return
    verb, *rest = arguments
    if verb not in _VERBS:
        near = difflib.get_close_matches(verb, _VERBS, n=1)
        guess = f". Did you mean {near[0]}?" if near else ""
        _fail(f"unknown verb {verb!r}: choose from {', '.join(_VERBS)}{guess}")
    if verb in ("fit", "validate"):
        # LightningCLI warns where it is handed what it could read itself.
        run = partial(_lightning, None if args is None else arguments)
    else:
        run = partial(_run, verb, rest)
    if os.environ.get("VGP_TRACEBACK"):
        run()
        return
    try:
        run()
    except (ValueError, OSError, FloatingPointError, pickle.UnpicklingError) as error:
        _fail(_message(error))
    except Exception as error:
        # Lightning's word for a user's error; imported by now, unless the error came before.
        if type(error).__name__ != "MisconfigurationException":
            raise
        _fail(str(error))


def _run(verb: str, args: list[str]) -> None:
    if verb == "collect":
        from vgp_lightning.collect import collect

        _call(verb, collect, args)
    elif verb == "export":
        from vgp_lightning.export import export

        print(f"exported to {_call(verb, export, args)}")
    elif verb == "import":
        from vgp_lightning.original import import_original

        print(f"imported to {_call(verb, import_original, args, positional=True)}")
    elif verb == "evaluate":
        from vgp_lightning.evaluation import evaluate

        _call(verb, evaluate, args, positional=True)
    elif verb == "compare":
        from vgp_lightning.comparison import compare

        _call(verb, compare, args, positional=True)
    elif verb == "tune":
        from vgp_lightning.tuning import tune

        _call(verb, tune, args, positional=True)
    elif verb == "diagnose":
        from vgp_lightning.diagnostics import diagnose

        _call(verb, diagnose, args, positional=True)
    else:
        from vgp_lightning.demo import demo

        _call(verb, demo, args)


def _call(verb: str, function: Callable[..., Any], args: list[str], *, positional: bool = False) -> Any:
    """Call a function with its parameters as options; those without a default may be positional."""
    from diffusers.utils import logging
    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

    class Parser(ArgumentParser):
        error = _parse_error

    parser = Parser(prog=f"vgp {verb}", description=_VERBS[verb])
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="a file of these options; later ones win")
    parser.add_function_arguments(function, as_group=False, as_positional=positional, fail_untyped=True)
    options = parser.instantiate(parser.parse_args(args)).as_dict()
    del options["config"]
    logging.disable_progress_bar()  # of the three files of a folder
    return function(**options)


def _lightning(args: list[str] | None) -> None:
    from vgp_lightning.fitting import run

    run(args, _parse_error)


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10}{what}" for verb, what in _VERBS.items())
    return (
        "usage: vgp VERB [options]\n\nFrom offline episodes to a planner that acts.\n\n"
        f"{verbs}\n\nvgp VERB --help tells a verb's options; every option can stand in a file given with -c."
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
