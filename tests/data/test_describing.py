"""describe: measures against closed forms, settings by rules that the paper's own tasks keep, a config that trains."""

import numpy as np
import pytest
import yaml

from vgp_lightning.cli import main
from vgp_lightning.data import write_episodes
from vgp_lightning.data.measuring import correlation_lengths, measure_episodes
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.data.recommending import recommend
from vgp_lightning.pipeline.networks import check_horizon
from vgp_lightning.shipped import CONFIGS


def test_the_correlation_length_of_a_random_walk_that_forgets_is_that_of_the_closed_form():
    rng = np.random.default_rng(0)
    series = []
    for _ in range(20):
        values = np.zeros((3000, 3), dtype=np.float32)
        values[0] = rng.normal(size=3) * [1, 1, 0]
        for i in range(1, len(values)):
            values[i] = [0.9, 0.0, 0.0] * values[i - 1] + [np.sqrt(1 - 0.81), 1.0, 0.0] * rng.normal(size=3)
        series.append(values)
    slow, noise, constant = correlation_lengths(series, np.zeros(3))
    assert slow == pytest.approx(-1 / np.log(0.9), rel=0.1)  # the correlation is 0.9 ** lag: 9.5 steps
    assert noise == pytest.approx(1 - np.exp(-1), abs=0.05)  # from 1 to 0 in one step
    assert np.isnan(constant)


def test_a_correlation_that_lasts_longer_than_half_an_episode_is_not_known():
    ramp = np.arange(10, dtype=np.float32)[:, None]
    assert np.isnan(correlation_lengths([ramp * 0 + 5, ramp * 0 - 5], np.zeros(1))[0])


def episodes_of(rewards, steps, terminated, count=8, width=3):
    """Episodes of smooth observations, whose rewards are a function of (step, steps)."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        n = steps(number)
        phase = rng.uniform(0, 6.3, width) + np.arange(n + 1)[:, None] / [3.0, 10.0, 30.0][:width]
        observations = np.concatenate([np.sin(phase), np.full((n + 1, 1), 4.0)], axis=1)
        made.append(
            {
                "observations": observations,
                "actions": np.concatenate([rng.uniform(-1, 1, (n, 1)), np.zeros((n, 1))], axis=1),
                "rewards": np.array([rewards(t, n) for t in range(n)], dtype=float),
                "terminated": terminated(number),
            }
        )
    return made


KINDS = {
    # longer episodes return more, and those that terminate are shorter: as Hopper
    "falls": (lambda t, n: 3.0 + 0.1 * (t % 2), lambda i: 300 if i % 2 else 100, lambda i: i % 2 == 0),
    # one reward at the end, as in a maze
    "goal": (lambda t, n: float(t == n - 1), lambda i: 20 + i, lambda i: True),
    # costs until the goal, as a pendulum or a robot that reaches
    "costs": (lambda t, n: -1.0 - 0.1 * (t % 3), lambda i: 60 + i, lambda i: i % 2 == 0),
    # all cut at the time limit, as HalfCheetah
    "runs": (lambda t, n: 1.0 + (t % 5), lambda i: 1000, lambda i: False),
    "nothing": (lambda t, n: 0.0, lambda i: 30, lambda i: False),
    "short": (lambda t, n: 1.0 + t, lambda i: 3, lambda i: False),
}
EXPECTED = {
    "falls": {"discount": 0.99, "truncation": "continue", "padding": "terminated", "termination_penalty": -90.0},
    "goal": {"discount": 0.957, "truncation": "cut", "padding": "terminated", "termination_penalty": 0.0},
    "costs": {"discount": 0.985, "truncation": "continue", "termination_penalty": 0.0},
    "runs": {"discount": 0.997, "truncation": "continue", "padding": "terminated", "termination_penalty": 0.0},
    "nothing": {"discount": 0.99, "truncation": "cut", "termination_penalty": 0.0},
    "short": {"discount": 0.667, "padding": "all", "horizon": 8},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_follow_from_how_episodes_end_and_are_rewarded(kind):
    write_episodes("me/kind-v0", episodes_of(*KINDS[kind], count=4 if kind == "runs" else 8))
    data = MinariDataModule("me/kind-v0", horizon=1, validation_share=0)
    measures = measure_episodes(data._cached()[0], data.action_dim)
    proposed = {one.name: one.value for one in recommend(measures)}
    assert EXPECTED[kind].items() <= proposed.items()
    check_horizon(proposed["horizon"], denoiser_widths=[32, 64, 128, 256], value_widths=[32, 64, 128, 256])
    assert measures.constant_observations == [3]
    assert measures.constant_actions == [1]
    MinariDataModule("me/kind-v0", **proposed).setup("fit") if kind != "nothing" else None


def test_the_command_writes_a_config_whose_every_line_has_a_reason_and_which_trains(tmp_path, capsys):
    write_episodes("me/robot/runs-v0", episodes_of(*KINDS["falls"]))
    path = tmp_path / "own.yaml"
    main(["describe", "me/robot/runs-v0", "--output", str(path)])
    said = capsys.readouterr().out
    assert "8 episodes, 1600 steps" in said
    assert "4 terminated, 4 truncated" in said
    assert "constant observations   3" in said
    assert path.read_text() in said
    assert "vgp fit -c planner.yaml -c" in said
    config = yaml.safe_load(path.read_text())
    assert config["data"]["dataset_id"] == "me/robot/runs-v0"
    assert all("  # " in line for line in path.read_text().splitlines()[4:])
    files = [CONFIGS / "planner.yaml", path, CONFIGS / "smoke.yaml"]
    options = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    options += ["--trainer.logger.init_args.save_dir", str(tmp_path / "runs"), "--data.batch_size", "8"]
    main(["fit", *(word for file in files for word in ("-c", str(file))), *options])
    assert list(tmp_path.glob("runs/planner/version_0/checkpoints/last.ckpt"))


def test_a_config_that_exists_is_not_written_over(tmp_path, capsys):
    write_episodes("me/a-v0", episodes_of(*KINDS["short"]))
    path = tmp_path / "own.yaml"
    path.write_text("mine")
    for arguments in (["--output", str(path)], ["--output", str(tmp_path / "own")]):
        with pytest.raises(SystemExit):
            main(["describe", "me/a-v0", *arguments])
    said = capsys.readouterr().err
    assert "own.yaml exists: choose another" in said
    assert "must end in .yaml" in said
    assert path.read_text() == "mine"
