import collections
import json

import pytest
import reliability
import tally


def test_a_case_counts_as_right_as_clear_or_as_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("VGP_TALLY", str(tmp_path / "tally.jsonl"))
    with tally.case("kills", "one"):
        pass
    with tally.case("kills", "two") as verdict:
        verdict.outcome = "clear"
    with pytest.raises(RuntimeError), tally.case("kills", "three"):
        raise RuntimeError
    cases = [json.loads(line) for line in (tmp_path / "tally.jsonl").read_text().splitlines()]

    assert reliability.count(cases) == {"kills": {"right": 1, "clear": 1, "failed": 1}}


def test_a_group_that_was_not_run_keeps_its_row():
    page = f"before\n{reliability.BEGIN}\n{reliability.HEAD}| kills | 3 | 1 | 1 | 1 |\n{reliability.END}\nafter\n"

    new = reliability.write(page, reliability.read(page) | {"full disks": collections.Counter(clear=2)})

    assert "| kills | 3 | 1 | 1 | 1 |\n" in new
    assert "| full disks | 2 | 0 | 2 | 0 |\n" in new
    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")


def test_the_page_has_no_row_of_a_group_that_is_gone():
    assert set(reliability.read(reliability.PAGE.read_text())) <= set(tally.GROUPS)
