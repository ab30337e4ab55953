"""vgp publish and vgp evaluate me/name, by the command line and a Hub on this machine."""

import json

import pytest
import torch
from fakes import add_critic, contents, write_tiny

from vgp_lightning.agent.origin import find_planner, hash_weights, name_of
from vgp_lightning.cli import main
from vgp_lightning.export.folder import write_critic
from vgp_lightning.shipped import example_planner


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "planner", task={"env_id": "MountainCarContinuous-v0"})


EVALUATE = ["--episodes", "2", "--max_episode_steps", "3", "--video", "false"]


def test_a_planner_is_evaluated_published_with_it_and_evaluated_from_the_hub(hub, folder, capfd):
    main(["evaluate", str(folder), *EVALUATE])
    main(["publish", str(folder), "--evaluation", "runs/evaluate/planner", "--push_to_hub", "me/planner"])
    assert f"written to {hub.address}/me/planner/commit/" in capfd.readouterr().out
    assert hub.repositories["me/planner"] == contents(folder)
    assert b"| this planner | " in hub.repositories["me/planner"]["README.md"]
    main(["evaluate", "me/planner", *EVALUATE])
    here, there = (
        json.loads((folder.parent / "runs" / "evaluate" / name / "evaluation.json").read_text())
        for name in ("planner", "me--planner")
    )
    assert there["episodes"] == here["episodes"]
    assert there["weights_sha256"] == here["weights_sha256"]


def test_an_evaluation_of_another_planner_is_refused(hub, folder, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "evaluation.json").write_text(json.dumps({"weights_sha256": "0"}))
    before = contents(folder)
    with pytest.raises(SystemExit):
        main(["publish", str(folder), "--evaluation", "results", "--push_to_hub", "me/planner"])
    assert contents(folder) == before
    assert hub.asked == []


def test_settings_that_are_not_the_folders_defaults_are_named(folder, tmp_path):
    other = ["--batch_size", "3", "--temperature", "0.5", "--output_dir", str(tmp_path / "results")]
    main(["evaluate", str(folder), *EVALUATE, *other])
    main(["publish", str(folder), "--evaluation", str(tmp_path / "results")])
    assert "| this planner, with batch_size 3, temperature 0.5 | " in (folder / "README.md").read_text()


def test_an_evaluation_with_another_critic_is_refused(folder, tmp_path, capfd):
    ranked = [*EVALUATE, "--batch_size", "3", "--rank_by", "critic", "--output_dir", str(tmp_path / "results")]
    critic = add_critic(folder)
    main(["evaluate", str(folder), *ranked])
    main(["publish", str(folder), "--evaluation", str(tmp_path / "results")])
    assert "rank_by critic" in (folder / "README.md").read_text()
    critic.requires_grad_(True)
    with torch.no_grad():
        for weight in critic.parameters():
            weight.add_(1)
    write_critic(critic, folder)
    before = contents(folder)
    with pytest.raises(SystemExit):
        main(["publish", str(folder), "--evaluation", str(tmp_path / "results")])
    assert "is of the planner with another critic than the one in" in capfd.readouterr().err
    assert contents(folder) == before


def test_what_did_not_act_alone_is_named_and_a_habit_is_refused(hub, folder, tmp_path, capfd):
    main(["evaluate", str(folder), *EVALUATE, "--delay", "1", "--output_dir", "results"])
    (folder / "rollout.gif").write_bytes(b"GIF8")  # of an earlier evaluation
    main(["publish", str(folder), "--evaluation", "results"])
    assert "| this planner, with a delay of 1 | " in (folder / "README.md").read_text()
    assert not (folder / "rollout.gif").exists()
    path = tmp_path / "results" / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"habit": "1"}))
    before = contents(folder)
    with pytest.raises(SystemExit):
        main(["publish", str(folder), "--evaluation", "results"])
    assert "is of the planner's habit: evaluate the planner itself" in capfd.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["evaluation.json", "rollout.gif"])
def test_a_link_in_an_evaluation_is_not_followed(hub, folder, tmp_path, name, capfd):
    main(["evaluate", str(folder), *EVALUATE, "--output_dir", "results"])
    secret = tmp_path / "secret"
    secret.write_bytes((tmp_path / "results" / "evaluation.json").read_bytes())
    (tmp_path / "results" / name).unlink(missing_ok=True)
    (tmp_path / "results" / name).symlink_to(secret)
    before = contents(folder)
    with pytest.raises(SystemExit):
        main(["publish", str(folder), "--evaluation", "results", "--push_to_hub", "me/planner"])
    assert f"results/{name} is a link to {secret}, outside of results" in capfd.readouterr().err
    assert (contents(folder), hub.asked) == (before, [])


def test_a_film_that_is_none_is_refused(hub, folder, tmp_path, capfd):
    main(["evaluate", str(folder), *EVALUATE, "--output_dir", "results"])
    path = tmp_path / "results" / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"video": "rollout.gif"}))
    (tmp_path / "results" / "rollout.gif").write_text("a key")
    before = contents(folder)
    with pytest.raises(SystemExit):
        main(["publish", str(folder), "--evaluation", "results"])
    assert "results/rollout.gif is not a film: evaluate the planner again" in capfd.readouterr().err
    assert contents(folder) == before


def test_a_planner_that_the_hub_does_not_have_is_no_folder_here_either(hub, capfd):
    with pytest.raises(SystemExit):
        main(["evaluate", "me/nothing"])
    assert (
        "there is no folder me/nothing here, and the Hugging Face Hub has no such repository" in capfd.readouterr().err
    )


def test_a_strangers_environment_is_refused_from_the_hub_as_from_a_folder(hub, tmp_path, capfd):
    hub.put("stranger/planner", write_tiny(tmp_path / "planner", task={"env_id": "os:Hopper-v5"}))
    with pytest.raises(SystemExit):
        main(["evaluate", "stranger/planner", *EVALUATE])
    assert "this could run code or read files that somebody else has chosen" in capfd.readouterr().err


def test_the_example_is_found_by_its_name_unless_a_folder_here_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(find_planner("hopper-example")) == example_planner()
    assert name_of(find_planner("hopper-example")) == "hopper-example"
    (tmp_path / "hopper-example").mkdir()
    assert str(find_planner("hopper-example")) == "hopper-example"
    assert hash_weights(find_planner("hopper-example")) is None
