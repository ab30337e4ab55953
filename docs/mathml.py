"""A Sphinx extension: mathematics as MathML, which browsers draw by themselves, so that the site loads nothing."""

import re
from html import unescape
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

_NAMESPACE = "http://www.w3.org/1998/Math/MathML"


def render(formula: str, as_block: bool) -> str:
    """Return a formula in LaTeX's language as MathML."""
    ElementTree.register_namespace("", _NAMESPACE)
    text = latex2mathml.tex2mathml(formula, as_block=as_block)
    # XML knows three of HTML's names for characters.
    tree = ElementTree.fromstring(re.sub(r"&(?!lt;|gt;|amp;)\w+;", lambda found: unescape(found[0]), text))
    # docutils sets the index of an accented letter below it, as that of a sum: it belongs to the right of it.
    for element in tree.iter(f"{{{_NAMESPACE}}}munderover"):
        letter, index, accent = element
        if letter.tag == f"{{{_NAMESPACE}}}mi":
            accented = ElementTree.Element(f"{{{_NAMESPACE}}}mover", accent="true")
            accented.extend([letter, accent])
            element.tag = f"{{{_NAMESPACE}}}msub"
            element[:] = [accented, index]
    return ElementTree.tostring(tree, encoding="unicode")


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(render(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{render(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
