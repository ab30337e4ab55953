"""Options as they were given: on the command line or in a config, each with its place.

jsonargparse parses them. The configs are read here once before, because only here each value has a line.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOST_VALUES = 10_000  # of a config, once all its aliases are replaced: a short file can stand for billions
_DEEPEST = 50
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}
_MERGE = "tag:yaml.org,2002:merge"


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
        kind = "a list" if isinstance(root, yaml.SequenceNode) else f"the text {shorten(str(root.value))!r}"
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


def shorten(text: str) -> str:
    """Return a value as a message shows it: not much of it, if it is long."""
    return text if len(text) <= 60 else f"{text[:57]}..."
