"""The tests' own eyes: a page that goes wrong, asks the network or is too wide is noticed."""

import pytest
from browser import find_chromium, look, open_page
from PIL import Image

pytestmark = pytest.mark.browser


def page(tmp_path, body):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><html lang=en><title>t</title><body>{body}</body></html>")
    return path.as_uri()


def test_a_page_in_order_passes_and_is_photographed_at_both_widths_and_in_both_schemes(tmp_path):
    visits = look(page(tmp_path, "<style>:root{color-scheme:light dark}</style><p>hello"), tmp_path / "shots", "hello")
    for visit in visits:
        visit.check()
    pictures = {}
    for path in (tmp_path / "shots").iterdir():
        with Image.open(path) as picture:
            pictures[path.name] = picture.convert("RGB")
    assert sorted(pictures) == [f"hello-{width}-{scheme}.png" for width in (1280, 390) for scheme in ("dark", "light")]
    assert pictures["hello-390-light.png"].width == 390
    assert pictures["hello-390-light.png"].getpixel((300, 300)) != pictures["hello-390-dark.png"].getpixel((300, 300))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<script>throw new Error('oh no')</script>", "console has errors"),
        ("<script>console.error('oh no')</script>", "console has errors"),
        ("<img src='https://example.com/a.png'>", "asks the network"),
        ("<div style='width: 5000px'>wide</div>", "pixels wider"),
    ],
)
def test_what_is_wrong_with_a_page_is_noticed(tmp_path, body, words):
    with open_page(page(tmp_path, body)) as visit:
        pass
    with pytest.raises(AssertionError, match=words):
        visit.check()


def test_without_a_chromium_the_words_say_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(AssertionError, match="apt-get install chromium"):
        find_chromium()
