"""The space of settings: what is worth trying with a folder, and which combinations are one."""

import itertools

import pytest
from fakes import H, Stub, add_critic, planner, write_tiny, zeros

from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import DEFAULTS
from vgp_lightning.tuning.space import choose_space, draw_configurations


@pytest.fixture
def load(tmp_path):
    def load(**options):
        return ValueGuidedPlannerPipeline.from_pretrained(write_tiny(tmp_path / "planner", **options))

    return load


def test_the_values_are_about_the_folders_own_and_include_them(load):
    pipeline = load(scale=0.02, batch_size=8, num_inference_steps=3, warm_start_strength=0.7, replan_every=3)
    assert choose_space(pipeline, None) == {
        "scale": [0.002, 0.006, 0.02, 0.06, 0.2],
        "n_guide_steps": [0, 1, 2],
        "batch_size": [1, 4, 8, 16, 64],
        "num_inference_steps": [2, 3, 5, 10],  # of the 10 levels of the training
        "temperature": [0.0, 0.5, 1.0],
        "choice_temperature": [0.0, 0.5, 1.0],
        "warm_start_strength": [0.4, 0.7, 1.0],
        "replan_every": [1, 2, 3, 4],
    }


def test_the_values_keep_to_the_horizon_and_to_what_the_scheduler_can_do(load):
    space = choose_space(load(planning_horizon=2, sampler=None, scale=0), None)
    assert space["replan_every"] == [1, 2]
    assert space["temperature"] == [1.0]
    assert space["scale"] == [0, 0.01, 0.03, 0.1, 0.3, 1]  # about 0 nothing can be multiplied


def test_without_a_value_function_there_is_neither_guidance_nor_choice(load):
    space = choose_space(load(guided=False, batch_size=16), None)
    assert "scale" not in space
    assert "n_guide_steps" not in space
    assert (space["batch_size"], space["choice_temperature"]) == ([1], [0.0])


def test_with_a_critic_in_the_folder_it_may_rank(load, tmp_path):
    without = choose_space(load(batch_size=16), None)
    add_critic(tmp_path / "planner")
    space = choose_space(ValueGuidedPlannerPipeline.from_pretrained(tmp_path / "planner"), None)
    assert space == without | {"rank_by": ["critic", "value"]}
    unvalued = write_tiny(tmp_path / "unvalued", guided=False, batch_size=16)
    add_critic(unvalued)
    space = choose_space(ValueGuidedPlannerPipeline.from_pretrained(unvalued), None)
    assert (space["rank_by"], space["batch_size"]) == (["critic"], [1, 4, 16, 64])


def test_what_is_given_goes_before_and_any_setting_can_be(load):
    pipeline = load()
    space = choose_space(pipeline, {"batch_size": [3], "sampler": ["ddpm", "ddim"]})
    assert space == choose_space(pipeline, None) | {"batch_size": [3], "sampler": ["ddpm", "ddim"]}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"speed": [1]}, r"unknown settings \['speed'\]: choose from \['batch_size', .*'warm_start_strength'\]"),
        ({"scale": [], "sampler": []}, r"no values for \['sampler', 'scale'\].*'sampler': \['ddim'\], 'scale': \[0.01"),
        (
            {"batch_size": [4, None], "max_grad_norm": [None]},
            r"null for \['batch_size'\]: only \['max_grad_norm', 'num_inference_steps', 'sampler'\] can be null",
        ),
    ],
)
def test_an_unknown_setting_an_empty_list_and_a_null_that_cannot_be_are_refused_with_the_choices(load, space, words):
    with pytest.raises(ValueError, match=words):
        choose_space(load(), space)


def test_null_is_a_value_of_the_settings_that_can_be_null(load):
    space = {"max_grad_norm": [None, 1.0], "sampler": [None], "num_inference_steps": [None]}
    pipeline = load(max_grad_norm=5.0)
    assert choose_space(pipeline, space) | space == choose_space(pipeline, space)
    drawn = draw_configurations(pipeline, space | {"n_guide_steps": [1]}, 9, 0)[1:]
    assert {one["max_grad_norm"] for one in drawn} == {None, 1.0}
    assert {one["sampler"] for one in drawn} == {None}
    assert {one["num_inference_steps"] for one in drawn} == {10}  # as many as in training


def test_the_defaults_come_first_and_all_are_complete_and_different(load):
    pipeline = load()
    drawn = draw_configurations(pipeline, choose_space(pipeline, None), 20, 0)
    assert len(drawn) == 20
    assert drawn[0] == pipeline.resolve_settings()
    assert all(set(settings) == set(DEFAULTS) for settings in drawn)
    assert all(one != other for one, other in itertools.combinations(drawn, 2))
    assert all(pipeline.resolve_settings(**settings) == settings for settings in drawn)


def test_the_draw_follows_from_its_seed(load):
    pipeline = load()
    space = choose_space(pipeline, None)
    first, again, other = (draw_configurations(pipeline, space, 10, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_small_space_is_taken_whole(load):
    pipeline = load(scale=0.1, n_guide_steps=1)
    space = {"scale": [0.1, 0.2], "batch_size": [2, 4]}
    drawn = draw_configurations(pipeline, space, 27, 0)
    assert {(s["scale"], s["batch_size"]) for s in drawn} == {(0.1, 2), (0.1, 4), (0.2, 2), (0.2, 4)}
    assert len(drawn) == 4


@pytest.mark.parametrize(
    ("default", "space", "expected"),
    [
        # Without guidance its scale and the rest of it are idle,
        ({"n_guide_steps": 1}, {"n_guide_steps": [0, 1], "scale": [0.1, 0.2]}, [(1, 0.1), (1, 0.2), (0, 0.1)]),
        ({"n_guide_steps": 1}, {"n_guide_steps": [1, 2], "scale": [0.0]}, [(1, 0.1), (0, 0.1)]),
        ({"n_guide_steps": 0}, {"guide_on": ["clean", "noisy"], "t_stopgrad": [0, 2, 4]}, [("noisy", 2)]),
        # without noise all candidates are one,
        ({}, {"temperature": [0, 1.0], "batch_size": [2, 4]}, [(1.0, 2), (1.0, 4), (0, 1)]),
        ({"temperature": 0.0}, {"temperature": [0.0], "batch_size": [1, 2, 4]}, [(0.0, 2)]),
        # one plan is not chosen, whatever would rank it,
        ({}, {"batch_size": [1, 2], "choice_temperature": [0, 1.0]}, [(1, 0.0), (2, 0), (2, 1.0)]),
        # and a warm start that takes all steps, or follows no plan, is a cold one.
        (
            {},
            {"num_inference_steps": [1, 5], "warm_start_strength": [0.4, 1.0]},
            [(2, 1.0), (1, 1.0), (5, 0.4), (5, 1.0)],
        ),
        ({}, {"replan_every": [0], "warm_start_strength": [0.4, 1.0]}, [(1, 1.0), (0, 1.0)]),
    ],
)
def test_what_differs_in_idle_settings_only_is_one(load, default, space, expected):
    drawn = draw_configurations(load(**default), space, 27, 0)
    assert sorted(tuple(settings[name] for name in space) for settings in drawn) == sorted(expected)


def test_a_space_too_large_to_be_gone_through_is_drawn_from():
    space = {name: list(range(1, 1001)) for name in ("batch_size", "n_guide_steps", "t_stopgrad", "scale")}
    drawn = draw_configurations(planner(Stub(zeros), Stub(zeros)), space, 5, 0)
    assert len(drawn) == 5
    assert all(settings["scale"] > 1 for settings in drawn[1:])


def test_a_combination_that_cannot_work_is_refused(load):
    with pytest.raises(ValueError, match=f"replan_every is 99: a whole number between 0 and {H}"):
        draw_configurations(load(), {"replan_every": [99]}, 2, 0)
