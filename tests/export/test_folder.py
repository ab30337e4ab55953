"""A folder's defaults change in place: file by file, for every consumer, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import contents, run_elsewhere, settings_elsewhere, write_tiny
from huggingface_hub import ModelCard

from vgp_lightning.agent.behaviours import make_behaviour
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.export.card import read_meanings
from vgp_lightning.export.folder import update_defaults
from vgp_lightning.pipeline.joining import join_pipeline
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import DEFAULTS, ONE_PLAN, Settings


def test_new_defaults_are_those_of_every_consumer(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    before = contents(folder)
    new = {"scale": 0.25, "n_guide_steps": 1, "replan_every": 4}
    update_defaults(folder, new)
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    settings = pipeline.resolve_settings()
    assert settings | new | {"batch_size": 2, "num_inference_steps": 2} == settings
    elsewhere = settings_elsewhere(folder, tmp_path)
    assert elsewhere["settings"] == settings
    actions = pipeline(np.array([0.5, -0.5]), generator=torch.Generator().manual_seed(7)).actions
    torch.testing.assert_close(torch.tensor(elsewhere["actions"]), actions, rtol=0, atol=1e-5)
    after = contents(folder)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"model_index.json", "README.md"}


def test_a_folder_as_a_behaviour_follows_its_plans_as_long_as_it_says(tmp_path):
    environments = make_environments("MountainCarContinuous-v0", 1)
    agent = make_behaviour(str(write_tiny(tmp_path / "planner", replan_every=4)), environments)
    environments.close()
    assert agent.replan_every == 4


def test_the_index_is_written_as_diffusers_does_and_keeps_the_rest(tmp_path):
    folder = write_tiny(tmp_path / "planner", task={"env_id": "Hopper-v5"})
    before = (folder / "model_index.json").read_text()
    update_defaults(folder, {})
    assert (folder / "model_index.json").read_text() == before
    update_defaults(folder, {"scale": 0.25})
    old, new = json.loads(before), json.loads((folder / "model_index.json").read_text())
    assert new["planner"] == old["planner"] | {"scale": 0.25}
    assert new | {"planner": None} == old | {"planner": None}


def test_the_cards_table_is_renewed_and_what_the_user_wrote_stays(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nMy own words, with a \\1 in them.\n\n| a | table |\n|---|---|\n")
    update_defaults(folder, {"scale": 0.25})
    text = card.read_text()
    assert "| `scale` | 0.25 | Guidance scale: " in text
    assert text.count("| `scale` |") == 1
    assert text.endswith("`vgp tune` compares them.\n\nMy own words, with a \\1 in them.\n\n| a | table |\n|---|---|\n")
    assert ModelCard.load(card).data.library_name == "diffusers"
    card.write_text(text.split("\n\nMy own")[0])  # by an editor that ends no last line
    update_defaults(folder, {"scale": 0.5})
    assert card.read_text() == text.split("\nMy own")[0].replace("0.25", "0.5")
    card.write_text("Only my words.\n")
    update_defaults(folder, {"scale": 0.5})
    assert card.read_text() == "Only my words.\n"
    card.unlink()
    update_defaults(folder, {"scale": 0.75})
    assert not card.exists()


def test_the_evidence_for_the_defaults_stands_in_the_index_and_in_the_card_until_they_change_without_any(tmp_path):
    folder = write_tiny(tmp_path / "planner", task={"env_id": "Hopper-v5"}, **ONE_PLAN)
    index, card = folder / "model_index.json", folder / "README.md"
    assert "\nWhy these: One plan at a time, neither guided nor chosen among candidates: nothing" in card.read_text()
    one = {"with": "one plan", "pairs": 50, "difference": -402.26, "ci95": [-748.1, 63.04], "permutation_p": 0.0231}
    two = {"with": "default", "pairs": 4, "difference": 3e5, "ci95": None, "permutation_p": 0.125}
    evidence = {"env_id": "Hopper-v5", "first_seed": 7, "last_seed": 56, "compared": [one, two]}
    update_defaults(folder, {"batch_size": 4}, evidence)
    assert json.loads(index.read_text())["task"] == {"env_id": "Hopper-v5", "evidence": evidence}
    assert (
        "\nWhy these: `vgp tune` chose these settings by returns in Hopper-v5, on the held-out seeds 7 to 56: "
        "-402.3 [-748.1, 63.04] (50 pairs, p = 0.023) against one plan; "
        "+3e+05 (4 pairs, p = 0.12) against the defaults before.\n"
    ) in card.read_text()
    update_defaults(folder, {"batch_size": 5})
    assert json.loads(index.read_text())["task"] == {"env_id": "Hopper-v5"}
    assert card.read_text().count("Why these: ") == 1
    assert "\nWhy these: These settings were not compared with one plan" in card.read_text()


def test_the_cards_table_says_what_each_setting_means(tmp_path):
    text = (write_tiny(tmp_path / "planner") / "README.md").read_text()
    assert "| setting | default | meaning |\n|---|---|---|\n| `batch_size` | 2 | K, the number of candidate" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == list(DEFAULTS)
    assert all(len(row) == 3 and row[2].endswith(". |") for row in rows)


def test_the_meanings_are_those_of_the_docstring_each_in_one_line():
    meanings = read_meanings()
    assert list(meanings) == list(DEFAULTS) == list(Settings.__annotations__)
    assert meanings["planning_horizon"] == "H, the number of steps in a plan."
    assert meanings["guide_on"].endswith("as in the paper's code), or the clean plan that the denoiser predicts.")
    assert not [text for text in meanings.values() if "|" in text or "\n" in text]


@pytest.mark.parametrize("after", ["", "\n\nMy own words.\n\n| default | value |\n"])
def test_an_older_cards_table_of_two_columns_is_replaced(tmp_path, after):
    folder = write_tiny(tmp_path / "planner")
    card = folder / "README.md"
    before, _ = card.read_text().split("| setting |")
    card.write_text(before + "| default | value |\n|---|---|\n| `batch_size` | 2 |\n| `scale` | 0.1 |" + after)
    update_defaults(folder, {"scale": 0.25})
    own, new = card.read_text().split("| setting | default | meaning |\n|---|---|---|\n")
    assert own == before
    assert "| `scale` | 0.25 | Guidance scale: " in new
    assert new.count("| `scale` |") == 1
    assert new.endswith(f"`vgp tune` compares them.\n{after.removeprefix(chr(10))}")


def test_an_older_folders_code_is_renewed_for_it_may_not_know_a_setting(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    # Up to version 0.1 the code lay in files beside each other.
    (folder / "pipeline.py").write_text("from .settings import (\n    THIS,\n)\nraise ImportError('of long ago')\n")
    (folder / "settings.py").write_text("THIS = 0\n")
    (folder / "notes.py").write_text("# the user's\n")
    update_defaults(folder, {"replan_every": 2})
    assert {path.name for path in folder.glob("*.py")} == {"pipeline.py", "notes.py"}
    assert (folder / "pipeline.py").read_text() == join_pipeline()
    assert settings_elsewhere(folder, tmp_path)["settings"]["replan_every"] == 2


def test_a_folder_from_before_a_setting_was_known_loads_with_its_default(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    index = json.loads((folder / "model_index.json").read_text())
    assert "replan_every" not in index["planner"]
    assert ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()["replan_every"] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speed": 1}, r"unknown settings \['speed'\]"),
        ({"replan_every": 9}, "replan_every is 9: a whole number between 0 and 8"),
        ({"sampler": None, "temperature": 0.5}, "draws its own noise"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(tmp_path, settings, words):
    folder = write_tiny(tmp_path / "planner")
    before = contents(folder)
    with pytest.raises(ValueError, match=words):
        update_defaults(folder, settings)
    assert contents(folder) == before


def test_an_interruption_leaves_each_file_as_it_was_or_as_it_shall_be(tmp_path, monkeypatch):
    folder = write_tiny(tmp_path / "planner")
    before, replace = contents(folder), Path.replace

    def interrupted(path, target):
        if target.name == "model_index.json":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update_defaults(folder, {"scale": 0.25})
    assert {name: contents(folder)[name] for name in before} == before
    assert ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()["scale"] == 0.1


def test_a_card_says_nothing_of_checkpoints_that_are_unknown(tmp_path):
    assert "heckpoint" not in (write_tiny(tmp_path / "planner") / "README.md").read_text()
    known = {"checkpoints": {"planner": {"file": "last.ckpt", "step": None}}}
    other = write_tiny(tmp_path / "other", task=known)
    assert "Checkpoints: planner `last.ckpt`.\n" in (other / "README.md").read_text()


def edited(folder, old, new):
    """Change the code that a folder carries."""
    found = 0
    for path in folder.glob("*.py"):
        text = path.read_text()
        found += text.count(old)
        path.write_text(text.replace(old, new))
    assert found == 1
    return folder


PLAN_TWO_ELSEWHERE = """
import json, sys
sys.modules["vgp_lightning"] = None
from diffusers import DiffusionPipeline
scales = []
for folder in sys.argv[1:]:
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    scales.append(pipeline.resolve_settings()["scale"])
print(json.dumps(scales))
"""


def test_two_folders_with_different_code_in_one_process_plan_each_with_its_own(tmp_path):
    first = write_tiny(tmp_path / "first")
    second = edited(write_tiny(tmp_path / "second"), '"scale": 0.1,', '"scale": 0.7,')
    assert run_elsewhere(tmp_path, PLAN_TWO_ELSEWHERE, first, second, first) == [0.1, 0.7, 0.1]


def test_the_card_says_to_read_the_code_before_it_is_trusted(tmp_path):
    text = (write_tiny(tmp_path / "planner") / "README.md").read_text()
    assert "runs the code in this folder's `pipeline.py`: read it before you trust it." in text.split("```")[2]
