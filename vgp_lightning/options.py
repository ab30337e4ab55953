"""Options: where each was given, and what is wrong with one, in plain words.

jsonargparse parses them. This file reads the config files once before, because only here each value has a line.
"""

import ast
import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vgp_lightning.failures import fail

_MOST_VALUES = 10_000  # of a config, once all its aliases are replaced: a short file can stand for billions
_DEEPEST = 50
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}
_MERGE = "tag:yaml.org,2002:merge"
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping such as '{name: value}'",
    "list": "a list such as '[1, 2]'",
}


@dataclass(frozen=True)
class Given:
    """An option as it was given.

    Attributes:
        key: Its name with dots, such as ``data.horizon``.
        value: Its value as text.
        file: The config and the line that it stands in; None: the command line.
    """

    key: str
    value: str
    file: str | None

    @property
    def name(self) -> str:
        """The option as a message names it: with its place."""
        return f"--{self.key}" if self.file is None else f"{self.file}: {self.key}"


def read_options(arguments: Sequence[str]) -> list[Given]:
    """Return all options in their order, those of config files included.

    Args:
        arguments: Options of a verb, as ``locate_configs`` returns them.

    Raises:
        ValueError: If a config is not a mapping of plain values, or has a key twice.
    """
    given: list[Given] = []
    for i, argument in enumerate(arguments):
        if not argument.startswith("-"):
            continue
        option, equals, value = argument.partition("=")
        if not equals:
            value = arguments[i + 1] if i + 1 < len(arguments) else ""
        if option in ("-c", "--config"):
            given += read_config(value) if value else []
        else:
            if value.startswith("{"):
                _check_mapping(option, value)
            given.append(Given(option.lstrip("-").removesuffix("+"), value, None))
    return given


# ---------------------------------------------------------------- config files


def read_config(name: str) -> list[Given]:
    """Return the options in a config.

    Args:
        name: Its path, or options written as YAML.

    Raises:
        ValueError: If it is not a mapping of plain values, or has a key twice.
    """
    import yaml

    name, text = (name, _read_text(Path(name))) if os.path.isfile(name) else ("the text after -c", name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise ValueError(f"{name} is empty: a config holds options, one a line, such as 'seed: 0'")
        if _size(root, {}, name, 0) > _MOST_VALUES:
            raise ValueError(f"{name} has more than {_MOST_VALUES} values: write a config without so many aliases")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else "?"
        raise ValueError(f"{name}, line {line}: this is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # a character that no text has
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply to be a config") from error
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else f"the text {_shorten(str(root.value))!r}"
        raise ValueError(f"{name} holds {kind}, not options: write one a line, such as 'seed: 0'")
    return list(_walk(root, "", name))


def _check_mapping(option: str, value: str) -> None:
    """Refuse a mapping on the command line that has a key twice; the parser finds all else that is wrong."""
    import yaml

    try:
        root = yaml.compose(value, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return
    if isinstance(root, yaml.MappingNode):
        list(_walk(root, "", option))


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file: a config is YAML, such as those that `vgp configs` lists"
        ) from error


def _size(node: Any, sizes: dict[int, int], name: str, depth: int) -> int:
    """Return the number of values below a node, each alias counted as what it stands for."""
    if depth > _DEEPEST:
        raise RecursionError
    if id(node) not in sizes:
        sizes[id(node)] = 0  # until all below are counted
        items = node.value if isinstance(node.value, list) else []
        children = [one for item in items for one in (item if isinstance(item, tuple) else (item,))]
        sizes[id(node)] = 1 + sum(_size(child, sizes, name, depth + 1) for child in children)
    elif sizes[id(node)] == 0:
        raise ValueError(f"{name}, line {node.start_mark.line + 1}: an alias stands for what it is a part of")
    return sizes[id(node)]


def _walk(node: Any, prefix: str, name: str) -> Iterator[Given]:
    """Yield the options below a mapping, those of nested mappings with dots in their names."""
    import yaml

    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        place = f"{name}, line {line}"
        if key.tag == _MERGE:
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{place}: a key is needed before the colon, such as 'seed: 0'")
        dotted = f"{prefix}{key.value}"
        if key.value in lines:
            where = f", in line {lines[key.value]} and in line {line}" if lines[key.value] != line else ""
            raise ValueError(f"{name} has {dotted} twice{where}: remove one")
        lines[key.value] = line
        for one in (key, value):
            if one.tag not in _TAGS:
                raise ValueError(f"{place}: {dotted} has the tag {one.tag}: a config holds plain values only")
        yield Given(dotted, _text(value), place)
        if isinstance(value, yaml.MappingNode):
            yield from _walk(value, f"{dotted}.", name)
        elif isinstance(value, yaml.SequenceNode):
            for item in value.value:
                if isinstance(item, yaml.MappingNode):
                    yield from _walk(item, f"{dotted}.", name)
                elif item.tag not in _TAGS:
                    raise ValueError(f"{place}: {dotted} has the tag {item.tag}: a config holds plain values only")


def _text(node: Any) -> str:
    """Return a value as a message shows it."""
    if not isinstance(node.value, list):
        return str(node.value)
    shown = [str(item.value) for item in node.value if not isinstance(item, tuple) and isinstance(item.value, str)]
    return f"[{', '.join(shown)}]" if node.tag.endswith("seq") else "{...}"


# ---------------------------------------------------------------- what the parser finds


def error_of(verb: str, given: Sequence[Given], verbs_with: Callable[[str], list[str]]) -> Callable[..., NoReturn]:
    """Return what a parser calls in place of its own ``error``: it ends the process with one message in plain words.

    It raises no ValueError, since jsonargparse would catch that where it tries one type after the other.

    Args:
        verb: The verb.
        given: Its options.
        verbs_with: Returns the verbs that have an option of this name.
    """

    def error(parser: Any, message: str, ex: Exception | None = None) -> NoReturn:
        del ex
        fail(f"{_explain(parser, message, verb, given, verbs_with)} (vgp {verb} --help)")

    return error


def _explain(
    parser: Any, message: str, verb: str, given: Sequence[Given], verbs_with: Callable[[str], list[str]]
) -> str:
    if found := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
        words = found[1].split(" ")
        options = [word for word in words if re.match(r"--?[^\d.]", word)]
        if not options:
            return _unexpected(parser, words[0], verb)
        key = options[0].lstrip("-").partition("=")[0]
        return f"unknown option {options[0].partition('=')[0]}{_guess(parser, key, verb, given, verbs_with)}"
    if found := re.search(r"ption '([^']*)' is not accepted|does not accept option '([^']*)'", message):
        key = found[1] or found[2]
        one = _find(given, key)
        name = (
            f"{one.file}: unknown option {one.key}"
            if one and one.file
            else f"unknown option --{one.key if one else key}"
        )
        return f"{name}{_guess(parser, key, verb, given, verbs_with)}"
    if found := re.match(r"argument (\S+): expected (?:one|at least one) argument", message):
        options = [option for option in found[1].split("/") if not option.endswith("+")]
        return f"{'/'.join(options)} needs a value; one that begins with '-' is given as {options[-1]}=VALUE"
    if found := re.match(r"the following arguments are required: (.*)", message):
        return _missing(parser, [name.removeprefix(f"{verb}.") for name in found[1].split(", ")], verb)
    if found := re.match(r'Parser key "([^"]*)":', message):
        return _wrong_value(found[1], message[found.end() :], given)
    return " ".join(message.split())


def _guess(parser: Any, key: str, verb: str, given: Sequence[Given], verbs_with: Callable[[str], list[str]]) -> str:
    """Return which option was meant: one of this verb, or of another."""
    names = _names(parser, verb)
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
    others = verbs_with(key.partition(".")[0])
    if others and verb not in others:
        return f": it is an option of vgp {', '.join(others)}"
    # What stands before the last dot is most of a name, and would make all names alike.
    beside = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == key.rpartition(".")[0]}
    near = [beside[name] for name in difflib.get_close_matches(last, beside, n=1)]
    near = near or (difflib.get_close_matches(key, ends, n=1) if "." in key else ends[:1])
    return f": did you mean --{near[0]}?" if near else ""


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
    value = _shorten(one.value if one else found[1] if found else "")
    expected = re.findall(r"Expected an? (.+?)(?=\. Got value|$)", details, re.MULTILINE)
    kinds = [_plain(kind) for kind in expected]
    known = list(dict.fromkeys(kind for kind in kinds if kind))
    if "Unable to load config" in details:
        return f"{name} is {value!r}: a mapping or the path of a config is needed, or options such as {name}.NAME"
    if key == "model" or "dot import path" in details:
        of_class = [one for one in given if one.key in (key, f"{key}.class_path")]
        name, value = (of_class[-1].name, _shorten(of_class[-1].value)) if of_class else (name, value)
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


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
