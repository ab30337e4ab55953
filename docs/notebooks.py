"""Run the notebooks and store them with their output, as the site and the repository's host show them.

Usage: ``python docs/notebooks.py [NAME ...]``, by default all; a few minutes, in temporary folders.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent.parent / "notebooks"


def run(name: str) -> None:
    """Run a notebook from top to bottom and store it, without what differs from run to run."""
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    nbformat.write(clean(notebook), path)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook without times of execution, what went to the standard error, and facts of the machine."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = shrink(output.data["image/png"])
    return notebook


def shrink(png: str) -> str:
    """Return a picture, in base64, with 64 colours: a third of the size, and lines look the same."""
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(64).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    for chosen in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        run(chosen)
