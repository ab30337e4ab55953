"""The files that ship with the package: its configs."""

from pathlib import Path

# In a clone they stand beside the package, in an installed wheel inside it.
_BESIDE = Path(__file__).parent.parent / "configs"
CONFIGS = _BESIDE if _BESIDE.is_dir() else Path(__file__).parent / "configs"
