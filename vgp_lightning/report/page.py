"""Page: one HTML file without network or scripts, made of a verdict and sections."""

import base64
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from vgp_lightning import __version__
from vgp_lightning.report.files import replace_file
from vgp_lightning.report.markup import Markup, tag

NAME = "report.html"
LARGEST_EMBEDDED = 2_000_000  # bytes of a picture that is put into the page; a larger one is linked beside it
_KINDS = {".gif": (b"GIF8", "image/gif"), ".png": (b"\x89PNG", "image/png")}
# No script runs and nothing is fetched, even if a value were not escaped.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: file: 'self'"


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading.
        parts: Its paragraphs, tables and figures.
    """

    title: str
    parts: Sequence[object]


@dataclass(frozen=True)
class Page:
    """What a page says.

    Attributes:
        title: Of the page.
        verdict: The result, in one sentence.
        lead: What the verdict is about, in a line below it.
        sections: All else.
    """

    title: str
    verdict: str
    lead: str
    sections: Sequence[Section]


def render(page: Page) -> str:
    """Return a page as HTML; equal pages give equal text."""
    style = Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", page.title),
        tag("style", style),
    ]
    top = [tag("h1", page.title), tag("p", page.verdict, class_="verdict"), tag("p", page.lead, class_="lead")]
    sections = [tag("section", tag("h2", one.title), *one.parts) for one in page.sections if one.parts]
    foot = tag("footer", tag("p", f"Written by vgp_lightning {__version__}."))
    body = tag("body", tag("header", *top), tag("main", *sections), foot)
    return "<!doctype html>\n" + tag("html", tag("head", *head), body, lang="en") + "\n"


def write_page(path: Path, make: Callable[[], Page]) -> None:
    """Write a page atomically. If it cannot be made or written, say why: results are worth more than their page.

    Args:
        path: The file; an earlier page there is replaced, or removed.
        make: Makes the page.
    """
    try:
        text = render(make()).encode("utf-8", "replace")  # JSON can hold halves of characters
        if not path.is_symlink() and path.is_file() and path.read_bytes() == text:
            return
        path.unlink(missing_ok=True)  # of other results
        replace_file(path, lambda file: file.write(text))
    except Exception as error:  # whatever is wrong with it
        with suppress(OSError):
            path.unlink(missing_ok=True)  # of other results
        line = f"{path} cannot be written: {type(error).__name__}: {error}"
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def picture(path: Path, folder: Path, what: str, plot: bool = True) -> Markup | None:
    """Return a GIF or PNG: embedded if it is small, else linked; None: there is none.

    Args:
        path: The file; a link is not followed.
        folder: The page's folder.
        what: Its text for those who do not see it.
        plot: Whether it is a drawing on white, which may be darkened, and no film.
    """
    magic, kind = _KINDS[path.suffix]
    if path.is_symlink() or not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(magic):
        return None
    look = {"class_": "plot" if plot else None, "alt": what}
    if len(content) > LARGEST_EMBEDDED:
        address = quote(Path(os.path.relpath(path, folder)).as_posix())
        return tag("a", tag("img", src=address, **look), href=address)
    return tag("img", src=f"data:{kind};base64,{base64.b64encode(content).decode()}", **look)
