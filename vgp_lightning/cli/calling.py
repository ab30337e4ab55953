"""The call of a verb: its options are read, checked, and given to its function."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from vgp_lightning.cli.configs import locate_configs
from vgp_lightning.cli.failures import fail
from vgp_lightning.cli.flags import Flags, directed, spell, take_flags, write_json
from vgp_lightning.cli.given import read_options
from vgp_lightning.cli.manual import fit_help
from vgp_lightning.cli.options import error_of
from vgp_lightning.cli.own_modules import find_here
from vgp_lightning.cli.verbs import VERBS, function_of, reports


def call_verb(verb: str, args: list[str]) -> None:
    """Find the configs that are named, import what the verb calls, and call it.

    Args:
        verb: One of ``VERBS``.
        args: Its options, as they were given.
    """
    entry = VERBS[verb]
    flags, options = take_flags(verb, spell(args, entry.aliases), entry.own_json)
    if entry.function == "run" and {"-h", "--help"} & set(options):
        print(fit_help(verb, entry.what))
        return
    options = ["--help" if word == "--help_all" else word for word in locate_configs(options)]
    if entry.plans:
        from vgp_lightning.agent.threads import own_threads

        own_threads()  # before anything loads torch
    parse_error = error_of(verb, read_options(options))
    function = function_of(verb)
    _check_flags(verb, flags, function)
    if verb == "fit" and flags.dry_run:
        function = import_module(f"vgp_lightning.{entry.module}").rehearse
    with directed(flags):
        if entry.own_parser:
            function([verb, *options], parse_error)
            return
        result = _call(verb, function, options, parse_error, flags)
    if flags.json is not None and not flags.dry_run:
        write_json(result, flags.json)


def _check_flags(verb: str, flags: Flags, function: Callable[..., Any]) -> None:
    """Refuse a flag that has no meaning for the verb."""
    if flags.json is not None and not reports(function):
        others = ", ".join(name for name in VERBS if reports(function_of(name)))
        fail(f"vgp {verb} has no report for --json: it is for vgp {others} (vgp {verb} --help)")
    if flags.dry_run and not VERBS[verb].rehearsed:
        others = ", ".join(name for name, entry in VERBS.items() if entry.rehearsed)
        fail(f"vgp {verb} has no --dry_run: it is for vgp {others} (vgp {verb} --help)")


def _call(
    verb: str, function: Callable[..., Any], args: list[str], parse_error: Callable[..., NoReturn], flags: Flags
) -> Any:
    """Call a verb's function with its parameters as options, and return what it returns."""
    from vgp_lightning.cli.parser import parser_of

    entry = VERBS[verb]
    parser = parser_of(verb, function, parse_error)
    options = parser.instantiate(parser.parse_args(args)).as_dict()
    del options["config"]
    for name, value in options.items():
        if value == "":
            fail(f"{name} is empty: give a value, or leave it out (is a variable of the shell not set?)")
    _refuse_trust_by_file(options, args)
    find_here(options.get("env_id"))  # typed, as the line before makes sure
    if "diffusers" in sys.modules:  # it takes seconds to import, which verbs about data can do without
        from diffusers.utils import logging

        logging.disable_progress_bar()  # of the three files of a folder
    if flags.dry_run:
        from vgp_lightning.cli.rehearsal import rehearse

        return rehearse(verb, options)
    result = function(**options)
    if entry.outcome is not None:
        print(f"{entry.outcome} {result}")
    return result


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
