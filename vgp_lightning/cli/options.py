"""Options: what a parser says is wrong with one, in plain words."""

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args

from vgp_lightning.cli.failures import fail
from vgp_lightning.cli.flags import NAMES as FLAGS
from vgp_lightning.cli.given import Given, shorten
from vgp_lightning.cli.verbs import VERBS, function_of

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping such as '{name: value}'",
    "list": "a list such as '[1, 2]'",
}
_OF_FIT = (
    *("model", "data", "trainer", "ema", "health", "checkpoint", "seed_everything", "ckpt_path", "may_differ"),
    "output_dir",
)


def error_of(verb: str, given: Sequence[Given]) -> Callable[..., NoReturn]:
    """Return what a parser calls in place of its own ``error``: it ends the process with one message in plain words.

    It raises no ValueError, since jsonargparse would catch that where it tries one type after the other.

    Args:
        verb: The verb.
        given: Its options.
    """

    def error(parser: Any, message: str, ex: Exception | None = None) -> NoReturn:
        del ex
        fail(f"{_explain(parser, message, verb, given)} (vgp {verb} --help)")

    return error


def _explain(parser: Any, message: str, verb: str, given: Sequence[Given]) -> str:
    if found := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
        words = found[1].split(" ")
        options = [word for word in words if re.match(r"--?[^\d.]", word)]
        if not options:
            return _unexpected(parser, words[0], verb)
        key = options[0].lstrip("-").partition("=")[0]
        return f"unknown option {options[0].partition('=')[0]}{_guess(parser, key, verb, given)}"
    if found := re.search(r"ption '([^']*)' is not accepted|does not accept option '([^']*)'", message):
        key = found[1] or found[2]
        one = _find(given, key)
        name = (
            f"{one.file}: unknown option {one.key}"
            if one and one.file
            else f"unknown option --{one.key if one else key}"
        )
        return f"{name}{_guess(parser, key, verb, given)}"
    if found := re.match(r"argument (\S+): expected (?:one|at least one) argument", message):
        options = [option for option in found[1].split("/") if not option.endswith("+")]
        return f"{'/'.join(options)} needs a value; one that begins with '-' is given as {options[-1]}=VALUE"
    if found := re.match(r"the following arguments are required: (.*)", message):
        return _missing(parser, [name.removeprefix(f"{verb}.") for name in found[1].split(", ")], verb)
    if found := re.match(r'Parser key "([^"]*)":', message):
        return _wrong_value(found[1], message[found.end() :], given)
    return " ".join(message.split())


def _guess(parser: Any, key: str, verb: str, given: Sequence[Given]) -> str:
    """Return which option was meant: one of this verb, or of another."""
    names = [*_names(parser, verb), *FLAGS]
    if (found := _find(given, key)) is not None:  # a class's own parser does not know where the class stands
        prefix = found.key.removesuffix(key)
        names, key = [f"{prefix}{name}" for name in names], found.key
    if any(action.dest == key and not action.option_strings for action in parser._actions):
        return f": {key} is given by its place, without a name"
    last = key.rpartition(".")[2]
    longer = [name for name in names if name.startswith(key)]
    if longer and key:
        several = f"one of {', '.join(f'--{name}' for name in longer[:6])}" if len(longer) > 1 else f"--{longer[0]}"
        return f": options are not abbreviated; did you mean {several}?"
    ends = [name for name in (*names, *(one.key for one in given if one.key != key)) if name.rpartition(".")[2] == last]
    others = _verbs_with(key.partition(".")[0])
    if others and verb not in others and ("." in key or not ends):
        return f": it is an option of vgp {', '.join(others)}"
    # What stands before the last dot is most of a name, and would make all names alike.
    beside = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == key.rpartition(".")[0]}
    near = [beside[name] for name in difflib.get_close_matches(last, beside, n=1)]
    near = near or (difflib.get_close_matches(key, ends, n=1) if "." in key else ends[:1])
    return f": did you mean --{near[0]}?" if near else ""


def _verbs_with(name: str) -> list[str]:
    """Return the verbs that have an option of this name."""
    verbs = ["fit", "validate"] if name in _OF_FIT else []
    for verb, entry in VERBS.items():
        if not entry.own_parser:
            parameters = inspect.signature(function_of(verb)).parameters
            settings = get_args(parameters["settings"].annotation) if "settings" in parameters else ()
            if name in parameters or any(name in kind.__annotations__ for kind in settings):
                verbs.append(verb)
    return verbs


def _names(parser: Any, verb: str) -> list[str]:
    """Return the names of a parser's options, without dashes."""
    for action in parser._actions:  # argparse has no public list of them
        if isinstance(action.choices, dict) and verb in action.choices:
            return _names(action.choices[verb], verb)
    options = [option for action in parser._actions for option in action.option_strings or [action.dest]]
    return [option.lstrip("-") for option in options if len(option) > 2]


def _find(given: Sequence[Given], key: str, value: str | None = None) -> Given | None:
    """Return the option of this name with this value, else the last of this name; a class knows its end alone."""
    named = [one for one in given if one.key == key] or [one for one in given if one.key.endswith(f".{key}")]
    return next((one for one in reversed(named) if one.value == value), named[-1] if named else None)


def _unexpected(parser: Any, word: str, verb: str) -> str:
    places = [action.dest for action in parser._actions if not action.option_strings and not action.choices]
    takes = f"takes {' and '.join(places)} without a name, all else as options" if places else "takes options only"
    return f"unexpected argument {word!r}: vgp {verb} {takes}"


def _missing(parser: Any, names: list[str], verb: str) -> str:
    optional = set(_names(parser, verb)) - {action.dest for action in parser._actions if not action.option_strings}
    shown = " and ".join(f"--{name}" if name in optional else name for name in names)
    hint = ""
    if verb in ("fit", "validate"):
        hint = f": name configs that have them, such as vgp {verb} -c planner.yaml -c data/hopper-medium.yaml"
    return f"vgp {verb} needs {shown}{hint}"


def _wrong_value(key: str, details: str, given: Sequence[Given]) -> str:
    found = re.search(r"(?:Got value|Given value): (.*)", details)
    one = _find(given, key, found[1] if found else None)
    name = one.name if one else f"--{key}"
    value = shorten(one.value if one else found[1] if found else "")
    expected = re.findall(r"Expected an? (.+?)(?=\. Got value|$)", details, re.MULTILINE)
    kinds = [_plain(kind) for kind in expected]
    known = list(dict.fromkeys(kind for kind in kinds if kind))
    if "Unable to load config" in details:
        return f"{name} is {value!r}: a mapping or the path of a config is needed, or options such as {name}.NAME"
    if key == "model" or "dot import path" in details:
        of_class = [one for one in given if one.key in (key, f"{key}.class_path")]
        name, value = (of_class[-1].name, shorten(of_class[-1].value)) if of_class else (name, value)
        example = (
            ", such as vgp_lightning.training.PlannerModule" if key == "model" else ", one of Lightning's or yours"
        )
        return f"{name} is {value!r}: the name of a class is needed{example}"
    if not known:
        return f"{name} is {value!r}: {' '.join(details.split())}"
    null = " (or null)" if any("NoneType" in kind for kind in expected) else ""
    return f"{name} is {value!r}: {' or '.join(known)} is needed{null}"


def _plain(kind: str) -> str | None:
    """Return a type that jsonargparse names, in plain words; None: none is needed, or unknown."""
    if found := re.fullmatch(r"typing\.Literal(\[.*\])", kind):
        return f"one of {', '.join(map(str, ast.literal_eval(found[1])))}"
    if found := re.fullmatch(r"<class '(\w+)'>", kind):
        return _TYPES.get(found[1])
    return None
