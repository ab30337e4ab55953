"""JSON and YAML that somebody else may have written: read within bounds of size, nesting and number of values."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LARGEST_FILE = 10_000_000  # bytes of a JSON file
LARGEST_YAML = 1_000_000  # characters: PyYAML reads about 200,000 of them in a second
MOST_VALUES = 100_000  # values in a YAML text, each alias counted with all that it stands for
DEEPEST = 50  # levels of nesting


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: If the file is missing, too large, nested too deeply, no JSON or no object.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ValueError(f"{path} is no file")  # such as a pipe, which would be waited for
        if size > LARGEST_FILE:
            raise ValueError(f"{path} has {size} bytes: at most {LARGEST_FILE} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be read") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: a JSON object {{...}} is needed")
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [part for value in level for part in _parts(value)]
    if level:
        raise ValueError(f"{path} is nested more than {DEEPEST} levels deep")
    return content


def _parts(value: Any) -> Iterable[Any]:
    """Return the values that a JSON value holds."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def find_not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Yield the names of all numbers in a JSON value that are NaN or infinite, such as ``normalization.scale[2]``."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from find_not_finite(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from find_not_finite(part, f"{name}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield name


def read_yaml(text: str, name: str) -> Any:
    """Return what a YAML text holds, of plain values.

    Args:
        text: The text.
        name: What it is, for messages.

    Raises:
        ValueError: If it is no YAML, has tags of Python, or exceeds the bounds.
    """
    import yaml

    try:
        check_yaml(text)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} cannot be read as YAML: {error}") from error


def check_yaml(text: str, classes: bool = True) -> None:
    """Refuse a YAML text that is too large, nested too deeply, or grows too large by its aliases.

    A few lines of aliases of aliases ("billion laughs") stand for more values than any memory holds.

    Args:
        text: The text.
        classes: Whether it may name classes (``class_path``).

    Raises:
        yaml.YAMLError: If the text exceeds a bound, names a class where none may be named, or is no YAML.
    """
    import yaml

    if len(text) > LARGEST_YAML:
        raise yaml.YAMLError(f"{len(text)} characters are too many: at most {LARGEST_YAML} are read")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        size = 0 if root is None else _size(root, {}, 0, classes)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply to be read") from error
    if size > MOST_VALUES:
        raise yaml.YAMLError(f"its aliases stand for more than {MOST_VALUES} values: write fewer of them")


def _size(node: Any, sizes: dict[int, int], depth: int, classes: bool) -> int:
    """Return the number of values of a node of YAML, with its aliases written out."""
    import yaml

    if depth > DEEPEST:
        raise yaml.YAMLError(f"it is nested more than {DEEPEST} levels deep, or an alias stands for what holds it")
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            if not classes and any(key.value == "class_path" for key, _ in parts):
                raise yaml.YAMLError("it names a class by class_path, but no option of this verb takes one")
            parts = [part for pair in parts for part in pair]
        sizes[id(node)] = min(1 + sum(_size(part, sizes, depth + 1, classes) for part in parts), MOST_VALUES + 1)
    return sizes[id(node)]


def restrict_parsers(classes: bool) -> None:
    """Let every parser of options read YAML within bounds, and take ``class_path`` in a free value as plain data.

    jsonargparse would otherwise make an object of any class, such as ``subprocess.Popen``, that a config names where
    the type is ``Any``. Even as plain data it imports the module of the class, to complete its arguments.

    Args:
        classes: Whether the next parser has options that take classes. If not, a config that names one is refused.
    """
    import yaml
    from jsonargparse import get_loader, set_loader, set_parsing_settings

    set_parsing_settings(instantiate_subclass_spec_in_any=False)
    loader = get_loader("yaml")
    plain = getattr(loader, "plain", loader)

    def load(text: str) -> Any:
        check_yaml(text, classes)
        return plain(text)

    load.plain = plain  # type: ignore[attr-defined]
    set_loader("yaml", load, (yaml.YAMLError,))
