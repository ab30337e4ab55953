"""``vgp distill`` through the front door, on a tiny planner: what it writes, and what it refuses."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from fakes import add_habit, contents, settings_elsewhere
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.agent.origin import hash_configs, hash_weights
from vgp_lightning.cli import main
from vgp_lightning.distillation import distillation
from vgp_lightning.export.folder import update_defaults, write_habit
from vgp_lightning.pipeline.companions import HABIT
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

FEW = ["--recorded_states", "20", "--planned_states", "6", "--rounds", "1", "--visited_states", "12"]
FEW += ["--environments", "2", "--max_steps", "5", "--networks", "2", "--trial_episodes", "3"]


def distill(folder, tmp_path, *options):
    main(["distill", str(folder), *FEW, "--output_dir", str(tmp_path / "output"), *map(str, options)])


def load(folder):
    return ValueGuidedPlannerPipeline.from_pretrained(folder).load_habit()


def test_a_dry_run_says_what_a_distillation_would_take_and_leaves_no_habit(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vgp_lightning.report.estimates._ENOUGH", 0.0)
    before = contents(folder)
    distill(folder, tmp_path, "--max_episode_steps", 40, "--dry_run")
    shown = capfd.readouterr().out
    told = f"would ask the planner of {folder} in 38 states, train 3 networks for 5 steps each, and play 6 episodes\n"
    assert told in shown
    assert re.search(r"time:    about 0:\d\d:\d\d .*; measured on 5 of 1000 parts of states, training steps and", shown)
    assert contents(folder) == before
    assert not {"output", "runs"} & {path.name for path in tmp_path.iterdir()}


def test_a_dry_run_refuses_what_the_distillation_itself_refuses(folder, tmp_path, capfd):
    for option, value in (("--planned_states", -1), ("--max_steps", 0), ("--chunk", 99)):
        with pytest.raises(SystemExit):
            distill(folder, tmp_path, option, value, "--max_episode_steps", 40, "--dry_run")
        assert f"{option[2:]} is {value}: " in capfd.readouterr().err


def test_a_planner_with_a_stride_gets_a_habit_that_acts(strided, tmp_path):
    distill(strided, tmp_path, "--widths", "[16]", "--chunk", 3)
    assert load(strided).answer([0.5, -0.5]).shape == (1, 3, 1)
    options = ["--episodes", "2", "--video", "false", "--output_dir", str(tmp_path / "acted")]
    main(["evaluate", str(strided), "--habit", "true", *options])


def test_a_folder_gets_a_habit_that_is_evaluated_and_compared_with_its_teacher(folder, tmp_path, capsys):
    before, identity = contents(folder), (hash_weights(folder), hash_configs(folder))
    distill(folder, tmp_path, "--widths", "[16]", "--chunk", 3)
    printed = capsys.readouterr().out
    assert f"vgp evaluate {folder} --episodes 50 --output_dir" in printed
    assert "answers: " in printed
    after = contents(folder)
    assert after.keys() - before.keys() == {"habit/config.json", "habit/diffusion_pytorch_model.safetensors"}
    assert {name for name in before if before[name] != after[name]} == {"README.md"}
    assert (hash_weights(folder), hash_configs(folder)) == identity  # the planner's evaluations are still its own
    assert (load(folder).chunk, [layer.out_features for layer in load(folder).layers[::2]]) == (3, [16, 3])
    report = json.loads((tmp_path / "output" / "distillation.json").read_text())
    assert report["states"] == 38
    assert report["error"] > 0
    assert len(report["returns"]) == 2
    assert f"return: {max(report['returns']):.1f}" in printed
    assert report["threads"] == torch.get_num_threads()
    events = EventAccumulator(str(tmp_path / "output" / "round_1")).Reload()
    assert {"val/habit_loss", "val/habit_first_action"} <= set(events.Tags()["scalars"])

    for name, options in (("teacher", []), ("habit", ["--habit", "true"])):
        output = ["--output_dir", str(tmp_path / name), "--video", "false"]
        main(["evaluate", str(folder), "--episodes", "3", *output, *options])
    reports = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("teacher", "habit")]
    assert "habit" not in reports[0]
    assert reports[1]["habit"] == hash_weights(folder, HABIT)
    assert "answering by habit" in capsys.readouterr().out
    main(["compare", str(tmp_path / "teacher"), str(tmp_path / "habit"), "--json", str(tmp_path / "compared.json")])
    compared = json.loads((tmp_path / "compared.json").read_text())
    assert compared["pairs"] == 3
    assert compared["differs"] == {"habit": [None, reports[1]["habit"]]}


@pytest.mark.slow
def test_the_same_command_gives_the_same_habit_to_the_bit(folder, tmp_path):
    written = []
    for _ in range(2):
        distill(folder, tmp_path)
        written.append(contents(folder / "habit"))
    assert written[0] == written[1]
    distill(folder, tmp_path, "--seed", 1)
    assert contents(folder / "habit") != written[0]


def test_of_several_networks_the_one_is_kept_that_returns_most(folder, tmp_path, monkeypatch):
    told = []

    def play_episodes(answer, *arguments):
        told.append((answer.__self__, arguments))
        return [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [4.0, 5.0, 5.0]][len(told) - 1]

    monkeypatch.setattr(distillation, "play_episodes", play_episodes)
    distill(folder, tmp_path, "--networks", 3)
    assert json.loads((tmp_path / "output" / "distillation.json").read_text())["returns"] == [2.0, 5.0, 14 / 3]
    kept = load(folder).state_dict()
    assert [all(torch.equal(kept[name], weight) for name, weight in one.state_dict().items()) for one, _ in told] == [
        *(False, True, False)
    ]
    assert len({arguments[-1] for _, arguments in told}) == 1  # the same episodes for all


def test_the_habit_is_a_new_player_in_the_store_of_episodes(folder, tmp_path):
    add_habit(folder)
    output = ["--output_dir", str(tmp_path / "episodes"), "--video", "false", "--episodes", "2"]
    for options in ([], ["--habit", "true"]):
        main(["evaluate", str(folder), *output, *options])
    assert len(list((tmp_path / "episodes" / "episodes").glob("*.jsonl"))) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--chunk", "9"], "chunk is 9: a number between replan_every, which is 1, and planning_horizon, which is 8"),
        (["--chunk", "2", "--replan_every", "3"], "chunk is 2: a number between replan_every, which is 3"),
        (["--replan_every", "0"], "replan_every is 0, one plan per episode"),
        (["--widths", "[]"], "widths are []"),
        (["--max_steps", "0"], "max_steps is 0"),
        (["--action_noise", "-1"], "action_noise is -1"),
        (["--rounds", "-1"], "rounds is -1"),
        (["--networks", "0"], "networks is 0"),
        (["--recorded_states", "0", "--planned_states", "0"], "recorded_states and planned_states are 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--dataset_id", "[test/other-v0]"], "dataset 'test/other-v0' is not in"),
        (["--batch_size", "0"], "batch_size is 0"),
    ],
)
def test_an_option_that_cannot_work_is_one_error_and_the_folder_stays(folder, tmp_path, capsys, options, words):
    add_habit(folder)
    before = contents(folder)
    with pytest.raises(SystemExit) as ended:
        distill(folder, tmp_path, *options)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert contents(folder) == before


def test_a_folder_that_names_no_dataset_needs_one(folder, tmp_path, capsys):
    index = json.loads((folder / "model_index.json").read_text())
    del index["task"]["dataset_id"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(SystemExit):
        distill(folder, tmp_path)
    assert "--dataset_id" in capsys.readouterr().err
    distill(folder, tmp_path, "--dataset_id", "[test/tiny-v0]")
    distill(folder, tmp_path, "--recorded_states", 0)
    assert json.loads((tmp_path / "output" / "distillation.json").read_text())["states"] == 18


def test_ctrl_c_while_it_trains_leaves_the_folder_as_it_was(folder, tmp_path, capsys, monkeypatch):
    add_habit(folder)
    before = contents(folder)

    def interrupt(self, pairs, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(distillation.HabitModule, "training_step", interrupt)
    with pytest.raises(SystemExit) as ended:
        distill(folder, tmp_path)
    assert ended.value.code == 130
    assert "the folder is as it was; the same command begins anew" in capsys.readouterr().err
    assert contents(folder) == before


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_at_any_moment_leaves_the_old_habit_or_the_new_one(folder, tmp_path, monkeypatch, moment):
    old = add_habit(folder)
    new = add_habit(shutil.copytree(folder, tmp_path / "other"), chunk=2)
    rename, remove, calls = Path.rename, shutil.rmtree, iter(range(100))

    class Killed(BaseException):
        pass

    def until_killed(function):
        def call(*arguments, **options):
            if next(calls) >= moment:  # from then on nothing is done, nor tidied up
                raise Killed
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(shutil, "rmtree", until_killed(remove))
    monkeypatch.setattr(Path, "rename", until_killed(rename))
    with pytest.raises(Killed):
        write_habit(new, folder)
    monkeypatch.undo()
    found = load(folder)
    expected = next(habit for habit in (old, new) if habit.chunk == found.chunk)
    state = torch.tensor([0.5, -0.5])
    assert torch.equal(found.answer(state), expected.answer(state))
    write_habit(new, folder)
    assert load(folder).chunk == 2
    assert not (folder / "habit.old").exists()


def test_the_weights_may_be_read_by_whom_the_folder_s_may(folder):
    add_habit(folder)
    modes = {os.stat(path).st_mode for path in folder.glob("*/*.safetensors")}
    assert len(modes) == 1


def test_the_card_describes_the_habit_once_and_new_defaults_keep_both(folder, tmp_path):
    add_habit(folder)
    add_habit(folder, chunk=3)
    card = (folder / "README.md").read_text()
    assert card.count("## Habit") == 1
    assert "with 3 actions" in card
    before = load(folder).state_dict()
    update_defaults(folder, {"scale": 0.3})
    assert (folder / "README.md").read_text().count("with 3 actions") == 1
    assert all(torch.equal(weight, before[name]) for name, weight in load(folder).state_dict().items())
    assert settings_elsewhere(folder, tmp_path)["settings"]["scale"] == 0.3
