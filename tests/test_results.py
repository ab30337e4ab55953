"""RESULTS.md is made from what was measured."""

import json
import re
import shutil

import pytest

from benchmarks import results, results_page

MEASURED = sorted(path for path in results_page.RESULTS.glob("*/*.json"))


def test_the_page_is_what_the_files_say():
    assert (results_page.ROOT / results_page.PAGE).read_text() == results_page.page(results_page.read())


def test_what_a_gpu_measured_stands_beside_the_cpu_s(tmp_path, monkeypatch):
    shutil.copytree(results_page.RESULTS, tmp_path / "results")
    monkeypatch.setattr(results_page, "RESULTS", tmp_path / "results")
    result = json.loads((tmp_path / "results" / "cpu" / "walker2d-medium.json").read_text())
    (tmp_path / "results" / "gpu").mkdir()
    (tmp_path / "results" / "gpu" / "walker2d-medium.json").write_text(json.dumps(result | {"machine": "gpu"}))
    page = results_page.page(results_page.read())
    (own,) = (line for line in page.splitlines() if line.startswith("| walker2d-medium, guided |"))
    assert own.replace("medium,", "medium (GPU),") in page.splitlines()
    assert page.count("| walker2d-medium (GPU)") == 4 + 5  # a row in each table, and each player's among the returns
    assert "marked (GPU), the paper's sizes" in page


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_what_was_measured_was_paired_and_came_from_the_recipe_as_it_stands(path):
    result = json.loads(path.read_text())
    played = [[episode["seed"] for episode in report["episodes"]] for report in result["planners"].values()]
    assert len(played[0]) >= 20
    assert all(seeds == played[0] for seeds in played)
    files = [str(file.relative_to(results_page.ROOT)) for file in results.overlays(path.stem, path.parent.name)]
    assert result["configs"] == files
    checkpoint = result["planners"]["unguided"]["checkpoints"]["planner"]
    assert checkpoint == {"file": "last.ckpt", "step": result["training"]["steps"]}


def test_no_number_of_a_measurement_is_typed_by_hand_into_the_page():
    template = (results_page.RESULTS / "page.md").read_text()
    # What may stand there: the scale's ends, the interval's level, names of datasets and of data of others.
    prose = re.sub(r"\{[^}]*\}|`[^`]*`|medium-v2|100 x|95 %|D4RL", "", template)
    assert re.findall(r"\d{2,}", prose) == []
