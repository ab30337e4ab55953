"""Completion in a shell: verbs, options, choices, configs, files."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import shtab

from vgp_lightning.cli.configs import config_names
from vgp_lightning.cli.failures import fail
from vgp_lightning.cli.manual import FIT_OPTIONS, FLAGS
from vgp_lightning.cli.parser import parser_of
from vgp_lightning.cli.verbs import VERBS, flags_of, function_of

_FOLDERS = ("pipeline_folder", "folder", "output", "output_dir", "a", "b")
_FILES = ("denoiser", "value", "ckpt_path", "json", "statistics")
# Configs are files of the current folder, and those that ship.
_CONFIGS = shtab.FILE | {"bash": "_vgp_configs", "zsh": "_vgp_configs"}


@dataclass(frozen=True)
class _Option:
    """An option of a verb, or an argument without a name.

    Attributes:
        names: Its names with dashes; of an argument without a name: that of the function's parameter.
        help: What it does.
        choices: The values that it takes, if they are few.
        takes_value: Whether a value follows.
    """

    names: Sequence[str]
    help: str
    choices: Sequence[str] | None = None
    takes_value: bool = True


def complete(shell: str) -> str:
    """Return a shell's script that completes the command.

    Args:
        shell: One of ``shtab.SUPPORTED_SHELLS``.

    Raises:
        ValueError: If the shell is another one.
    """
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ValueError(f"--print_completion is {shell!r}: one of {', '.join(shtab.SUPPORTED_SHELLS)} is needed")
    parser = argparse.ArgumentParser(prog="vgp", description="From offline episodes to a planner that acts.")
    for name in ("--version", "--print_completion"):
        parser.add_argument(name)
    subparsers = parser.add_subparsers(dest="verb")
    for verb, entry in VERBS.items():
        one = subparsers.add_parser(verb, help=entry.what, description=entry.what)
        for option in _options_of(verb):
            _add(one, option)
    names = " ".join(config_names())
    preamble = {
        "bash": f'_vgp_configs() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}\n',
        "zsh": f'_vgp_configs() {{ _alternative "configs:config:({names})" "files:file:_files" }}\n',
    }
    script: str = shtab.complete(parser, shell, preamble=preamble.get(shell, ""))
    return script


def _options_of(verb: str) -> list[_Option]:
    """Return the options of a verb; of fit and validate, those that their short help names."""
    entry = VERBS[verb]
    flags = [_Option([f"--{name}"], FLAGS[name][1], None, name == "json") for name in flags_of(verb)]
    if entry.function == "run":
        short = {"config": ["-c"]}
        return [*(_Option([*short.get(name, []), f"--{name}"], meaning) for name, _, meaning in FIT_OPTIONS), *flags]
    if entry.own_parser:
        return flags
    actions = parser_of(verb, function_of(verb), fail)._actions  # argparse has no public list of them
    options = [
        _Option(one.option_strings or [one.dest], str(one.help), _choices(getattr(one, "_typehint", None)))
        for one in actions
        if "--help" not in one.option_strings
    ]
    return [*options, *flags]


def _choices(kind: Any) -> list[str] | None:
    """Return the words that an option of a type takes; None: any other words too, or the type is unknown."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if kind in (bool, NoneType):
        return ["true", "false"] if kind is bool else ["null"]
    if get_origin(kind) not in (Union, UnionType):
        return None
    parts = [_choices(part) for part in get_args(kind)]
    return None if None in parts else [word for part in parts for word in part or ()]


def _add(parser: argparse.ArgumentParser, option: _Option) -> None:
    """Add an option to a parser that is only read by shtab."""
    meaning = " ".join(option.help.split()).replace("%", "%%")
    meaning = meaning.partition(". ")[0]
    if not option.takes_value:
        parser.add_argument(*option.names, help=meaning, action="store_true")
        return
    action = parser.add_argument(*option.names, help=meaning, choices=option.choices)
    name = option.names[-1].lstrip("-")
    if name == "config":
        action.complete = _CONFIGS  # type: ignore[attr-defined]
    elif name in _FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif name in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
