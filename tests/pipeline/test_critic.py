"""A critic: its arithmetic by hand, how it ranks, and what is refused when it is loaded from a planner's folder."""

import json

import numpy as np
import pytest
import torch
from fakes import UNITS, A, O, add_critic, add_habit, run_elsewhere, write_tiny
from safetensors.torch import load_file, save_file

from vgp_lightning.pipeline.critic import Critic
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

STATE = np.array([0.5, -0.5])  # of the tiny folder


def load(folder):
    return ValueGuidedPlannerPipeline.from_pretrained(folder)


def test_the_rank_is_the_mean_of_the_networks_in_the_return_s_units():
    critic = Critic(UNITS, [16], 2, advantage_scale=5.0)
    rng = np.random.default_rng(0)
    observations, actions = rng.normal(3, 5, (4, 6, O)), rng.normal(size=(4, 6, A))
    pairs = np.concatenate([(observations - [1, 2, 3]) / [3, 0.5, 10], (actions - [0.5, -0.5]) / [0.1, 2.0]], axis=2)
    answers = []
    for first, norm, _, last in critic.members:
        hidden = pairs @ first.weight.detach().numpy().T + first.bias.detach().numpy()
        hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + norm.eps)
        hidden = hidden * np.tanh(np.log1p(np.exp(hidden)))
        answers.append(hidden @ last.weight.detach().numpy()[0] + last.bias.detach().numpy())
    ranked = critic.rank(*(torch.tensor(part, dtype=torch.float32) for part in (observations, actions)))
    np.testing.assert_allclose(ranked.detach(), 5 * np.mean(answers, axis=0), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("widths", "networks", "scale", "words"),
    [
        ([], 1, 1.0, "widths are"),
        ([0], 1, 1.0, "widths are"),
        ([10**9], 1, 1.0, "widths are"),
        (16, 1, 1.0, "widths are 16"),
        ([16], 0, 1.0, "networks is 0"),
        ([16], 10**9, 1.0, "networks is"),
        ([16], 1, 0.0, "advantage_scale is 0"),
        ([16], 1, float("nan"), "advantage_scale is nan"),
    ],
)
def test_sizes_that_no_critic_has_are_refused(widths, networks, scale, words):
    with pytest.raises(ValueError, match=words):
        Critic(UNITS, widths, networks, scale)


# ---------------------------------------------------------------- in a folder


def test_the_candidates_are_ranked_by_their_first_actions_and_the_values_stay_what_is_predicted(tmp_path):
    folder = write_tiny(tmp_path / "planner", batch_size=6)
    critic, pipeline = add_critic(folder), load(folder)

    def plan(**settings):
        return pipeline(STATE, generator=torch.Generator().manual_seed(3), return_candidates=True, **settings)

    by_value, by_critic = plan(), plan(rank_by="critic")
    candidates = by_value.candidates
    ranks = critic.rank(candidates.observations[:, :, 0], candidates.actions[:, :, 0])[0]
    order = ranks.argsort(descending=True)
    assert order.tolist() != list(range(6))
    assert torch.equal(by_critic.candidates.actions[0], candidates.actions[0, order])
    assert torch.equal(by_critic.actions[0], candidates.actions[0, order[0]])
    assert torch.equal(by_critic.values[0], candidates.values[0, order[0]])


def test_objectives_of_a_call_rank_in_place_of_the_critic(tmp_path):
    folder = write_tiny(tmp_path / "planner", batch_size=6, rank_by="critic")
    add_critic(folder)
    plan = load(folder)(STATE, objectives=[(1.0, lambda _, actions: actions[:, 0, 0])], return_candidates=True)
    firsts = plan.candidates.actions[0, :, 0, 0]
    assert torch.equal(firsts, firsts.sort(descending=True).values)


def test_a_planner_without_a_value_function_can_be_ranked_by_a_critic(tmp_path):
    folder = write_tiny(tmp_path / "planner", guided=False, batch_size=6, rank_by="critic")
    critic = add_critic(folder)
    plan = load(folder)(STATE, return_candidates=True)
    ranks = critic.rank(plan.candidates.observations[:, :, 0], plan.candidates.actions[:, :, 0])[0]
    assert torch.equal(ranks, ranks.sort(descending=True).values)
    assert plan.values.isnan().all()


RANKED = """
import json, sys
sys.modules["vgp_lightning"] = None
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline=sys.argv[1], trust_remote_code=True)
print(json.dumps(pipeline([0.5, -0.5], generator=torch.Generator().manual_seed(7), rank_by="critic").actions.tolist()))
"""


@pytest.mark.slow
def test_without_this_package_the_folder_s_code_ranks_alike(tmp_path):
    folder = write_tiny(tmp_path / "planner", batch_size=6)
    add_critic(folder)
    plan = load(folder)(STATE, generator=torch.Generator().manual_seed(7), rank_by="critic")
    assert run_elsewhere(tmp_path, RANKED, folder) == plan.actions.tolist()


def test_a_folder_without_a_critic_says_how_to_get_one(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    with pytest.raises(ValueError, match=f"has no critic: make one by vgp critic {folder}"):
        load(folder)(STATE, rank_by="critic")


def test_a_planner_that_is_in_no_folder_says_so(tmp_path):
    made = load(write_tiny(tmp_path / "planner"))
    pipeline = ValueGuidedPlannerPipeline(made.unet, made.scheduler, normalization=made.normalization)
    with pytest.raises(ValueError, match="was not loaded from a folder, so it has no critic"):
        pipeline(STATE, planning_horizon=4, rank_by="critic")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.update(widths=[10**6]), "describes no critic"),
        (lambda config: config.update(widths=[60_000, 60_000]), "is smaller"),
        (lambda config: config.update(networks=3), "are missing, the first is members.2"),
        (lambda config: config.pop("normalization"), "describes no critic"),
    ],
)
def test_a_damaged_description_is_refused_before_it_is_built(tmp_path, change, words):
    folder = write_tiny(tmp_path / "planner", rank_by="critic")
    add_critic(folder)
    path = folder / "critic" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        load(folder)(STATE)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    folder = write_tiny(tmp_path / "planner", rank_by="critic")
    add_critic(folder)
    path = folder / "critic" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["members.0.0.bias"][3] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weight members\.0\.0\.bias of the critic in .* is not finite"):
        load(folder)(STATE)


def test_a_critic_and_a_habit_lie_in_one_folder(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    add_critic(folder)
    add_habit(folder)
    add_critic(folder)
    card = (folder / "README.md").read_text()
    assert (card.count("## Critic"), card.count("## Habit")) == (1, 1)
    assert load(folder).load_habit().answer(STATE).shape == (1, 4, 1)
