"""README's and the notebooks' code runs as it is printed."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from vgp_lightning import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("vgp ")]


@pytest.mark.parametrize("notebook", sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_each_notebook_runs_from_top_to_bottom(notebook, tmp_path):
    content = nbformat.read(ROOT / "notebooks" / notebook, as_version=4)
    NotebookClient(content, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("notebook", sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_notebooks_are_stored_without_output(notebook):
    content = nbformat.read(ROOT / "notebooks" / notebook, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in content.cells)
