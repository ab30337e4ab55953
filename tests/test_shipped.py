"""The planner that ships is what its card says, and plans with the package as it is."""

import json

import gymnasium
import pytest
import yaml
from fakes import contents
from huggingface_hub import ModelCard

from benchmarks.shipped import EPISODES, SETTINGS, TRAININGS
from vgp_lightning import PlanningAgent, ValueGuidedPlannerPipeline, example_planner
from vgp_lightning.agent.deployment import FIRST_SEED
from vgp_lightning.agent.origin import hash_weights
from vgp_lightning.pipeline.settings import DEFAULTS, EXPORT_DEFAULTS
from vgp_lightning.shipped import EXAMPLE, PLANNERS

FOLDER = PLANNERS / EXAMPLE


@pytest.fixture(scope="module")
def pipeline():
    return ValueGuidedPlannerPipeline.from_pretrained(example_planner())


def test_it_is_small_data_alone_and_names_nobodys_paths():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 700_000
    assert {path.suffix for path in files} == {".json", ".yaml", ".md", ".safetensors"}
    texts = [path.read_text() for path in files if path.suffix != ".safetensors"]
    assert not [
        text
        for text in texts
        if "_name_or_path" in text or any(f"{home}/" in text for home in ("/home", "/root", "/work"))
    ]


def test_its_settings_are_those_of_an_export_today_and_of_its_evaluation(pipeline):
    settings = pipeline.resolve_settings()
    exported = DEFAULTS | EXPORT_DEFAULTS | SETTINGS
    own = ("planning_horizon", "num_inference_steps")  # of its training
    assert {name: settings[name] for name in settings if name not in own} == {
        name: value for name, value in exported.items() if name not in own
    }
    assert json.loads((FOLDER / "evaluation.json").read_text())["settings"] == settings


def test_it_is_of_the_trainings_that_its_command_runs():
    for kind, (widths, steps) in TRAININGS.items():
        config = yaml.safe_load((FOLDER / "training" / f"{kind}.yaml").read_text())
        assert config["trainer"]["max_steps"] == steps
        assert config["model"]["init_args"]["widths"] == json.loads(widths)


def test_its_card_has_the_evaluation_of_these_weights_and_they_act_far_better_than_chance():
    report = json.loads((FOLDER / "evaluation.json").read_text())
    assert report["weights_sha256"] == hash_weights(FOLDER)
    assert [episode["seed"] for episode in report["episodes"]] == list(range(FIRST_SEED, FIRST_SEED + EPISODES))
    card = ModelCard.load(FOLDER / "README.md")
    assert card.data.eval_results[0].metric_value == round(report["return_mean"], 2)
    (chance,) = [line.split(" | ")[2] for line in card.text.splitlines() if line.startswith("| random actions |")]
    assert report["return_ci95"][0] > 5 * float(chance.split(" to ")[1])


def test_it_hops_right_after_the_installation(pipeline):
    agent, environment = PlanningAgent(pipeline), gymnasium.make("Hopper-v5")
    observation, _ = environment.reset(seed=FIRST_SEED)
    agent.reset([FIRST_SEED])
    falls = []
    for _ in range(60):
        (action,) = agent.act(observation[None])
        observation, _, fallen, _, _ = environment.step(action)
        falls.append(fallen)
    environment.close()
    assert not any(falls)


def test_saved_anew_it_is_a_whole_folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "hopper")
    names = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert set(contents(tmp_path / "hopper")) == names | {"pipeline.py"}
