"""Pages: what enters is escaped, pictures are embedded or linked, and a page that fails loses nothing else."""

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

from vgp_lightning.report import page as page_
from vgp_lightning.report.markup import Markup, command, figure, interval, number, options, table, tag
from vgp_lightning.report.page import Page, Section, picture, render, write_page
from vgp_lightning.report.references import describe_methods, plain

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Reader(HTMLParser):
    """Notes all elements of a page and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def write_gif(path, width=8):
    Image.new("RGB", (width, width)).save(path)


def test_nothing_that_enters_a_page_becomes_an_element():
    parts = [tag("p", EVIL, class_=EVIL), table(EVIL, (EVIL,), [(EVIL, 1.0)]), figure(EVIL, EVIL, EVIL, EVIL)]
    methods = describe_methods([f"It is {plain(EVIL)}."])
    text = render(Page(EVIL, EVIL, EVIL, [Section(EVIL, [*parts, command(["vgp", EVIL])]), methods]))
    reader = Reader(text)
    assert "script" not in {name for name, _ in reader.elements}
    assert [1 for name, attributes in reader.elements if name == "img" or "onerror" in attributes] == []
    assert reader.text.count("<script>alert(1)</script>") >= 10


def test_a_page_forbids_scripts_and_addresses_by_itself():
    text = render(Page("a", "b", "c", []))
    policy = next(a["content"] for name, a in Reader(text).elements if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert "http:" not in policy


def test_equal_pages_are_equal_to_the_byte():
    pages = [render(Page("a", "b", "c", [Section("d", [tag("p", "e")])])) for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_section_without_parts_is_left_out():
    assert "Nothing" not in render(Page("a", "b", "c", [Section("Nothing", [])]))


def test_a_page_that_fails_is_said_in_one_line_and_leaves_no_old_one(tmp_path, capsys):
    path = tmp_path / "report.html"
    write_page(path, lambda: Page("a", "b", "c", []))
    assert path.is_file()
    write_page(path, lambda: Page("a", "b", "c", [Section("d", [tag("p", Markup("\ud800"))])]))  # half a character
    assert path.is_file()

    def fail():
        raise KeyError("episodes")

    write_page(path, fail)
    words = capsys.readouterr().err
    assert "report.html cannot be written: KeyError: 'episodes'" in words
    assert words.count("\n") == 1
    assert not path.exists()


def test_a_link_in_the_place_of_a_page_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    path = tmp_path / "report.html"
    path.symlink_to(tmp_path / "thesis.tex")
    write_page(path, lambda: Page("a", "b", "c", []))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not path.is_symlink()


def test_a_small_picture_is_in_the_page_and_a_large_one_is_linked(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "a b"
    folder.mkdir(parents=True)
    write_gif(folder / "rollout.gif")
    content = (folder / "rollout.gif").read_bytes()
    ((_, image),) = Reader(picture(folder / "rollout.gif", folder, "film")).elements
    assert image["src"] == "data:image/gif;base64," + base64.b64encode(content).decode()
    assert image["alt"] == "film"
    Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))).verify()
    monkeypatch.setattr(page_, "LARGEST_EMBEDDED", 10)
    (_, link), (_, image) = Reader(picture(folder / "rollout.gif", tmp_path, "film")).elements
    assert link["href"] == image["src"] == "runs/a%20b/rollout.gif"


def test_what_is_no_picture_or_a_link_is_not_put_into_a_page(tmp_path):
    (tmp_path / "secret").write_text("GIF89a and a key")
    (tmp_path / "rollout.gif").symlink_to(tmp_path / "secret")
    assert picture(tmp_path / "rollout.gif", tmp_path, "film") is None
    (tmp_path / "plans.png").write_text("no picture")
    assert picture(tmp_path / "plans.png", tmp_path, "plans") is None
    assert picture(tmp_path / "missing.png", tmp_path, "plans") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "none"), (True, "yes"), (3, "3"), (1000000, "1000000"), (3089.53, "3,090"), (0.12345, "0.123")],
)
def test_numbers_are_written_as_readers_write_them(value, words):
    assert number(value) == words


def test_a_command_is_quoted_for_the_shell_and_takes_values_as_the_command_line_does():
    words = [
        "vgp",
        "evaluate",
        "my folder",
        *options({"max_grad_norm": None, "habit": True, "space": "{a: [1]}"}.items()),
    ]
    text = Reader(command(words)).text
    assert text.split("--")[0].strip() == "vgp evaluate 'my folder'"
    assert "--max_grad_norm null" in text
    assert "--habit true" in text
    assert "--space '{a: [1]}'" in text


def test_methods_name_only_what_is_used():
    section = describe_methods(["Plans are made by diffusion {planning}."])
    text = Reader("".join(section.parts)).text
    assert "diffusion (Janner et al. 2022)" in text
    assert "Janner et al. 2022: M. Janner" in text
    assert "Hesterberg" not in text
    with pytest.raises(KeyError):
        describe_methods(["{nobody}"])


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((995.04, 1866.2), "95 % interval 995 to 1,866"),
        ((-0.5, 0.123456), "95 % interval -0.5 to 0.123"),
        ((101.26, 250.0), "95 % interval 101.3 to 250.0"),
        (None, "no interval: too few episodes"),
    ],
)
def test_both_ends_of_an_interval_are_rounded_alike(ends, words):
    assert interval(ends) == words
