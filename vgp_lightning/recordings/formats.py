"""Which format a file or folder of recordings has, and how it is opened."""

from pathlib import Path

from vgp_lightning.recordings.source import AskedFormat, Format, Source, in_natural_order
from vgp_lightning.recordings.source_hdf5 import open_d4rl, open_robomimic, recognise_hdf5
from vgp_lightning.recordings.source_npz import open_npz, open_npz_folder, open_ogbench, recognise_npz
from vgp_lightning.recordings.source_tables import open_lerobot, open_table, open_table_folder

_HDF5, _TABLES = (".hdf5", ".h5", ".hdf"), (".csv", ".parquet")
_IN_FOLDERS: tuple[Format, ...] = ("npz", "csv", "parquet")
_KNOWN = (
    "a .hdf5 file (D4RL, robomimic), a .npz file or a folder of them, a .csv or .parquet file or a folder of them, or "
    "the folder of a LeRobot dataset"
)


def open_source(path: Path, format: AskedFormat = "auto") -> Source:  # noqa: A002 (the option's name)
    """Find what a file or folder holds.

    Args:
        path: The file or folder.
        format: Its format; ``auto``: recognise it by its name and its keys.

    Raises:
        ValueError: If it does not exist, has no known format, or does not have the given one.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist: give {_KNOWN}")
    kind = _recognise(path) if format == "auto" else format
    if kind == "lerobot":
        return open_lerobot(path)
    if path.is_dir():
        if kind not in _IN_FOLDERS:
            raise ValueError(f"{path} is a folder, but --format {kind} is one file")
        files = _files(path, f".{kind}")
        return open_npz_folder(path, files) if kind == "npz" else open_table_folder(path, files, kind)
    if kind in ("csv", "parquet"):
        return open_table(path, kind)
    return {"d4rl": open_d4rl, "robomimic": open_robomimic, "npz": open_npz, "ogbench": open_ogbench}[kind](path)


def _recognise(path: Path) -> Format:
    if path.is_dir():
        if (path / "meta" / "info.json").is_file():
            return "lerobot"
        for kind in _IN_FOLDERS:
            if any(path.glob(f"*.{kind}")):
                return kind
    elif path.suffix.lower() in _HDF5:
        return recognise_hdf5(path)
    elif path.suffix.lower() == ".npz":
        return recognise_npz(path)
    elif path.suffix.lower() in _TABLES:
        return "csv" if path.suffix.lower() == ".csv" else "parquet"
    raise ValueError(f"{path} has no format that is known: give {_KNOWN}, or say which it is by --format")


def _files(folder: Path, suffix: str) -> list[Path]:
    found = {file.name: file for file in folder.iterdir() if file.suffix == suffix}
    if not found:
        raise ValueError(f"{folder} has no {suffix} files")
    return [found[name] for name in in_natural_order(found)]
