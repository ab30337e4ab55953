"""The site: `make docs`. Sources are Markdown files of this repository, which the host of the repository shows too.

The source folder is the repository's root, so that a link such as ../RESULTS.md is right in both places.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import vgp_lightning  # noqa: E402 (the path comes first)

project = "vgp_lightning"
author = "The vgp_lightning developers"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx's name)
release = version = vgp_lightning.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "mathml"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "notebooks/*.ipynb", "RESULTS.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
exclude_patterns = ["docs/_build", ".venv*", "runs", "exports", "build", "dist", "**.ipynb_checkpoints"]

myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 4  # as the repository's host makes them
nb_execution_mode = "off"  # notebooks are executed by the tests and stored with their output
nb_output_stderr = "remove"
html_math_renderer = "mathml"

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autoclass_content = "both"  # the constructor's Args too
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"vgp_lightning {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]  # index.html at the top, which leads to docs/index.html
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True

# owner/name, which the host's own workflows set. Without it there is no Colab button, since there is nothing to open.
REPOSITORY = os.environ.get("GITHUB_REPOSITORY")


def _add_colab_button(app: Sphinx, name: str, context: dict[str, Any], *_: Any) -> None:
    """Give the template of a notebook's page the address of the notebook in Colab."""
    if REPOSITORY and "/" in name and name.startswith("notebooks/"):
        address = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/{name}.ipynb"
        context["body"] = f'<p><a class="colab" href="{address}">Open in Colab</a></p>\n{context["body"]}'


def _protect_letters(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Write a description such as "A." as code: reStructuredText would take it for the first item of a list."""
    lines[:] = [re.sub(r"^( +\w+: )([A-Z])\.$", r"\1``\2``.", line) for line in lines]


def _rejoin_properties(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put a property's text together again, which napoleon takes for a type up to the first colon."""
    if what == "property" and lines and lines[-1].startswith(":type: "):
        lines[:] = [f"{lines[-1].removeprefix(':type: ')}: {lines[0]}", *lines[1:-1]]


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.connect("autodoc-process-docstring", _protect_letters, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _rejoin_properties, priority=600)
    app.connect("html-page-context", lambda app, name, *rest: _add_colab_button(app, name, rest[1]))
