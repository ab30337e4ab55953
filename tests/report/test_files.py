"""Files: they are complete, or the one before; no link leads out of a folder."""

import json
from pathlib import Path

import pytest

from vgp_lightning.report.files import refuse_links, replace_file, write_report


def test_a_report_replaces_the_one_before_and_leaves_no_other_file(tmp_path):
    for report in ({"return": 1.5}, {"return": None}):
        write_report(report, tmp_path / "report.json")
        assert json.loads((tmp_path / "report.json").read_text()) == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_number_that_is_not_finite_is_refused_and_the_file_stays(tmp_path):
    write_report({"return": 1.5}, tmp_path / "report.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report({"return": float("nan")}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == {"return": 1.5}


def test_two_writers_of_one_report_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    # While the first one is about to put its file in place, a second one writes the same report.
    replace = Path.replace

    def interrupted(partial, target):
        monkeypatch.setattr(Path, "replace", replace)
        write_report({"writer": "second, with a longer text"}, target)
        return partial.replace(target)

    monkeypatch.setattr(Path, "replace", interrupted)
    write_report({"writer": "first"}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == {"writer": "first"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_of_somebody_else_that_bears_a_similar_name_is_not_written_to(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "report.json.partial").symlink_to(tmp_path / "elsewhere")
    write_report({"return": 1.5}, tmp_path / "report.json")
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_report_that_cannot_be_written_whole_leaves_the_one_before(tmp_path, monkeypatch):
    write_report({"return": 1.5}, tmp_path / "report.json")
    monkeypatch.setattr(Path, "replace", lambda partial, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report({"return": 2.5}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == {"return": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_file_that_is_not_written_to_its_end_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")

    def fail(file):
        file.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        replace_file(path, fail)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    path = tmp_path / "folder" / "a.txt"
    path.parent.mkdir()
    path.symlink_to(outside)
    replace_file(path, lambda file: file.write(b"new"))
    assert (outside.read_text(), path.read_text(), path.is_symlink()) == ("mine", "new", False)


def test_links_within_a_folder_are_allowed_and_links_out_of_it_are_named(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("")
    (folder / "b").symlink_to("a")
    (folder / "sub" / "c").symlink_to("../a")
    refuse_links(folder)
    (folder / "sub" / "d").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"sub/d is a link to .*/secret, outside of"):
        refuse_links(folder)
    refuse_links(folder, ["a", "b"])
    (folder / "sub" / "d").unlink()
    (folder / "sub" / "deep" / "deeper").mkdir(parents=True)
    (folder / "sub" / "deep" / "back").symlink_to(folder)  # it is not walked through: it would never end
    refuse_links(folder)
    (folder / "sub" / "deep" / "deeper" / "e").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"deeper/e is a link to .*/secret, outside of"):
        refuse_links(folder, ["sub"])
