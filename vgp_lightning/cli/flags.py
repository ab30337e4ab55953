"""Flags that every verb takes (--quiet, --json, --dry_run), and where its output goes then."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgp_lightning.cli.failures import fail
from vgp_lightning.report.streams import diverted, silenced

NAMES = ("quiet", "dry_run", "json")


@dataclass(frozen=True)
class Flags:
    """What a command asks of its output.

    Attributes:
        quiet: Print nothing but errors, and the report if it is asked for.
        dry_run: Say what would be done and what it would take, without doing it.
        json: File for the report, or ``-`` for standard output; None: none.
    """

    quiet: bool = False
    dry_run: bool = False
    json: str | None = None


def spell(arguments: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """Return the arguments with the options' names as the functions have them.

    Args:
        arguments: As they were given: hyphens and underscores are alike in an option's name.
        aliases: Other names of options, with those that they stand for.
    """
    spelled = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            argument = f"--{aliases.get(name, name)}{equals}{value}"
        spelled.append(argument)
    return spelled


def take_flags(verb: str, arguments: Sequence[str], own_json: bool = False) -> tuple[Flags, list[str]]:
    """Return the flags, and the arguments without them.

    Args:
        verb: The verb, for messages.
        arguments: Its options, as ``spell`` returns them.
        own_json: Whether the file of ``--json`` is an option of the verb's own; ``--json -`` is a flag all the same.
    """
    found: dict[str, Any] = {}
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in NAMES:
            rest.append(word)
            if word in ("-c", "--config") and words:
                rest.append(words.pop(0))  # it may begin with anything
            continue
        if name == "json":
            if not equals and words and (words[0] == "-" or not words[0].startswith("-")):
                equals, value = " ", words.pop(0)
            if not equals:
                fail(f"--json needs a value; one that begins with '-' is given as --json=VALUE (vgp {verb} --help)")
            if value == "":
                fail("json is empty: give a value, or leave it out (is a variable of the shell not set?)")
            if own_json and value != "-":
                rest.append(f"--json={value}")
            else:
                found["json"] = value
        else:
            if not equals:
                value = words.pop(0) if words and words[0] in ("true", "false") else "true"
            if value not in ("true", "false"):
                fail(f"--{name} is {value!r}: true or false is needed (vgp {verb} --help)")
            found[name] = value == "true"
    return Flags(**found), rest


def directed(flags: Flags) -> AbstractContextManager[None]:
    """Send all output where the flags say: nowhere, or to standard error while standard output is for the report."""
    if flags.quiet:
        return silenced()
    return diverted() if flags.json == "-" else nullcontext()


def write_json(report: dict[str, Any], place: str) -> None:
    """Write a report as JSON.

    Args:
        report: What a verb returned.
        place: A file, or ``-`` for standard output.

    Raises:
        OSError: If the file cannot be written.
    """
    import json

    if place == "-":
        print(json.dumps(report, indent=2, allow_nan=False))
        return
    from vgp_lightning.report.files import write_report

    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(report, path)
