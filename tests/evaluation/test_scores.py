"""Normalised scores: those of D4RL, and which reference they refer to."""

import json
from dataclasses import asdict

import pytest

from vgp_lightning.evaluation.scores import Reference, choose_reference, normalized_score


def test_the_normalised_score_of_hopper_is_the_one_of_d4rl():
    reference = choose_reference("Hopper-v5")
    assert reference.name == "D4RL hopper"
    assert normalized_score(3234.3, reference) == pytest.approx(100)
    assert normalized_score(-20.272305, reference) == pytest.approx(0)
    # (1500 + 20.272305) / (3234.3 + 20.272305)
    assert normalized_score(1500.0, reference) == pytest.approx(46.71189, abs=1e-5)


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("HalfCheetah-v5", "D4RL halfcheetah"),
        ("Walker2d-v4", "D4RL walker2d"),
        ("package:space/Ant-v5", "D4RL ant"),
        ("AntMaze_UMaze-v5", None),
        ("HopperHop-v0", None),
    ],
)
def test_the_environments_family_chooses_the_published_reference(env_id, name):
    reference = choose_reference(env_id)
    assert (reference and reference.name) == name


def test_the_users_reference_goes_first_then_the_tasks_then_d4rls():
    task = {"env_id": "Hopper-v5", "reference_scores": {"name": "dataset vgp/hopper/medium-v0", "min": 1.0, "max": 9.0}}
    assert choose_reference("Hopper-v5", task, 0.0, 10.0) == Reference("user", 0.0, 10.0)
    assert choose_reference("Hopper-v5", task).name == "dataset vgp/hopper/medium-v0"
    assert choose_reference("Hopper-v5", task | {"reference_scores": None}).name == "D4RL hopper"
    # The dataset's scores say nothing of another environment.
    assert choose_reference("Walker2d-v5", task).name == "D4RL walker2d"


def test_half_a_reference_and_an_inverted_one_are_refused():
    with pytest.raises(ValueError, match="give both or neither"):
        choose_reference("Hopper-v5", None, 3.0)
    with pytest.raises(ValueError, match="must lie below"):
        choose_reference("Hopper-v5", None, 3.0, 3.0)


def test_references_survive_json():
    reference = choose_reference("Hopper-v5")
    assert Reference(**json.loads(json.dumps(asdict(reference)))) == reference


@pytest.mark.parametrize(
    "scores",
    [
        {"name": "x", "min": 1.0, "max": 1.0},
        {"name": "x", "min": "a", "max": "b"},
        {"name": "x", "min": 0.0, "max": float("nan")},
        {"name": "x", "min": 0.0},
        [0, 1],
    ],
)
def test_references_of_a_folder_that_score_nothing_are_refused(scores):
    with pytest.raises(ValueError, match="reference_scores of the folder's model_index"):
        choose_reference("Hopper-v5", {"env_id": "Hopper-v5", "reference_scores": scores})
