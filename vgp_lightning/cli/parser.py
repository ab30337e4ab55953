"""The parser of a verb: the parameters of its function as options, with a help that says more than their list."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

from vgp_lightning.cli.manual import flags_help
from vgp_lightning.cli.verbs import VERBS, flags_of
from vgp_lightning.report.documents import restrict_parsers

_CONFIG_HELP = "a file of these options, from the current folder or one of `vgp configs`; later files take precedence"
_SETTINGS_HELP = """The options without a default that are not required are settings of planning (docs/planning.md). One
that is not given keeps its default: the folder's, or for a new folder that of the verb. null stands for None."""


def parser_of(verb: str, function: Callable[..., Any], parse_error: Callable[..., NoReturn]) -> ArgumentParser:
    """Return a parser that has a function's parameters as options.

    Args:
        verb: The verb.
        function: What it calls.
        parse_error: Takes the place of the parser's own ``error``.
    """
    restrict_parsers(classes=False)
    entry = VERBS[verb]
    parameters = inspect.signature(function).parameters

    class Parser(ArgumentParser):
        error = parse_error

        def format_help(self, *args: Any, **kwargs: Any) -> str:
            """Return the help, with the docstrings' double backticks as single ones, and what all verbs have."""
            text = super().format_help(*args, **kwargs).replace("``", "`")
            listing = ""
            if entry.listing is not None:
                module, name = entry.listing
                listing = f"\n{getattr(import_module(f'vgp_lightning.{module}'), name)()}\n"
            flags = flags_help(flags_of(verb))
            return f"{text}{flags}\n{listing}\nexample:\n  {entry.example}\n\n{entry.page} explains more.\n"

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
