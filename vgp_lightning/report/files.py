"""Reports as JSON files."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report atomically: until it is complete, the file at the path is the one before it.

    Raises:
        ValueError: If a number is not finite, which JSON cannot express.
    """
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("x") as file:  # a file of its own, whoever else writes the same report
            file.write(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
