"""Comparisons: what is paired, what is said, what is refused, and the front door."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgp_lightning.cli import main
from vgp_lightning.evaluation import comparison
from vgp_lightning.evaluation.comparison import compare

REFERENCE = {"name": "D4RL hopper", "min": -20.0, "max": 3230.0}
SPEC = {"entry_point": "a:B", "max_episode_steps": 1000, "kwargs": {}, "additional_wrappers": []}


@pytest.fixture(autouse=True)
def wide_console(monkeypatch):
    monkeypatch.setattr(comparison, "Console", lambda: Console(width=200))


@pytest.fixture
def write(tmp_path):
    """Write an evaluation of these returns, with anything in it replaced."""

    def write(name, returns, first_seed=0, lengths=None, success=None, reference=REFERENCE, **replaced):
        episodes = [
            {
                "seed": first_seed + i,
                "return": float(value),
                "length": 100 if lengths is None else lengths[i],
                "success": None if success is None else success[i],
                "normalized_score": None
                if reference is None
                else 100 * (float(value) - reference["min"]) / (reference["max"] - reference["min"]),
            }
            for i, value in enumerate(returns)
        ]
        report = {"env_id": "Hopper-v5", "env_spec": SPEC, "episodes": episodes, "reference": reference}
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report | replaced))
        return str(path)

    return write


def plain(capsys):
    return re.sub(r"\s+", " ", capsys.readouterr().out)


# ---------------------------------------------------------------- what is compared


def test_episodes_are_paired_by_their_seeds(write, capsys):
    a = write("a.json", [10, 20, 30, 40], first_seed=0)
    b = write("b.json", [31, 42, 50, 60, 70], first_seed=2)
    result = compare(a, b)
    assert result["seeds"] == [2, 3]
    assert (result["pairs"], result["a"]["unpaired"], result["b"]["unpaired"]) == (2, 2, 3)
    assert result["difference"] == 1.5  # 31 - 30 and 42 - 40
    assert (result["a"]["mean"], result["b"]["mean"]) == (35, 36.5)  # of the pairs alone
    out = plain(capsys)
    assert "2 paired episodes" in out
    assert "a.json; 2 left out" in out
    assert "b.json; 3 left out" in out


def test_the_order_of_the_episodes_in_the_files_does_not_matter(write):
    a, b = write("a.json", range(8)), write("b.json", np.arange(8) * 2)
    episodes = json.loads(Path(b).read_text())["episodes"]
    shuffled = write("c.json", [], episodes=episodes[::-1])
    one, other = compare(a, b), compare(a, shuffled)
    assert (one["difference"], one["ci95"]) == (other["difference"], other["ci95"])


def test_pairing_finds_what_the_spread_of_the_episodes_hides(write):
    rng = np.random.default_rng(0)
    starts = rng.normal(1000, 500, 20)
    result = compare(write("a.json", starts), write("b.json", starts + rng.normal(60, 30, 20)))
    assert result["told"]
    assert result["a"]["ci95"][1] > result["b"]["ci95"][0]  # side by side they overlap
    low, high = result["ci95"]
    assert low < 60 < high
    assert result["permutation_p"] < 0.001
    assert re.fullmatch(r"B is better by \d+(\.\d)? \[\d+(\.\d)?, \d+(\.\d)?\]", result["verdict"])


@pytest.mark.parametrize(
    ("metric", "verdict"),
    [
        ("return", "A is better by 6.5 [6.5, 6.5]"),
        ("normalized_score", "A is better by 0.2 [0.2, 0.2]"),  # 6.5 of 3250
        ("length", "B's episodes are longer by 50 [50, 50]"),
        ("success", "B succeeds more often by 100 % [100 %, 100 %]"),
    ],
)
def test_each_metric_has_its_words(write, metric, verdict, capsys):
    a = write("a.json", np.arange(8) + 6.5, lengths=[100] * 8, success=[False] * 8)
    b = write("b.json", np.arange(8), lengths=[150] * 8, success=[True] * 8)
    result = compare(a, b, metric=metric)
    assert result["verdict"] == verdict
    assert result["metric"] == metric
    out = plain(capsys)
    assert verdict in out
    assert ("D4RL hopper" in out) == (metric == "normalized_score")
    assert result["reference"] == REFERENCE


def test_success_has_wilsons_intervals(write):
    a = write("a.json", [0] * 10, success=[True] * 8 + [False] * 2)
    b = write("b.json", [0] * 10, success=[True] * 9 + [False])
    result = compare(a, b, metric="success")
    assert (result["a"]["mean"], result["b"]["mean"]) == (0.8, 0.9)
    assert result["a"]["ci95"] == pytest.approx([0.49016, 0.94331], abs=1e-4)
    assert (result["share_higher"], result["share_equal"]) == (0.1, 0.9)
    assert result["sign_test_p"] == 1


# ---------------------------------------------------------------- what cannot be told


def test_what_cannot_be_told_comes_with_the_episodes_that_would_tell(write):
    # Differences of mean 1 and a standard deviation of 4: (2.8016 * 4)^2 + 1.92 = 127.5.
    values = np.linspace(-1, 1, 20)
    result = compare(write("a.json", [0] * 20), write("b.json", 4 * values / values.std(ddof=1) + 1))
    assert result["pairs_needed"] == 128
    assert result["verdict"] == (
        "no significant difference in 20 episodes; about 108 more are needed to detect one of this size; "
        "20 episodes detect one of 2.64 with 80 % power"
    )


def test_equal_evaluations_are_called_equal(write):
    path = write("a.json", [3, 1, 2, 5, 8, 1])
    result = compare(path, path)
    assert result["verdict"] == "no significant difference: A and B are equal in all 6 episodes"
    assert (result["told"], result["permutation_p"], result["sign_test_p"]) == (False, 1, 1)


@pytest.mark.parametrize(
    ("b", "verdict"),
    [
        ([3], "no significant difference in 1 episode (the test needs at least 6)"),
        ([1], "no significant difference: A and B are equal in 1 episode"),
        (
            [3, 4],
            "no significant difference in 2 episodes (the test needs at least 6); "
            "about 4 more are needed to detect one of this size",
        ),
        (
            [2, 3, 4, 5, 6],
            "no significant difference in 5 episodes (the test needs at least 6); "
            "about 1 more is needed to detect one of this size",
        ),
    ],
)
def test_a_handful_of_episodes_is_answered_politely(write, b, verdict, capsys):
    assert compare(write("a.json", [1, 2, 3, 4, 5][: len(b)]), write("b.json", b))["verdict"] == verdict
    assert f"{len(b)} paired episode" in capsys.readouterr().out


# ---------------------------------------------------------------- what is written and shown


def test_the_comparison_is_written_as_json(write, tmp_path):
    a, b = write("a.json", range(8)), write("b.json", np.arange(8) + [1, 2] * 4)
    result = compare(a, b, json=str(tmp_path / "new" / "result.json"))
    assert json.loads((tmp_path / "new" / "result.json").read_text()) == result
    assert set(result) == {
        *("metric", "env_id", "reference", "pairs", "seeds", "a", "b", "difference", "ci95", "std", "share_higher"),
        *("share_equal", "sign_test_p", "permutation_p", "smallest_difference", "pairs_needed", "told", "verdict"),
        "differs",
    }
    assert result["a"].keys() >= {"path", "unpaired", "mean", "ci95", "iqm", "iqm_ci95", "median", "std"}


def test_in_what_else_the_two_differ_is_shown(write, capsys):
    settings = {"scale": 0.1, "batch_size": 16}
    versions = {"mujoco": "3.3.0"}
    a = write("a.json", range(8), settings=settings, versions=versions, weights_sha256="12ab")
    b = write("b.json", range(8), settings=settings | {"scale": 0.5}, versions={}, weights_sha256="cd")
    assert compare(a, b)["differs"] == {
        "weights_sha256": ["12ab", "cd"],
        "settings.scale": [0.1, 0.5],
        "versions.mujoco": ["3.3.0", None],
    }
    assert "settings.scale │ A: 0.1, B: 0.5" in plain(capsys)


@pytest.mark.parametrize(("name", "absent", "given"), [("delay", 0, 2), ("reach_goal", False, True)])
def test_what_earlier_versions_did_not_write_is_shown_if_it_is_used(write, name, absent, given):
    cases = enumerate(({}, {name: absent}, {name: given}))
    old, none, used = (write(f"{n}.json", range(8), **case) for n, case in cases)
    assert compare(old, none)["differs"] == {}
    assert compare(old, used)["differs"] == {name: [absent, given]}


def test_another_critic_is_shown(write):
    a, b = (write(f"{name}.json", range(8), weights_sha256="1", critic=name) for name in ("first", "second"))
    assert compare(a, b)["differs"] == {"critic": ["first", "second"]}


def test_a_folder_stands_for_the_evaluation_in_it(write, tmp_path):
    write("one/evaluation.json", range(6))
    write("two/evaluation.json", range(6))
    assert compare(str(tmp_path / "one"), str(tmp_path / "two"))["pairs"] == 6


# ---------------------------------------------------------------- what is refused


def test_evaluations_without_a_common_seed_are_refused_with_the_command_that_mends_it(write):
    a, b = write("a.json", range(5), first_seed=10), write("b.json", range(5), first_seed=15)
    with pytest.raises(ValueError, match=r"no seed in common.*10 to 14.*15 to 19.*--seed 10 --episodes 5"):
        compare(a, b)


def test_other_environments_are_refused(write):
    a = write("a.json", range(5))
    with pytest.raises(ValueError, match=r"Hopper-v5 in .*a\.json and Walker2d-v5 in .*b\.json.*--env_id Hopper-v5"):
        compare(a, write("b.json", range(5), env_id="Walker2d-v5"))
    with pytest.raises(ValueError, match=r"max_episode_steps 1000 in .*a\.json and 300 in"):
        compare(a, write("b.json", range(5), env_spec=SPEC | {"max_episode_steps": 300}))
    with pytest.raises(ValueError, match=r"kwargs \{\} in .* and \{'healthy_reward': 2\} in"):
        compare(a, write("b.json", range(5), env_spec=SPEC | {"kwargs": {"healthy_reward": 2}}))
    # What decides nothing may differ.
    compare(a, write("b.json", range(5), env_spec=SPEC | {"reward_threshold": 1.0}))


def test_scores_of_different_references_are_refused_and_their_returns_are_not(write):
    a = write("a.json", range(6))
    b = write("b.json", range(6), reference={"name": "user", "min": 0.0, "max": 1.0})
    with pytest.raises(ValueError, match=r"D4RL hopper.*user.*--ref_min_score"):
        compare(a, b, metric="normalized_score")
    assert compare(a, b)["reference"] is None


def test_a_metric_that_is_not_there_is_refused_with_the_reason(write):
    path = write("a.json", range(6), reference=None)
    with pytest.raises(ValueError, match="no success: Hopper-v5 reports none"):
        compare(path, path, metric="success")
    with pytest.raises(ValueError, match=r"no normalized_score: there is no reference.*--ref_min_score"):
        compare(path, path, metric="normalized_score")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        ("[1, 2]", "not an evaluation.*'env_id', 'env_spec', 'episodes'"),
        ('{"env_id": "Hopper-v5", "episodes": [{"seed": 0}]}', "older version.*'env_spec'"),
        ('{"env_id": "X", "env_spec": {"id": "X"}, "episodes": []}', "'episodes'"),
        ('{"env_id": "X", "env_spec": "X", "episodes": [1]}', "'env_spec'"),
        ('{"env_id": "X", "env_spec": {"id": "X"}, "episodes": 3}', "'episodes'"),
        ('{"env_id": "X", "env_spec": {"id": "X"}, "episodes": [7]}', "episode 0 is 7"),
        ('{"env_id": "X", "env_spec": {"id": "X"}, "episodes": [{"seed": 0}]}', "it needs seed and return"),
        ('{"env_id": "X", "env_spec": {"id": "X"}, "episodes": [{"seed": 0, "return": NaN}]}', "finite number"),
        ('{"env_id": "X", "env_spec": {"id": "X"}, "episodes": [{"seed": 0, "return": "1"}]}', "finite number"),
        (
            '{"env_id": "X", "env_spec": {"id": 1}, "episodes": [{"seed": 4, "return": 1}, {"seed": 4, "return": 2}]}',
            "two episodes have the seed 4",
        ),
    ],
)
def test_wrong_files_end_in_one_message_at_the_front_door(write, tmp_path, capfd, content, message):
    good, wrong = write("good.json", range(6)), tmp_path / "wrong.json"
    wrong.write_bytes(content if isinstance(content, bytes) else content.encode())
    for files in ((good, str(wrong)), (str(wrong), good)):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *files])
        assert ended.value.code == 2
        error = capfd.readouterr().err
        assert "Traceback" not in error
        assert error.count("\n") == 1
        assert "wrong.json" in error
        assert re.search(message, error)


def test_a_missing_file_and_an_unknown_metric_are_refused_at_the_front_door(write, tmp_path, capfd):
    good = write("good.json", range(6))
    for args, message in (
        ([good, str(tmp_path / "none.json")], r"none\.json does not exist.*vgp evaluate"),
        ([str(tmp_path), good], r"evaluation\.json does not exist"),
        ([good], "compare"),
        ([good, good, "--metric", "glory"], "glory"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *args])
        assert ended.value.code == 2
        error = capfd.readouterr().err
        assert "Traceback" not in error
        assert re.search(message, error)


def test_the_front_door_compares_and_writes(write, tmp_path, capsys):
    a, b = write("a.json", range(10)), write("b.json", np.arange(10) + 5)
    main(["compare", a, b, "--metric", "length", "--json", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["metric"] == "length"
    assert "equal in all 10 episodes" in plain(capsys)
