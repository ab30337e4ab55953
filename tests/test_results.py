"""RESULTS.md is made from what was measured."""

import json
import re

import pytest

from benchmarks import results, results_page

MEASURED = sorted(path for path in results_page.RESULTS.glob("*/*.json"))


def test_the_page_is_what_the_files_say():
    machine = MEASURED[0].parent.name
    assert (results_page.ROOT / results_page.PAGE).read_text() == results_page.page(machine, results_page.read(machine))


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
