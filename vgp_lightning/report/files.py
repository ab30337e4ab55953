"""Reports as JSON files."""

import json
from pathlib import Path
from typing import Any


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report whole or not at all: whoever reads it meanwhile sees the one before it.

    Raises:
        ValueError: If a number is not finite, for which JSON has no word.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    partial.replace(path)
