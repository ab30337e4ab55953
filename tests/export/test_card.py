"""A card says how a planner was evaluated, to readers and to the Hub."""

import json

import pytest
from fakes import contents, write_tiny
from huggingface_hub import ModelCard

from vgp_lightning.export.card import add_evaluation
from vgp_lightning.export.folder import update_defaults

REPORT = {
    "env_id": "Hopper-v5",
    "pipeline": "/home/somebody/exports/hopper",
    "seed": 1_000_000,
    "return_mean": 1234.567,
    "return_ci95": [1000.0, 1500.0],
    "return_iqm": 1300.0,
    "length_mean": 400.0,
    "success_rate": None,
    "episodes": [{"seed": seed} for seed in range(1_000_000, 1_000_020)],
    "failed_episodes": [],
}


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "planner", task={"env_id": "Hopper-v5"})


def test_an_evaluation_stands_in_the_card_for_readers_and_for_the_hub(folder, tmp_path):
    film = tmp_path / "film.gif"
    film.write_bytes(b"GIF89a")
    add_evaluation(folder, REPORT, film, {"one unguided plan": REPORT | {"return_mean": 7.0, "return_ci95": None}})
    text = (folder / "README.md").read_text()
    assert (
        "| Hopper-v5 | return, mean | 95 % interval | middle half, mean | episode length | episodes |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| this planner | 1235 | 1000 to 1500 | 1300 | 400 | 20 |\n"
        "| one unguided plan | 7 | - | 1300 | 400 | 20 |\n"
    ) in text
    assert "Seeds 1000000 to 1000019, one training." in text
    assert "![An episode of this planner](rollout.gif)" in text
    assert (folder / "rollout.gif").read_bytes() == b"GIF89a"
    assert json.loads((folder / "evaluation.json").read_text()) == {
        name: value for name, value in REPORT.items() if name != "pipeline"
    }
    (result,) = ModelCard.load(folder / "README.md").data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("Hopper-v5", "mean_reward", 1234.57)
    assert result.metric_args == {"episodes": 20, "first_seed": 1_000_000, "ci95": [1000.0, 1500.0]}


def test_a_success_rate_has_its_column(folder):
    add_evaluation(folder, REPORT | {"success_rate": 0.95}, None)
    text = (folder / "README.md").read_text()
    assert "| episode length | success | episodes |" in text
    assert "| 400 | 95% | 20 |" in text
    assert "rollout.gif" not in text


def test_a_second_evaluation_replaces_the_first_and_what_the_user_wrote_stays(folder):
    card = folder / "README.md"
    card.write_text(card.read_text() + "\n## My own words\n\nOf them.\n")
    add_evaluation(folder, REPORT, None)
    first = card.read_text()
    add_evaluation(folder, REPORT, None)
    assert card.read_text() == first
    add_evaluation(folder, REPORT | {"return_mean": 99.0}, None)
    assert card.read_text().count("## Evaluation") == 1
    assert "| this planner | 99 |" in card.read_text()
    assert card.read_text().endswith("\n## My own words\n\nOf them.\n")
    update_defaults(folder, {"scale": 0.25})
    assert "| `scale` | 0.25 |" in card.read_text()
    assert "| this planner | 99 |" in card.read_text()


def test_an_older_card_gets_the_evaluation_at_its_end(folder):
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n\n# A planner of 0.1\n")
    add_evaluation(folder, REPORT, None)
    body = (folder / "README.md").read_text().split("---\n", 2)[2]
    assert body.startswith("\n# A planner of 0.1\n\n## Evaluation\n")


def test_without_a_card_nothing_is_written(folder):
    (folder / "README.md").unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match=r"README\.md is missing"):
        add_evaluation(folder, REPORT, None)
    assert contents(folder) == before


def test_a_card_says_how_the_folder_is_loaded_and_what_it_cannot_do(folder, tmp_path):
    text = (folder / "README.md").read_text()
    assert "custom_pipeline=folder, trust_remote_code=True" in text
    assert "from vgp_lightning import ValueGuidedPlannerPipeline" in text
    assert "ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder))" in text
    assert "\n## Limits\n" in text
    unguided = write_tiny(tmp_path / "unguided", guided=False, n_guide_steps=0)
    assert "StockEnvironment" not in (unguided / "README.md").read_text()
