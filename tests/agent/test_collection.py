"""Collecting: what is recorded, by which behaviour policies, and what is refused."""

import json
import re
import sys
import warnings
from types import SimpleNamespace

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from diffusers import DDPMScheduler
from gymnasium.spaces import Box

from vgp_lightning.agent import collection as module
from vgp_lightning.agent.behaviours import ASSETS, RandomBehaviour, make_behaviour
from vgp_lightning.agent.collection import collect
from vgp_lightning.agent.environments import make_environments, rollout
from vgp_lightning.pipeline.networks import make_denoiser
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    root = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root


def collected(name, *args, **kwargs):
    """Collect and return the episodes in their order."""
    return list(collect(*args, dataset_id=f"test/{name}-v0", **kwargs).iterate_episodes())


def linear_file(path, weights, bias):
    path.write_text(json.dumps({"kind": "linear", "weights": weights, "bias": bias}))
    return str(path)


# ---------------------------------------------------------------- what is recorded


@pytest.mark.parametrize("steps", [1, 333])
def test_a_dataset_has_exactly_the_steps_that_were_asked_for(steps):
    dataset = collect("Hopper-v5", "random", steps, "test/steps-v0", environments=3)
    assert dataset.total_steps == steps
    assert sum(len(episode.rewards) for episode in dataset.iterate_episodes()) == steps


def test_an_episode_has_one_observation_more_than_steps_and_none_is_empty():
    for episode in collected("shapes", "Hopper-v5", "random", 300, environments=4):
        steps = len(episode.rewards)
        assert steps >= 1
        assert episode.observations.shape == (steps + 1, 11)
        assert episode.actions.shape == (steps, 3)
        assert len(episode.terminations) == len(episode.truncations) == steps


def test_only_the_last_step_ends_an_episode_and_unfinished_episodes_are_truncated():
    episodes = collected("flags", "Hopper-v5", "random", 300, environments=4)
    for episode in episodes:
        ends = episode.terminations | episode.truncations
        assert ends[-1]
        assert not ends[:-1].any()
    cut = [episode for episode in episodes if episode.truncations[-1]]
    assert 1 <= len(cut) <= 4
    assert len(cut) < len(episodes), "random Hopper falls within 300 steps"


def test_a_time_limit_truncates():
    lengths = [
        len(e.rewards) for e in collected("limit", "Pendulum-v1", "random", 100, environments=2, max_episode_steps=20)
    ]
    assert sum(lengths) == 100
    assert max(lengths) == 20


def test_replaying_the_stored_actions_from_the_stored_seed_gives_the_stored_observations_exactly():
    dataset = collect(
        "Hopper-v5", "hopper-linear", 400, "test/replay-v0", environments=3, weight_noise=0.1, action_noise=0.3, seed=5
    )
    seeds = [int(m["seed"]) for m in dataset.storage.get_episode_metadata(range(dataset.total_episodes))]
    assert seeds == list(range(5, 5 + dataset.total_episodes))
    environment = dataset.recover_environment()
    for seed, episode in zip(seeds, dataset.iterate_episodes(), strict=True):
        observation, _ = environment.reset(seed=seed)
        np.testing.assert_array_equal(observation, episode.observations[0])
        for t, action in enumerate(episode.actions):
            observation, reward, terminated, _, _ = environment.step(action)
            np.testing.assert_array_equal(observation, episode.observations[t + 1])
            assert (reward, terminated) == (episode.rewards[t], episode.terminations[t])
    environment.close()


def test_a_seed_decides_everything_and_another_seed_changes_it():
    settings = {"steps": 300, "weight_noise": 0.1, "action_noise": 0.3}
    first = collected("first", "Hopper-v5", "hopper-linear", **settings)
    again = collected("again", "Hopper-v5", "hopper-linear", **settings)
    other = collected("other", "Hopper-v5", "hopper-linear", **settings, seed=100)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.observations, b.observations)
        np.testing.assert_array_equal(a.actions, b.actions)
    assert not np.array_equal(first[0].observations[0], other[0].observations[0])


@pytest.mark.parametrize("behaviour", ["random", "hopper-linear"])
def test_an_episode_does_not_depend_on_how_many_environments_are_stepped_together(behaviour):
    noise = {"weight_noise": 0.2, "action_noise": 0.5} if behaviour == "hopper-linear" else {}
    alone = collected("alone", "Hopper-v5", behaviour, 200, environments=1, **noise)
    batch = collected("batch", "Hopper-v5", behaviour, 800, environments=4, **noise)
    for a, b in zip(alone[:-1], batch, strict=False):  # the last was cut
        np.testing.assert_array_equal(a.observations, b.observations)
    assert len(alone) > 1


def test_the_dataset_says_how_it_was_made_and_its_environment_can_be_recovered():
    dataset = collect(
        "Hopper-v5", "random", 50, "test/metadata-v0", max_episode_steps=70, env_kwargs={"healthy_reward": 0.5}, seed=3
    )
    assert dataset.storage.metadata["algorithm_name"] == "random"
    assert "seed 3" in dataset.storage.metadata["description"]
    assert "ref_max_score" not in dataset.storage.metadata
    environment = dataset.recover_environment()
    assert environment.spec.id == "Hopper-v5"
    assert environment.spec.max_episode_steps == 70
    assert environment.spec.kwargs["healthy_reward"] == 0.5


def test_reference_scores_are_stored_when_given():
    dataset = collect("Hopper-v5", "random", 20, "test/references-v0", ref_min_score=-20.272305, ref_max_score=3234.3)
    assert minari.get_normalized_score(dataset, np.array([-20.272305, 3234.3])) == pytest.approx([0, 1])


def test_the_printed_line_has_the_returns_of_the_dataset(capsys):
    dataset = collect("Hopper-v5", "random", 200, "test/printed-v0")
    returns = np.array([episode.rewards.sum() for episode in dataset.iterate_episodes()])
    assert f"{len(returns)} episodes, 200 steps, return {returns.mean():.1f} mean, {returns.std():.1f} standard" in (
        capsys.readouterr().out
    )


def test_observations_are_stored_in_the_environments_own_structure():
    space = gymnasium.make("Hopper-v5").observation_space
    for episode in collected("hopper", "Hopper-v5", "random", 20):
        assert episode.observations.dtype == space.dtype
    for episode in collected("maze", "PointMaze_UMaze-v3", "waypoint", 40, environments=2):
        assert list(episode.observations) == ["achieved_goal", "desired_goal", "observation"]
        assert episode.observations["observation"].shape == (len(episode.rewards) + 1, 4)
        np.testing.assert_array_equal(episode.observations["achieved_goal"], episode.observations["observation"][:, :2])


# ---------------------------------------------------------------- behaviours


def test_random_actions_fill_the_bounds_of_the_action_space():
    episodes = collected("pendulum", "Pendulum-v1", "random", 400, environments=2)
    actions = np.concatenate([episode.actions for episode in episodes])
    assert -2 <= actions.min() < -1.9
    assert 1.9 < actions.max() <= 2


def test_random_actions_without_bounds_are_refused():
    with pytest.raises(ValueError, match="bounds"):
        RandomBehaviour(Box(-np.inf, np.inf, (2,)))


def test_a_linear_behaviour_is_the_clipped_linear_function_of_the_observation(tmp_path):
    path = linear_file(tmp_path / "pendulum.json", [[1.0, -2.0, 3.0]], [0.5])
    for episode in collected("linear", "Pendulum-v1", path, 50, environments=2):
        expected = np.clip(episode.observations[:-1] @ [1.0, -2.0, 3.0] + 0.5, -2, 2)
        np.testing.assert_allclose(episode.actions[:, 0], expected, atol=1e-5)


GAITS = [path.stem for path in sorted(ASSETS.glob("*.json"))]


@pytest.mark.parametrize("gait", GAITS)
def test_a_bundled_gait_returns_most_of_what_its_file_says(gait):
    about = json.loads((ASSETS / f"{gait}.json").read_text())
    environments = make_environments(about["env_id"], 3)
    returns = np.zeros(3)
    for step in rollout(make_behaviour(gait, environments), environments, range(3)):
        np.add.at(returns, step.episode[step.episode >= 0], step.rewards[step.episode >= 0])
    assert about["return_mean"] > 1900
    assert returns.mean() > 0.6 * about["return_mean"]


def test_noise_mixes_the_quality_of_the_episodes():
    settings = {"steps": 4000, "max_episode_steps": 250}
    clean = collected("clean", "Hopper-v5", "hopper-linear", **settings)
    mixed = collected("mixed", "Hopper-v5", "hopper-linear", **settings, weight_noise=0.3, action_noise=0.3)
    clean, mixed = (np.array([episode.rewards.sum() for episode in episodes]) for episodes in (clean, mixed))
    assert mixed.std() > 2 * clean.std()
    assert mixed.mean() < clean.mean()
    assert mixed.max() > 0.8 * clean.max()


@pytest.mark.parametrize("maze", ["PointMaze_UMaze-v3", "PointMaze_Medium-v3"])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_waypoint_behaviour_reaches_its_goal(maze, noise):
    environments = make_environments(maze, 5, continuing_task=False)
    agent = make_behaviour("waypoint", environments, action_noise=noise)
    reached = 0
    for step in rollout(agent, environments, range(5)):
        assert not step.truncated.any()
        assert np.abs(step.actions).max() <= 1
        for position in step.next_observations[step.terminated & (step.episode >= 0)]:
            assert np.linalg.norm(position[:2] - position[2:4]) <= 0.45
            reached += 1
    assert reached == 5


def test_the_waypoint_behaviour_stays_at_a_goal_of_a_continuing_task():
    for episode in collected("stay", "PointMaze_UMaze-v3", "waypoint", 600, environments=2):
        assert len(episode.rewards) == 300
        assert episode.rewards[-50:].all()


@pytest.fixture
def pipeline_folder(tmp_path):
    normalization = {"action_dim": 1, "shift": [0.0] * 4, "scale": [1.0] * 4, "return_shift": 0.0, "return_scale": 1.0}
    ValueGuidedPlannerPipeline(
        make_denoiser(4, 8, (16, 16)),
        DDPMScheduler(2, clip_sample=False, prediction_type="sample", variance_type="fixed_small_log"),
        normalization=normalization | {"action_low": [-2.0], "action_high": [2.0]},
        planner={"planning_horizon": 8, "batch_size": 1},
    ).save_pretrained(tmp_path / "pipeline")
    return str(tmp_path / "pipeline")


def test_an_exported_pipeline_is_a_behaviour(pipeline_folder):
    dataset = collect("Pendulum-v1", pipeline_folder, 12, "test/planned-v0", environments=2)
    assert dataset.total_steps == 12
    assert all(np.abs(episode.actions).max() <= 2 for episode in dataset.iterate_episodes())


def test_an_exported_pipeline_plans_on_the_gpu_if_there_is_one(pipeline_folder, monkeypatch):
    moved = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(ValueGuidedPlannerPipeline, "to", lambda pipeline, device: moved.append(device))
    environments = make_environments("Pendulum-v1", 1)
    make_behaviour(pipeline_folder, environments)
    environments.close()
    assert moved == ["cuda"]


# ---------------------------------------------------------------- what is refused


def test_a_pipeline_of_another_environment_is_an_error_with_both_shapes(pipeline_folder):
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(3, 11\)"):
        collect("Hopper-v5", pipeline_folder, 10, "test/shapes-v0")


def test_an_unknown_behaviour_is_an_error_that_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"'hoper-linear'.*random, waypoint, .*hopper-linear.*model_index\.json"):
        collect("Hopper-v5", "hoper-linear", 10, "test/unknown-v0")


def test_a_linear_behaviour_of_another_environment_is_an_error_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(3, 11\).*\(1, 3\)"):
        collect("Pendulum-v1", "hopper-linear", 10, "test/shapes-v0")


def test_a_waypoint_behaviour_without_a_maze_is_an_error():
    with pytest.raises(ValueError, match="no maze"):
        collect("Pendulum-v1", "waypoint", 10, "test/nomaze-v0")


@pytest.mark.parametrize("noise", [{"weight_noise": 0.1}, {"action_noise": 0.1}, {"action_noise": -0.1}])
def test_noise_that_a_behaviour_does_not_know_is_an_error(noise):
    with pytest.raises(ValueError, match="noise"):
        collect("Pendulum-v1", "random", 10, "test/noise-v0", **noise)


@pytest.mark.parametrize("name", ["hopper", "demo/hopper", "demo/hopper v0", "../hopper-v0", "hopper-v", ""])
def test_a_malformed_dataset_id_is_an_error_and_leaves_nothing(name, datasets):
    with pytest.raises(ValueError, match="malformed"):
        collect("Pendulum-v1", "random", 10, name)
    assert not datasets.exists()


def test_an_existing_dataset_is_an_error_before_anything_is_collected(monkeypatch):
    collect("Pendulum-v1", "random", 10, "test/twice-v0")
    monkeypatch.setattr(module, "make_environments", lambda *_, **__: pytest.fail("collected"))
    with pytest.raises(ValueError, match="already exists"):
        collect("Pendulum-v1", "random", 20, "test/twice-v0")
    assert minari.load_dataset("test/twice-v0").total_steps == 10


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"environments": 0}, {"env_id": "Hoper-v5"}, {"ref_min_score": 1.0}])
def test_a_wrong_argument_is_an_error(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - four messages
        collect(**({"env_id": "Pendulum-v1", "behaviour": "random", "steps": 10, "dataset_id": "test/a-v0"} | wrong))


@pytest.mark.parametrize("where", ["collecting", "writing"])
def test_an_interruption_leaves_no_dataset(where, monkeypatch, datasets):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    if where == "collecting":
        monkeypatch.setattr(RandomBehaviour, "act", interrupted)
    else:
        monkeypatch.setattr(h5py.Group, "create_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect("Pendulum-v1", "random", 10, "test/interrupted-v0")
    monkeypatch.undo()
    assert not list(datasets.rglob("interrupted-v0"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert minari.list_local_datasets() == {}


# ---------------------------------------------------------------- the same whatever happens


class Uneven(gymnasium.Env):
    """Episodes of 1 to 12 steps; pays 1 a step."""

    observation_space = Box(-9, 99, (2,), np.float64)
    action_space = Box(-1, 1, (1,))
    fault = staticmethod(lambda seed, t, observation, reward: (observation, reward))
    breaks = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t, self.length = seed, 0, int(self.np_random.integers(1, 13))
        return np.zeros(2), {}

    def step(self, action):
        if self.breaks is not None and self.seed == self.breaks:
            raise KeyboardInterrupt
        self.t += 1
        observation, reward = self.fault(self.seed, self.t, np.full(2, float(self.t)), 1.0)
        action[:] = 7  # into the caller's array
        return observation, reward, self.t == self.length, False, {}

    def close(self):
        if self.breaks == "close":
            raise RuntimeError("the device is busy")


@pytest.fixture
def uneven(monkeypatch):
    gymnasium.register("Uneven-v0", entry_point=f"{__name__}:Uneven", disable_env_checker=True)
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(Uneven=Uneven))  # for Minari, which reads text
    yield Uneven
    del gymnasium.registry["Uneven-v0"]


def lengths(episodes):
    return [len(episode.rewards) for episode in episodes]


def natural(seed):
    return int(np.random.default_rng(seed).integers(1, 13))


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_the_episodes_are_those_of_the_first_seeds_whole_whatever_the_number_of_environments(uneven, steps):
    found = [collected(f"n{n}", "Uneven-v0", "random", steps, environments=n) for n in (1, 3, 8)]
    expected, left = [], steps
    while left:
        expected.append(min(left, natural(len(expected))))
        left -= expected[-1]
    for episodes in found:
        assert lengths(episodes) == expected
        for episode, other in zip(episodes, found[0], strict=True):
            for name in ("observations", "actions", "rewards", "terminations", "truncations"):
                np.testing.assert_array_equal(getattr(episode, name), getattr(other, name), err_msg=name)
    last = found[0][-1]
    whole = expected[-1] == natural(len(expected) - 1)
    assert (last.terminations[-1], last.truncations[-1]) == (whole, not whole)
    assert all(episode.terminations[-1] for episode in found[0][:-1])
    assert all(np.abs(episode.actions).max() <= 1 for episode in found[0])


def test_an_environment_that_never_ends_is_cut_where_the_steps_suffice(uneven, monkeypatch):
    monkeypatch.setattr(Uneven, "step", lambda self, action: (np.zeros(2), 1.0, False, False, {}))
    episodes = collected("endless", "Uneven-v0", "random", 40, environments=4)
    assert lengths(episodes) == [40]
    assert episodes[0].truncations[-1]


def test_an_interrupted_collection_goes_on_and_is_the_same(uneven, monkeypatch, datasets, capsys):
    whole = collected("whole", "Uneven-v0", "random", 50, environments=2)
    with monkeypatch.context() as patch:
        patch.setattr(Uneven, "breaks", 4)
        with pytest.raises(KeyboardInterrupt):
            collect("Uneven-v0", "random", 50, "test/killed-v0", environments=2)
    kept = next((datasets / "test" / ".killed-v0.collecting").glob("*.jsonl")).read_text()
    assert kept.count('"episode"') >= 3
    assert list(minari.list_local_datasets()) == ["test/whole-v0"]
    begun, reset = [], Uneven.reset

    def noted(self, *, seed=None, options=None):
        begun.append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(Uneven, "reset", noted)
    capsys.readouterr()
    again = collected("killed", "Uneven-v0", "random", 50, environments=2)
    assert re.search(r"\d episodes were played before, in .*: --again true plays", capsys.readouterr().out)
    assert not {0, 1, 2} & set(begun)
    for episode, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(episode.observations, other.observations)
        np.testing.assert_array_equal(episode.actions, other.actions)
    assert not (datasets / "test" / ".killed-v0.collecting").exists()


def test_an_environment_that_cannot_be_closed_does_not_lose_the_collection(uneven, monkeypatch):
    monkeypatch.setattr(Uneven, "breaks", "close")
    with pytest.warns(UserWarning, match="cannot be closed: RuntimeError: the device is busy"):
        dataset = collect("Uneven-v0", "random", 20, "test/stuck-v0")
    assert dataset.total_steps == 20


@pytest.mark.parametrize("environments", [1, 5])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda seed, t, o, r: (o, np.nan if (seed, t) == (2, 1) else r), "seed 2, step 0: .*reward is nan"),
        (lambda seed, t, o, r: (o * (np.inf if (seed, t) == (2, 1) else 1), r), "seed 2, step 0: .*not finite: .inf"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_with_seed_and_step(
    uneven, monkeypatch, datasets, environments, fault, words
):
    monkeypatch.setattr(Uneven, "fault", staticmethod(fault))
    with pytest.raises(ValueError, match=words):
        collect("Uneven-v0", "random", 60, "test/nan-v0", environments=environments)
    assert minari.list_local_datasets() == {}
    with pytest.raises(ValueError, match=f"{words}.* Once it is mended: --again true"):  # it is kept
        collect("Uneven-v0", "random", 60, "test/nan-v0", environments=environments)
    with monkeypatch.context() as patch:
        patch.setattr(Uneven, "fault", staticmethod(lambda seed, t, observation, reward: (observation, reward)))
        mended = collect("Uneven-v0", "random", 60, "test/nan-v0", environments=environments, again=True)
    assert mended.total_steps == 60
    # What is not needed may be anything.
    enough = natural(0) + natural(1)
    assert collect("Uneven-v0", "random", enough, "test/fine-v0", environments=environments).total_steps == enough


@pytest.mark.parametrize("wrong", [{"max_episode_steps": 0}])
def test_a_time_limit_of_no_steps_is_refused(uneven, wrong):
    with pytest.raises(ValueError, match="max_episode_steps is 0"):
        collect("Uneven-v0", "random", 60, "test/limit-v0", **wrong)
