"""The code that travels with a folder: the files of this room joined to one, and what else makes a folder whole."""

import ast
import json
import shutil
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypeGuard

# What a pipeline folder holds beside its networks and its schedule. A program is left out: it holds compiled code, and
# the weights of the day on which it was made (vgp program makes it anew).
KEPT = ("README.md", "training", "habit", "critic", "evaluation.json", "rollout.gif")
_TRAVELS = Path(__file__).stem != "joining"  # whether this is the joined file
_TEXT = Path(__file__).read_text()  # now: diffusers puts each folder's code in the same place, one after the other


def join_pipeline() -> str:
    """Return the code that travels with a folder as the text of one file.

    diffusers executes a folder's ``pipeline.py`` at each load, but takes the files beside it from ``sys.modules``. If
    two folders with different code are loaded in one process, the second would therefore run with the first one's
    files. So the files are joined, each after those that it imports, without their imports of each other.
    """
    if _TRAVELS:
        return _TEXT
    own = Path(__file__)
    texts = {path.stem: path.read_text() for path in sorted(own.parent.glob("*.py")) if path.stem != "__init__"}
    neighbours = {name: [node for node in ast.parse(text).body if _is_relative(node)] for name, text in texts.items()}
    needed = {name: [str(node.module) for node in nodes] for name, nodes in neighbours.items()}
    version = sys.modules[__name__.partition(".")[0]].__version__
    parts = [f'"""The planner: the files of vgp_lightning/pipeline/ of version {version}, joined by vgp export."""\n']
    for name in TopologicalSorter(needed).static_order():
        lines = texts[name].splitlines(keepends=True)
        for node in reversed(neighbours[name]):
            del lines[node.lineno - 1 : node.end_lineno]
        parts.append(f"# {'-' * 16} {name}.py\n\n{''.join(lines).strip()}\n")
    return "\n\n".join(parts)


def _is_relative(node: ast.stmt) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.level > 0


def complete_folder(folder: Path, source: Path | None) -> None:
    """Write into a folder of networks what else belongs there: the code, and what another folder has of ``KEPT``.

    Args:
        folder: Where a pipeline was saved.
        source: The folder that it was loaded from; None: it was not loaded from one.

    Raises:
        ValueError: If a file of the source is a link that leads out of it.
    """
    # Whoever loads two folders in one process has the second one's code in memory, for both.
    carried = source / "pipeline.py" if source is not None and _TRAVELS else None
    code = carried.read_text() if carried is not None and carried.is_file() else join_pipeline()
    (folder / "pipeline.py").write_text(code)
    for path in (folder / "model_index.json", *sorted(folder.glob("*/config.json"))):
        _forget_origin(path)
    if source is None or source.resolve() == folder.resolve():
        return
    files = [path for name in KEPT for path in sorted([source / name, *(source / name).rglob("*")]) if path.is_file()]
    for path in files:
        _refuse_link(path, source)
    for path in files:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _forget_origin(path: Path) -> None:
    """Remove from a config of diffusers where the component was loaded from, which is nobody's business elsewhere."""
    config = json.loads(path.read_text())
    if config.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")  # as diffusers writes it


def _refuse_link(path: Path, folder: Path) -> None:
    """Refuse a file that is not inside its folder: a saved folder is handed on, and so would be what it links to.

    In the cache of the Hugging Face Hub the files of a snapshot are links to ``blobs``.
    """
    root, target = folder.resolve(), path.resolve()
    blobs = [root.parent.parent / "blobs"] if root.parent.name == "snapshots" else []
    if not any(target.is_relative_to(place) for place in (root, *blobs)):
        raise ValueError(
            f"{path} is a link to {target}, outside of {folder}: it is not copied. Put a copy in its place"
        )
