"""``vgp critic``: advantages that are known in closed form, what it writes, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from fakes import UNITS, A, O, add_critic, contents, write_tiny

from vgp_lightning.agent.origin import hash_configs, hash_weights
from vgp_lightning.cli import main
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.distillation.criticism import Steps, advantages_of, take_steps
from vgp_lightning.export.folder import update_defaults
from vgp_lightning.pipeline.companions import CRITIC
from vgp_lightning.pipeline.critic import Critic
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.training.critic import CriticModule

FEW = ["--max_steps", "5", "--widths", "[16]", "--networks", "2", "--state_values", "2"]


def train(folder, tmp_path, *options):
    main(["critic", str(folder), "--output_dir", str(tmp_path / "output"), *map(str, options)])


def load(folder):
    return ValueGuidedPlannerPipeline.from_pretrained(folder).load_critic()


# ---------------------------------------------------------------- advantages


class KnownValue(torch.nn.Module):
    """The value of the chain below: at place x with actions of mean 0, the reward of each step is x."""

    def forward(self, observations):
        return torch.stack([observations[:, 0] - 4, observations[:, 0] + 4])  # of two networks


def test_the_advantage_of_a_chain_whose_values_are_known():
    # Normalised returns: return = 10 * normalised + 3. Two steps from places 1 and 2; then the episode ends.
    places, following = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[2.0], [5.0], [9.0]])
    rewards, discount = torch.tensor([7.0, -1.0, 2.0]), 0.5
    next_returns = torch.tensor([100.0, -50.0, 0.0])  # what was observed, and does not matter before the last step
    returns = rewards + discount * next_returns
    steps = Steps(places, places, returns, following, next_returns, torch.tensor([True, True, False]))
    found = advantages_of(steps, KnownValue(), 3.0, 10.0, discount)
    # reward + 0.5 * (10 * next + 3) - (10 * now + 3), and for the last step reward - (10 * now + 3)
    assert found.tolist() == pytest.approx([7 + 11.5 - 13, -1 + 26.5 - 23, 2 - 43])


def test_steps_are_those_of_the_episodes_in_the_planner_s_units(make_dataset, make_episode, tmp_path):
    episodes = [make_episode(3, 0, terminated=True), make_episode(2, 1)]
    make_dataset("test/tiny-v0", episodes)
    data = MinariDataModule("test/tiny-v0", horizon=1, discount=0.5, termination_penalty=-10.0, validation_share=0.0)
    data.prepare_data()
    data.setup("fit")
    frame = ValueGuidedPlannerPipeline.from_pretrained(write_tiny(tmp_path / "planner")).frame  # of scale 1
    steps = take_steps(data.train_windows, frame)
    expected = np.concatenate([episode.observations[:-1] for episode in episodes])
    np.testing.assert_allclose(steps.observations, expected)
    np.testing.assert_allclose(steps.next_observations, np.concatenate([e.observations[1:] for e in episodes]))
    np.testing.assert_allclose(steps.actions, np.concatenate([episode.actions for episode in episodes]))
    assert steps.goes_on.tolist() == [True, True, False, True, False]
    rewards = np.concatenate([episode.rewards for episode in episodes])
    rewards[2] -= 10
    assert (steps.returns - 0.5 * steps.next_returns).tolist() == pytest.approx(rewards.tolist(), rel=1e-5)


# ---------------------------------------------------------------- the whole


def test_it_learns_which_of_the_actions_is_better(tmp_path, make_dataset, make_episode):
    """Each step pays the action times the sign of the state, whatever follows: so that is the advantage."""
    rng, episodes = np.random.default_rng(0), []
    for number in range(30):
        observations = rng.choice([-1.0, 1.0], (41, 2)).astype(np.float32)
        actions = rng.uniform(-1, 1, (40, 1)).astype(np.float32)
        rewards = 5.0 * actions[:, 0] * observations[:-1, 0]
        episodes.append(make_episode(40, number, observations=observations, actions=actions, rewards=rewards))
    make_dataset("test/signs-v0", episodes)
    folder = write_tiny(tmp_path / "planner", task={"dataset_id": ["test/signs-v0"], "discount": 0.9})
    train(
        folder,
        tmp_path,
        "--max_steps",
        600,
        "--widths",
        "[32]",
        "--networks",
        2,
        "--state_values",
        2,
        "--samples_per_step",
        256,
    )
    report = json.loads((tmp_path / "output" / "critic.json").read_text())
    assert report["explained_variance"]["critic"] > 0.8
    assert report["return_std"] > report["advantage_std"] == pytest.approx(5 / np.sqrt(3), rel=0.1)
    critic, actions = load(folder), torch.linspace(-0.9, 0.9, 7)[None, :, None]
    for sign in (-1.0, 1.0):
        ranked = critic.rank(torch.tensor([sign, 1.0]).expand(1, 7, 2), actions)[0]
        np.testing.assert_allclose(ranked, 5 * sign * actions[0, :, 0], atol=1.2)


def test_each_network_learns_from_samples_of_its_own():
    critic = Critic(UNITS, [8], 2)
    module = CriticModule(critic, "critic", 1e-3, 0.0, 1)
    module.log = lambda *arguments, **options: None
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randn(6, *shape, generator=generator) for shape in ((O,), (A,), ())]
    parts = [[part[:3] for part in samples], [part[3:] for part in samples]]
    own = [
        (member(torch.cat([observations, actions], 1))[:, 0] - wanted).square().mean()
        for member, (observations, actions, wanted) in zip(critic.members, parts, strict=True)
    ]
    torch.testing.assert_close(module.training_step(tuple(samples), 0), sum(own) / 2)
    # What is measured on held-out samples is measured of both on all.
    assert module.errors(tuple(samples)).shape == (2, 6)


def test_a_planner_with_a_stride_gets_a_critic_that_ranks(strided, tmp_path):
    train(strided, tmp_path, *FEW)
    planner = ValueGuidedPlannerPipeline.from_pretrained(strided)
    options = {"batch_size": 4, "n_guide_steps": 0, "rank_by": "critic", "return_candidates": True}
    found = planner(torch.zeros(2), generator=torch.Generator().manual_seed(0), **options).candidates
    scores = load(strided).rank(found.observations[:, :, 0], found.actions[:, :, 0])
    assert scores.argmax(1).tolist() == [0]  # the best comes first


@pytest.mark.parametrize(
    ("discount", "episodes", "words"),
    [
        (1.0, 4, "the rewards of truncated episodes cannot continue for ever without one: --truncation cut"),
        (0.9, 1, "has one episode: a critic needs two at least, of which one is held out"),
    ],
)
def test_data_that_no_critic_can_learn_from_are_refused(
    discount, episodes, words, make_dataset, make_episode, track, tmp_path, capfd
):
    make_dataset("test/few-v0", [make_episode(12, number) for number in range(episodes)])
    task = {"env_id": "Track-v0", "dataset_id": ["test/few-v0"], "discount": discount}
    folder = write_tiny(tmp_path / "planner", task=task)
    with pytest.raises(SystemExit):
        train(folder, tmp_path, *FEW)
    assert words in capfd.readouterr().err


def test_a_folder_gets_a_critic_and_keeps_its_defaults(folder, tmp_path, capsys):
    before, planner = contents(folder), (hash_weights(folder), hash_configs(folder))
    train(folder, tmp_path, *FEW)
    assert (hash_weights(folder), hash_configs(folder)) == planner  # what it played without a critic is still its own
    printed = capsys.readouterr().out
    assert "--batch_size 16 --n_guide_steps 0 --rank_by critic --choice_temperature 0.5 " in printed
    after = contents(folder)
    assert after.keys() - before.keys() == {"critic/config.json", "critic/diffusion_pytorch_model.safetensors"}
    assert {name for name in before if before[name] != after[name]} == {"README.md"}
    options = ["--episodes", "2", "--video", "false", "--output_dir", str(tmp_path / "ranked")]
    main(["evaluate", str(folder), *options, "--rank_by", "critic", "--choice_temperature", "1"])
    report = json.loads((tmp_path / "ranked" / "evaluation.json").read_text())
    assert (report["settings"]["rank_by"], report["critic"]) == ("critic", hash_weights(folder, CRITIC))
    options = ["--episodes", "1", "--starts", "1", "--video", "false", "--output_dir", str(tmp_path / "diagnosed")]
    main(["diagnose", str(folder), *options, "--choice_steps", "3", "--rank_by", "critic"])
    choice = json.loads((tmp_path / "diagnosed" / "diagnostics.json").read_text())["choice"]
    assert choice["rank_by"] == "critic"


def test_settings_that_are_given_become_the_folder_s_defaults(folder, tmp_path, capsys):
    before = ValueGuidedPlannerPipeline.from_pretrained(folder)
    settings = ["--batch_size", 16, "--n_guide_steps", 0, "--rank_by", "critic", "--choice_temperature", 0.5]
    train(folder, tmp_path, *FEW, *settings)
    printed = capsys.readouterr().out
    assert "by default now: batch_size 16, n_guide_steps 0, rank_by critic, choice_temperature 0.5\n" in printed
    after = ValueGuidedPlannerPipeline.from_pretrained(folder)
    chosen = {"batch_size": 16, "n_guide_steps": 0, "rank_by": "critic", "choice_temperature": 0.5}
    assert after.resolve_settings() == before.resolve_settings() | chosen
    plans = [
        after(
            np.zeros(after.observation_dim, np.float32), generator=torch.Generator().manual_seed(0), **options
        ).trajectories
        for options in ({}, chosen)
    ]
    assert torch.equal(*plans)


def test_what_spoke_for_the_critic_before_does_not_speak_for_a_new_one(folder, tmp_path):
    add_critic(folder)
    compared = [{"with": "one plan", "pairs": 50, "difference": 402.0, "ci95": [63.0, 748.0], "permutation_p": 0.02}]
    evidence = {"env_id": "Tiny-v0", "kept": False, "first_seed": 0, "last_seed": 49, "compared": compared}
    for settings, stays in (({"rank_by": "critic", "batch_size": 4}, False), ({"rank_by": "value"}, True)):
        update_defaults(folder, settings, evidence)
        assert "+402 [63, 748]" in (folder / "README.md").read_text()
        train(folder, tmp_path, *FEW)
        assert ("+402 [63, 748]" in (folder / "README.md").read_text()) is stays
        assert ("evidence" in ValueGuidedPlannerPipeline.from_pretrained(folder).task) is stays


def test_a_setting_that_cannot_work_is_refused_before_anything_is_trained(folder, tmp_path, capsys):
    before = contents(folder)
    with pytest.raises(SystemExit):
        train(folder, tmp_path, *FEW, "--batch_size", 0)
    assert "batch_size is 0" in capsys.readouterr().err
    assert contents(folder) == before
    assert not (tmp_path / "output").exists()


def test_the_same_command_gives_the_same_critic_to_the_bit(folder, tmp_path):
    written = []
    for _ in range(2):
        train(folder, tmp_path, *FEW)
        written.append(contents(folder / "critic"))
    assert written[0] == written[1]
    train(folder, tmp_path, *FEW, "--seed", 1)
    assert contents(folder / "critic") != written[0]


def test_a_failure_leaves_the_critic_before_it(folder, tmp_path, monkeypatch):
    add_critic(folder)
    before = contents(folder)
    monkeypatch.setattr("vgp_lightning.distillation.criticism.write_critic", lambda *_: 1 / 0)
    monkeypatch.setenv("VGP_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        train(folder, tmp_path, *FEW)
    assert contents(folder) == before


def test_data_of_other_dimensions_are_refused(folder, tmp_path, make_dataset, make_episode, capsys):
    make_dataset("test/other-v0", [make_episode(5, number, action_dim=2) for number in range(3)])
    with pytest.raises(SystemExit):
        train(folder, tmp_path, *FEW, "--dataset_id", "[test/other-v0]")
    assert "has 2 observation and 2 action dimensions, but" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"discount": 0.9}, "does not name the datasets"),
        ({"dataset_id": ["test/tiny-v0"]}, "does not name the discount"),
    ],
)
def test_a_folder_that_does_not_say_what_is_needed_is_refused(
    tmp_path, make_dataset, make_episode, task, words, capsys
):
    make_dataset("test/tiny-v0", [make_episode(12, number) for number in range(4)])
    with pytest.raises(SystemExit):
        train(write_tiny(tmp_path / "planner", task=task), tmp_path, *FEW)
    assert words in capsys.readouterr().err
