"""Recordings in tables: CSV, parquet, and LeRobot's datasets (v2.0, v2.1 and v3.0), which are parquet and an info.json.

pyarrow reads all of them; it is the extra ``tables``.
"""

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vgp_lightning.recordings.source import Column, Format, Piece, Source, in_natural_order

_VERSIONS = ("v2.0", "v2.1", "v3.0")


def open_table(path: Path, kind: Format) -> Source:
    """Find the columns of one CSV or parquet file."""
    return Source(path, kind, [_piece(path.name, [path], kind)])


def open_table_folder(path: Path, files: Sequence[Path], kind: Format) -> Source:
    """Find the columns of files that hold one episode each."""
    return Source(path, kind, [_piece(file.name, [file], kind) for file in files], is_episode=True)


def open_lerobot(path: Path) -> Source:
    """Find the columns of a LeRobot dataset. Images and videos are not read.

    Raises:
        ValueError: If info.json is damaged, or of another version, or no parquet file is there.
    """
    place = path / "meta" / "info.json"
    try:
        info = json.loads(place.read_text(encoding="utf-8"))
        features, version, rate = dict(info["features"]), str(info["codebase_version"]), info.get("fps")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{place} is not the info.json of a LeRobot dataset: {error!r}") from error
    if version not in _VERSIONS:
        raise ValueError(
            f"{place} says codebase_version {version}: {', '.join(_VERSIONS)} are read. Convert it by the script in "
            "lerobot.datasets for your version"
        )
    # Not by data_path of info.json: that of a stranger could lead out of the folder.
    found = {file.relative_to(path).as_posix(): file for file in path.glob("data/chunk-*/*.parquet")}
    files = [found[name] for name in in_natural_order(found)]
    if not files:
        raise ValueError(f"{path} has no data/chunk-*/*.parquet: download the dataset's data too, not only meta")
    images = [name for name, feature in features.items() if feature.get("dtype") in ("image", "video")]
    notes = [f"left out (a planner takes states): {', '.join(images)}"] if images else []
    notes.append(
        "LeRobot does not say which episodes ended in a terminal state: all count as truncated, unless --terminals "
        "names a column"
    )
    piece = _piece(path.name, files, "parquet")
    columns = {key: column for key, column in piece.columns.items() if key not in images}
    step_rate = float(rate) if isinstance(rate, int | float) and rate > 0 else None
    return Source(path, "lerobot", [Piece(path.name, columns)], step_rate=step_rate, notes=notes)


def _piece(name: str, files: Sequence[Path], kind: Format) -> Piece:
    """Find the columns of tables of the same schema that follow each other."""
    tables = [_open(file, kind) for file in files]
    names = tables[0].schema.names
    for file, table in zip(files, tables, strict=True):
        if table.schema.names != names:
            raise ValueError(f"{file} has the columns {table.schema.names}, but {files[0]} {names}: give them the same")
    count = sum(table.rows for table in tables)
    columns = {}
    for key in names:
        dtype, is_list = _type(tables[0].schema.field(key).type)
        shape: tuple[int, ...] = ()
        if is_list and dtype.kind != "O":
            # By the first row. That all rows are alike, and none is missing, is checked where they are read.
            shape = _numbers(tables[0].column(key).drop_null().slice(0, 1), key, files[0]).shape[1:]
        columns[key] = Column((count, *shape), dtype, _reader(tables, key))
    return Piece(name, columns)


class _Table(NamedTuple):
    """A table of which single columns can be read."""

    file: Path
    schema: Any
    rows: int
    column: Callable[[str], Any]  # a ChunkedArray


def _open(file: Path, kind: Format) -> _Table:
    """Open a table. A CSV file is read as a whole, to know the types of its columns."""
    try:  # by name, since it is an extra
        pyarrow, csv, parquet = (import_module(f"pyarrow{part}") for part in ("", ".csv", ".parquet"))
    except ImportError as error:
        raise ImportError("CSV, parquet and LeRobot's datasets need: pip install 'vgp_lightning[tables]'") from error
    try:
        if kind == "csv":
            table = csv.read_csv(file)
            return _Table(file, table.schema, table.num_rows, table.column)
        with parquet.ParquetFile(file) as opened:
            schema, rows = opened.schema_arrow, opened.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as {kind}: {' '.join(str(error).split())}") from error
    return _Table(file, schema, rows, lambda key: parquet.read_table(file, columns=[key]).column(key))


def _is_list(kind: Any) -> bool:
    types = import_module("pyarrow.types")
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def _type(kind: Any) -> tuple[np.dtype[Any], bool]:
    """Return the type of a column's numbers (object: it has none), and whether its rows are lists."""
    types, is_list = import_module("pyarrow.types"), _is_list(kind)
    while _is_list(kind):
        kind = kind.value_type
    if types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind):
        return np.dtype(kind.to_pandas_dtype()), is_list
    return np.dtype(object), False


def _reader(tables: Sequence[_Table], key: str) -> Callable[[], NDArray[Any]]:
    return lambda: np.concatenate([_numbers(table.column(key), key, table.file) for table in tables])


def _numbers(column: Any, key: str, file: Path) -> NDArray[Any]:
    """Return the numbers of a column: (n,), or (n, k) where its rows are lists of k numbers, also in lists of lists.

    Raises:
        ValueError: If values are missing, or lists have different lengths.
    """
    if column.null_count:
        row = np.asarray(column.is_null()).argmax()
        raise ValueError(f"{file}: column {key} has no value in row {row}: fill it, or remove the row's episode")
    if not _is_list(column.type):
        return np.asarray(column)
    chunks = list(column.chunks)
    while chunks and _is_list(chunks[0].type):
        lengths = {int(length) for chunk in chunks for length in _lengths(chunk)}
        if len(lengths) > 1:
            raise ValueError(f"{file}: the lists of column {key} have lengths from {min(lengths)} to {max(lengths)}")
        chunks = [chunk.flatten() for chunk in chunks]
    return (
        np.concatenate([np.asarray(chunk) for chunk in chunks]).reshape(len(column), -1) if chunks else np.zeros((0, 1))
    )


def _lengths(chunk: Any) -> NDArray[Any]:
    """Return the different lengths of the lists in an array."""
    fixed = import_module("pyarrow.types").is_fixed_size_list(chunk.type)
    return np.array([chunk.type.list_size]) if fixed else np.unique(np.asarray(chunk.value_lengths()))
