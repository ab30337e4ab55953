"""The search: its budget, its seeds, what it finds where the answer is known, and what it writes."""

import json
import re
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from fakes import contents, settings_elsewhere, write_tiny
from gymnasium import spaces
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.cli import main
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import ONE_PLAN
from vgp_lightning.tuning import contest, summary
from vgp_lightning.tuning import search as tuning
from vgp_lightning.tuning.contest import Contest
from vgp_lightning.tuning.halving import Configuration
from vgp_lightning.tuning.holdout import judge
from vgp_lightning.tuning.search import tune
from vgp_lightning.tuning.summary import CONTENDERS


class Steady(gymnasium.Env):
    """Pays 1 for each action that is the one before, in front of a view that does not change; for six steps.

    Only a planner without noise that plans anew at every step does the same again and again.
    """

    observation_space = spaces.Box(-10, 10, (2,))
    action_space = spaces.Box(-1, 1, (1,))
    begun: list = []  # noqa: RUF012 (the seeds of all episodes, in order)
    pays = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:  # else it idles
            self.begun.append(seed)
        self.t, self.last = 0, None
        self.view = self.np_random.normal(size=2).astype(np.float32)
        return self.view.copy(), {}

    def step(self, action):
        same = self.last is not None and abs(float(action[0]) - self.last) < 1e-6
        self.t, self.last = self.t + 1, float(action[0])
        return self.view.copy(), self.pays * same, False, self.t == 6, {}


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    monkeypatch.setattr(Steady, "begun", [])
    for module in (contest, summary):
        monkeypatch.setattr(module, "Console", lambda: Console(width=200))
    gymnasium.register("Steady-v0", entry_point=Steady)
    yield
    del gymnasium.registry["Steady-v0"]


@pytest.fixture
def folder(tmp_path):
    """A planner whose defaults are noisy and slow to look again."""
    task = {"env_id": "Steady-v0", "checkpoints": {"planner": {"file": "last.ckpt", "step": 5}}}
    return write_tiny(tmp_path / "planner", task=task, n_guide_steps=0, temperature=1.0, replan_every=2)


# What is best by construction, among what is not: without noise, planned at every step.
SPACE = {
    "temperature": [0.0, 1.0],
    "replan_every": [1, 2],
    "batch_size": [2],
    "n_guide_steps": [0],
    "num_inference_steps": [1, 2],
    "choice_temperature": [0.0],
    "warm_start_strength": [1.0],
}
BEST = {"temperature": 0.0, "replan_every": 1}


def run(folder, tmp_path, *options, space=SPACE):
    """Tune through the front door, and return the report."""
    defaults = ["--episodes", "40", "--configurations", "8", "--holdout_episodes", "6"]
    main(
        ["tune", str(folder), "--output_dir", str(tmp_path / "out"), "--space", json.dumps(space), *defaults, *options]
    )
    return json.loads((tmp_path / "out" / "tuning.json").read_text())


def failing(monkeypatch, condition):
    """Let plans fail where the condition holds for their settings and the episode's seed."""
    plan = ValueGuidedPlannerPipeline.__call__

    def fails(self, *arguments, **settings):
        if condition(settings, Steady.begun[-1]):
            raise ValueError("the plan is not finite")
        return plan(self, *arguments, **settings)

    monkeypatch.setattr(ValueGuidedPlannerPipeline, "__call__", fails)


def plain(capsys):
    return re.sub(r"\s+", " ", capsys.readouterr().out)


# ---------------------------------------------------------------- the budget


def test_the_search_plays_its_episodes_on_shared_seeds_and_the_end_on_others(folder, tmp_path):
    report = run(folder, tmp_path, "--seed", "500")
    sizes = [rung["configurations"] for rung in report["rungs"]]
    assert sizes == [8, 3]
    seeds = [rung["seeds"] for rung in report["rungs"]]
    assert seeds[0] + seeds[1] == list(range(500, 500 + len(seeds[0]) + len(seeds[1])))
    searched = [seed for size, some in zip(sizes, seeds, strict=True) for seed in size * some]
    assert report["episodes_played"] == len(searched) <= 40
    held_out = list(range(540, 546))
    assert report["holdout"]["seeds"] == held_out
    assert sorted(Steady.begun) == sorted(searched + 3 * held_out)  # the defaults, the winner, and one plan
    assert not set(searched) & set(held_out)


def test_the_number_of_environments_changes_nothing(folder, tmp_path):
    first = run(folder, tmp_path, "--write", "false", "--environments", "1")
    other = run(folder, tmp_path, "--write", "false", "--environments", "5")
    for key in ("rungs", "winner"):
        assert first[key] == other[key]
    assert [one["returns"] for one in first["configurations"]] == [one["returns"] for one in other["configurations"]]


# ---------------------------------------------------------------- what is found


def test_the_best_settings_are_found_confirmed_and_become_the_folders(folder, tmp_path, capsys):
    before = contents(folder)
    report = run(folder, tmp_path)
    winner = report["winner_settings"]
    assert winner | BEST == winner
    assert report["outcome"] == "better"
    assert report["written"] is True
    assert report["default_settings"] | {"temperature": 1.0, "replan_every": 2} == report["default_settings"]
    held = report["holdout"]
    assert held["winner"]["return_mean"] == 5  # each action but the first is the one before
    assert held["default"]["return_mean"] == 0
    assert held["one plan"]["return_mean"] == 0
    assert held["one plan"]["settings"] == report["default_settings"] | ONE_PLAN
    found = held["differences"]["winner - default"]
    assert (found["difference"], found["told"], found["pairs"]) == (5, True, 6)
    assert found["verdict"] == "the winner is better by 5 [5, 5]"
    assert report["chosen"] == "winner"
    assert held["winner"]["return_ci95"] == [5, 5]

    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    assert pipeline.resolve_settings() == winner
    assert settings_elsewhere(folder, tmp_path)["settings"] == winner
    card = (folder / "README.md").read_text()
    assert "| `temperature` | 0.0 |" in card
    assert "| `replan_every` | 1 |" in card
    assert (
        "Why these: `vgp tune` chose these settings by returns in Steady-v0, on the held-out seeds 2000040 to 2000045: "
        "+5 [5, 5] (6 pairs, p = 0.031) against the defaults before; +5 [5, 5] (6 pairs, p = 0.031) against one plan.\n"
    ) in card
    assert pipeline.task["evidence"]["compared"][0]["with"] == "default"
    after = contents(folder)
    assert {name for name in before if before[name] != after[name]} == {"model_index.json", "README.md"}

    out = plain(capsys)
    assert "On the held-out seeds the winner returns more: the settings of the winner are now the defaults of" in out
    for words in ("default", "winner", "temperature", "held-out seeds 2000040 to 2000045"):
        assert words in out
    assert "winner against default: the winner is better by 5 [5, 5]" in out
    assert "winner against one plan: the winner is better by 5 [5, 5]" in out


def test_the_report_says_what_became_of_each_and_what_the_numbers_are_of(folder, tmp_path):
    report = run(folder, tmp_path)
    first, second = (rung["seeds"] for rung in report["rungs"])
    dropped = [one["dropped"] for one in report["configurations"]]
    assert dropped.count("rung 1") == 5
    assert dropped.count("rung 2") == 2
    assert dropped[report["winner"]] is None
    for one in report["configurations"]:
        played = [first] if one["dropped"] == "rung 1" else [first, second]
        assert [list(returns) for returns in one["returns"]] == [[str(seed) for seed in seeds] for seeds in played]
        every = [value for returns in one["returns"] for value in returns.values()]
        assert one["return_means"][-1] == pytest.approx(np.mean(every))
    assert report["configurations"][report["winner"]]["plan_ms"] > 0
    assert report["configurations"][0]["plan_ms"] > 0
    assert report["env_id"] == "Steady-v0"
    assert report["pipeline"] == str(folder)
    assert report["checkpoints"] == {"planner": {"file": "last.ckpt", "step": 5}}
    assert report["space"] | SPACE == report["space"]
    assert len(report["weights_sha256"]) == 64
    assert report["versions"].keys() >= {"vgp_lightning", "torch"}


def test_the_search_is_drawn_and_logged(folder, tmp_path):
    report = run(folder, tmp_path)
    with Image.open(tmp_path / "out" / "tuning.png") as image:
        assert image.format == "PNG"
    events = EventAccumulator(str(tmp_path / "out")).Reload()
    # In order: files of one second are read by the order of their names, in which a tenth precedes a ninth.
    best = sorted((event.step, event.value) for event in events.Scalars("tune/return_mean_best"))
    assert [step for step, _ in best] == [8 * len(report["rungs"][0]["seeds"]), report["episodes_played"]]
    assert best[-1][1] == 5
    assert events.Scalars("tune/holdout_return_mean_winner")[0].value == 5
    assert events.Scalars("tune/holdout_return_mean_default")[0].value == 0
    assert events.Images("tune/halving")


def test_where_nothing_is_to_be_written_the_folder_stays(folder, tmp_path, capsys):
    before = contents(folder)
    report = run(folder, tmp_path, "--write", "false")
    assert (report["outcome"], report["written"]) == ("better", False)
    assert contents(folder) == before
    assert "is unchanged because of --write false" in plain(capsys)


def test_a_winner_that_is_not_better_on_held_out_seeds_is_not_written_but_the_evidence_is(
    folder, tmp_path, monkeypatch, capsys
):
    before, play = contents(folder), Contest._play

    def nothing_pays(contest, players, seeds, description):
        if description == "held-out seeds":
            monkeypatch.setattr(Steady, "pays", 0.0)
        return play(contest, players, seeds, description)

    monkeypatch.setattr(Contest, "_play", nothing_pays)
    report = run(folder, tmp_path)
    assert report["winner"] != 0
    assert (report["outcome"], report["chosen"], report["written"]) == ("not better", "default", True)
    verdict = report["holdout"]["differences"]["winner - default"]["verdict"]
    assert verdict.startswith("no significant difference: the default and the winner")
    assert ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings() == report["default_settings"]
    after = contents(folder)
    assert {name for name in before if before[name] != after[name]} == {"model_index.json", "README.md"}
    assert (
        "Why these: `vgp tune` kept these settings by returns in Steady-v0, on the held-out seeds 2000040 to 2000045: "
        "+0 [0, 0] (6 pairs, p = 1) against the search's winner; +0 [0, 0] (6 pairs, p = 1) against one plan.\n"
    ) in (folder / "README.md").read_text()
    out = plain(capsys)
    assert "the test does not tell that the winner returns more: the defaults of" in out
    assert "stay, and its card says why" in out


def test_defaults_that_return_less_than_one_plan_give_way_to_it(tmp_path, monkeypatch, capsys):
    folder = write_tiny(tmp_path / "planner", task={"env_id": "Steady-v0"}, temperature=1.0, replan_every=1)
    agent = Contest._agent

    def steady_alone(contest, one):
        alone = ONE_PLAN.items() <= one.settings.items()
        return agent(contest, Configuration(one.settings | {"temperature": 0.0}) if alone else one)

    monkeypatch.setattr(Contest, "_agent", steady_alone)
    report = run(folder, tmp_path, "--configurations", "2", space={"batch_size": [4, 5]})
    assert (report["outcome"], report["chosen"], report["written"]) == ("one plan better", "one plan", True)
    settings = ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()
    assert settings == report["default_settings"] | ONE_PLAN == report["holdout"]["one plan"]["settings"]
    assert "+5 [5, 5] (6 pairs, p = 0.031) against the defaults before" in (folder / "README.md").read_text()
    out = plain(capsys)
    assert "one plan, neither guided nor chosen, returns more: the settings of one plan are now the defaults of" in out


@pytest.mark.parametrize(
    ("differences", "other", "slow", "expected"),
    [
        ({}, False, set(), ("default won", "default")),
        ({"winner - default": (5, True)}, True, set(), ("better", "winner")),
        ({"winner - default": (5, False)}, True, set(), ("not better", "default")),
        ({"winner - default": (-5, True)}, True, set(), ("not better", "default")),
        ({"winner - default": (-5, True)}, True, {"default"}, ("default too slow", "winner")),
        ({"default - one plan": (-1, True)}, False, set(), ("one plan better", "one plan")),
        ({"default - one plan": (-1, False)}, False, set(), ("default won", "default")),
        ({"default - one plan": (1, True)}, False, set(), ("default won", "default")),
        ({"default - one plan": (-1, True)}, False, {"one plan"}, ("default won", "default")),
        ({"winner - default": (5, True), "default - one plan": (-1, True)}, True, set(), ("better", "winner")),
        (
            {"winner - default": (5, True), "winner - one plan": (-1, True), "default - one plan": (-6, True)},
            *(True, set(), ("one plan better", "one plan")),
        ),
    ],
)
def test_what_the_test_does_not_tell_changes_nothing(differences, other, slow, expected):
    told = {pair: {"difference": difference, "told": told} for pair, (difference, told) in differences.items()}
    contenders = {"default", *(("winner",) if other else ()), "one plan"}
    assert judge(told, contenders, slow, set()) == expected


@pytest.mark.parametrize(
    ("contenders", "failed", "told", "expected"),
    [
        ("default winner one_plan", "default", False, ("default failed", "winner")),
        ("default winner one_plan", "default", True, ("one plan better", "one plan")),
        ("default winner", "default", False, ("default failed", "winner")),  # of which one is one plan
        ("default winner one_plan", "default winner", False, ("default failed", "one plan")),
        ("default one_plan", "default", False, ("default failed", "one plan")),
        ("default winner one_plan", "winner", False, ("winner failed", "default")),
        ("default winner one_plan", "winner one_plan", False, ("winner failed", "default")),
        ("default winner one_plan", "one_plan", False, ("not better", "default")),
    ],
)
def test_who_fails_in_an_episode_does_not_become_the_default(contenders, failed, told, expected):
    names, out = ({name.replace("_", " ") for name in text.split()} for text in (contenders, failed))
    pairs = [("winner", "default"), ("winner", "one plan"), ("default", "one plan")]
    differences = {
        f"{a} - {b}": {"difference": -5, "told": told} for a, b in pairs if {a, b} <= names and not {a, b} & out
    }
    assert judge(differences, names, set(), out) == expected


def test_where_the_defaults_win_no_difference_is_invented(tmp_path, capsys):
    folder = write_tiny(tmp_path / "planner", task={"env_id": "Steady-v0"}, n_guide_steps=0, batch_size=1, **BEST)
    before = contents(folder)
    report = run(folder, tmp_path)
    assert (report["winner"], report["outcome"], report["written"]) == (0, "default won", False)
    assert report["holdout"]["default"]["return_mean"] == 5
    assert (report["holdout"]["winner"], report["holdout"]["one plan"]) == (None, None)
    assert report["holdout"]["differences"] == {}
    assert contents(folder) == before
    out = plain(capsys)
    assert "No configuration returned more than the folder's defaults" in out
    assert "better by" not in out


def test_who_goes_on_is_decided_by_all_seeds_so_far(folder, tmp_path, monkeypatch):
    # By candidates; 1 is better over both rungs, 2 in the second alone.
    returns = {"rung 1": {1: 10, 2: 0, 3: -1, 4: -1}, "rung 2": {1: 0, 2: 5}}
    now = []

    def play(contest, players, seeds, description):
        now[:] = [description, {contest._configurations.index(one): one.settings["batch_size"] for one in players}]
        return real(contest, players, seeds, description)

    def gathered(store, items):
        value = returns.get(now[0], {}).get(now[1][items[0][0]], 0)  # what comes after the rungs is of no matter here
        return SimpleNamespace(results=[SimpleNamespace(total_reward=float(value)) for _ in items], failures=[])

    real = Contest._play
    monkeypatch.setattr(Contest, "_play", play)
    monkeypatch.setattr(contest, "gather", gathered)
    space = {name: values[:1] for name, values in SPACE.items()} | {"batch_size": [1, 2, 3, 4], "temperature": [1.0]}
    space["replan_every"] = [2]
    space["num_inference_steps"] = [2]
    report = run(folder, tmp_path, "--episodes", "7", space=space)
    assert [(rung["configurations"], len(rung["seeds"])) for rung in report["rungs"]] == [(4, 1), (2, 1)]
    assert report["winner_settings"]["batch_size"] == 1
    assert report["configurations"][report["winner"]]["return_means"] == [10, 5]


def test_of_equals_the_defaults_go_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Steady, "pays", 0.0)
    assert run(folder, tmp_path)["outcome"] == "default won"


def test_the_default_space_works_with_a_folder_of_either_kind(tmp_path):
    for guided in (True, False):
        folder = write_tiny(tmp_path / f"{guided}", guided=guided)
        report = tune(str(folder), 13, 9, str(tmp_path / "out"), holdout_episodes=2, env_id="Steady-v0")
        assert len(report["configurations"]) == 9
        assert report["holdout"]["default"]["return_ci95"] is None  # of two


# ---------------------------------------------------------------- time


@pytest.fixture
def latencies(monkeypatch):
    """A planning call takes 10 ms for each denoising step, and twice as long where it is planned at every second."""
    measured = []

    def measure(pipeline, **settings):
        measured.append(settings)
        return 10.0 * settings["num_inference_steps"] * (2 if settings["replan_every"] == 2 else 1)

    monkeypatch.setattr(contest, "measure_latency", measure)
    return measured


def test_who_takes_too_long_is_left_out_before_an_episode_is_played(folder, tmp_path, latencies, capsys):
    report = run(folder, tmp_path, "--latency_ms", "25")
    slow = [one for one in report["configurations"] if one["dropped"] == "latency"]
    assert len(slow) == report["over_latency"] == 2  # two steps, planned at every second
    assert all(one["plan_ms"] == 40 and one["returns"] == [] for one in slow)
    assert report["rungs"][0]["configurations"] == 6
    assert len(latencies) == 9  # with one plan
    assert "2 of them too slow" in plain(capsys)


def test_a_default_that_is_too_slow_gives_way_even_to_one_that_returns_no_more(
    folder, tmp_path, latencies, monkeypatch, capsys
):
    monkeypatch.setattr(Steady, "pays", 0.0)
    report = run(folder, tmp_path, "--latency_ms", "25")
    assert report["configurations"][0]["dropped"] == "latency"
    assert report["holdout"]["differences"]["winner - default"]["difference"] == 0
    assert (report["outcome"], report["written"]) == ("default too slow", True)
    assert "The defaults take longer than 25.0 ms: the settings of the winner are now" in plain(capsys)
    assert ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings() == report["winner_settings"]


def test_the_only_one_that_is_quick_enough_wins_without_a_search(folder, tmp_path, latencies):
    space = SPACE | {"temperature": [0.0]}
    report = run(folder, tmp_path, "--latency_ms", "10", space=space)
    assert (report["rungs"], report["episodes_played"]) == ([], 0)
    assert report["winner_settings"] | BEST | {"num_inference_steps": 1} == report["winner_settings"]
    assert report["outcome"] == "default too slow"
    assert not (tmp_path / "out" / "tuning.png").exists()
    assert (tmp_path / "out" / "report.html").is_file()


def test_without_a_limit_only_the_defaults_and_the_winner_are_timed(folder, tmp_path, latencies):
    report = run(folder, tmp_path)
    default = report["default_settings"]
    assert latencies == [default, report["winner_settings"], default | ONE_PLAN]


# ---------------------------------------------------------------- what is refused, and what an interruption leaves


def failure(capfd, folder, tmp_path, *options, **changes):
    before = contents(folder)
    with pytest.raises(SystemExit) as ended:
        run(folder, tmp_path, *options, **changes)
    assert ended.value.code == 2
    assert contents(folder) == before
    assert Steady.begun == []
    return capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--episodes", "10"], "episodes is 10: halving 8 configurations needs at least 11, one for each"),
        (["--configurations", "1"], "configurations is 1: at least 2 are needed"),
        (["--holdout_episodes", "0"], "holdout_episodes is 0: at least 1 is needed"),
        (["--latency_ms", "1e-4"], "latency_ms is 0.0001, but none of 8 configurations plans in that time here"),
        (["--latency_ms", "-1"], "latency_ms is -1.0: milliseconds above 0 are needed"),
        (["--space", '{"speed": [1]}'], "space names unknown settings ['speed']: choose from ['batch_size'"),
        (["--space", '{"scale": []}'], "space has no values for ['scale']"),
        (["--space", '{"scale": [0.1, null]}'], "space has null for ['scale']: only ['max_grad_norm',"),
        (["--space", '{"replan_every": [9]}'], "cannot plan with all settings of the space: replan_every is 9"),
        (["--env_id", "Pendulum-v1"], "3 observation and 1 action dimensions"),
        (["--environments", "0"], "0 environments: at least 1 is needed"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_played(folder, tmp_path, capfd, options, words):
    assert words in failure(capfd, folder, tmp_path, *options)


def test_a_folder_that_cannot_be_written_is_refused_unless_it_need_not_be(folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(tuning.os, "access", lambda path, mode: False)
    assert "planner is not writable: make it so, or" in failure(capfd, folder, tmp_path)
    assert run(folder, tmp_path, "--write", "false")["outcome"] == "better"


def test_a_space_of_nothing_but_the_defaults_is_refused(folder, tmp_path, capfd):
    default = ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()
    space = {name: [value] for name, value in default.items()}
    assert "holds only the folder's defaults" in failure(capfd, folder, tmp_path, space=space)


def test_nobody_quick_enough_is_told_who_is_the_quickest(folder, tmp_path, latencies, capfd):
    message = failure(capfd, folder, tmp_path, "--latency_ms", "9.5")
    assert "latency_ms is 9.5" in message
    assert "the quickest takes 10.0 ms: {" in message


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        tune(str(tmp_path))


def test_an_interrupted_search_leaves_what_it_knew(folder, tmp_path, monkeypatch):
    before, play = contents(folder), Contest._play

    def interrupted(contest, players, seeds, description):
        if description == "rung 2":
            raise KeyboardInterrupt
        return play(contest, players, seeds, description)

    monkeypatch.setattr(Contest, "_play", interrupted)
    with pytest.raises(SystemExit):
        run(folder, tmp_path)
    report = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert len(report["rungs"]) == 1
    assert sum(one["dropped"] == "rung 1" for one in report["configurations"]) == 5
    assert all(len(one["returns"]) == 1 for one in report["configurations"])
    assert (report["winner"], report["holdout"], report["written"]) == (None, None, False)
    assert contents(folder) == before


def test_the_folder_is_changed_when_all_else_is_done(folder, tmp_path, monkeypatch):
    before = contents(folder)
    monkeypatch.setattr(contest, "plot_halving", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(folder, tmp_path)
    report = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert (report["outcome"], report["written"]) == ("better", False)
    assert contents(folder) == before


def test_results_go_to_a_folder_named_after_the_pipeline(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tune("planner", 13, 8, space=SPACE, holdout_episodes=1, write=False)
    assert (tmp_path / "runs" / "tune" / "planner" / "tuning.json").exists()


# ---------------------------------------------------------------- what was played before, and what goes wrong


def untimed(report):
    configurations = [{**one, "plan_ms": None} for one in report["configurations"]]
    return {**report, "seconds": 0, "configurations": configurations, "holdout": None, "pipeline": "", "written": None}


def test_an_interrupted_search_goes_on_and_finds_the_same(folder, tmp_path, monkeypatch):
    whole = run(folder, tmp_path, "--write", "false")
    first = list(Steady.begun)
    Steady.begun.clear()
    (tmp_path / "out").rename(tmp_path / "whole")
    step, left = Steady.step, [60]

    def interrupted(self, action):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return step(self, action)

    monkeypatch.setattr(Steady, "step", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(folder, tmp_path, "--write", "false", "--environments", "1")
    report = run(folder, tmp_path, "--write", "false", "--environments", "1")
    assert untimed(report) == untimed(whole) | {"environments": 1}
    assert len(Steady.begun) == len(first) + 1  # the one that was interrupted
    assert report["holdout"]["winner"]["episodes"] == whole["holdout"]["winner"]["episodes"]


def test_a_finished_search_prints_its_result_though_the_defaults_have_changed(folder, tmp_path, capsys):
    report = run(folder, tmp_path)
    after, begun = contents(folder), list(Steady.begun)
    assert report["written"]
    capsys.readouterr()
    assert run(folder, tmp_path) == report
    out = plain(capsys)
    assert "episodes of a finished search were played before, in" in out
    assert "the settings of the winner are now the defaults of" in out
    assert (contents(folder), Steady.begun) == (after, begun)
    anew = run(folder, tmp_path, "--again", "true")
    assert anew["default_settings"] == report["winner_settings"]
    assert len(Steady.begun) > len(begun)


def test_what_was_not_written_can_be_written_without_playing_again(folder, tmp_path):
    report = run(folder, tmp_path, "--write", "false")
    begun = list(Steady.begun)
    assert run(folder, tmp_path) == report | {"written": True}
    assert Steady.begun == begun
    assert ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings() == report["winner_settings"]


def test_a_search_that_is_killed_while_it_writes_the_winner_writes_it_when_it_goes_on(folder, tmp_path, monkeypatch):
    update = contest.update_defaults
    for fails_after in (False, True):

        def killed(*arguments):
            if fails_after:  # noqa: B023
                update(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(contest, "update_defaults", killed)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                run(folder, tmp_path)
    begun = list(Steady.begun)
    report = run(folder, tmp_path)
    assert (report["written"], Steady.begun) == (True, begun)
    assert ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings() == report["winner_settings"]


def test_a_configuration_whose_plans_fail_loses_and_the_others_go_on(folder, tmp_path, monkeypatch):
    failing(monkeypatch, lambda settings, seed: settings["num_inference_steps"] == 1)
    report = run(folder, tmp_path)
    failed = [one for one in report["configurations"] if one["dropped"] == "failed"]
    assert len(failed) == 4
    assert all(one["settings"]["num_inference_steps"] == 1 for one in failed)
    assert all(re.fullmatch(r"seed 2000000, step 0: .*the plan is not finite", one["failure"]) for one in failed)
    assert report["winner_settings"]["num_inference_steps"] == 2
    assert report["outcome"] == "better"


def test_defaults_that_fail_are_replaced_by_the_winner(folder, tmp_path, monkeypatch, capsys):
    default = ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()
    failing(
        monkeypatch, lambda settings, seed: all(settings[name] == default[name] for name in settings.keys() & default)
    )
    report = run(folder, tmp_path)
    assert (report["configurations"][0]["dropped"], report["holdout"]["default"]) == ("failed", None)
    assert (report["outcome"], report["chosen"], report["written"]) == ("default failed", "winner", True)
    settings = ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()
    assert settings == report["holdout"]["winner"]["settings"]
    assert "The defaults could not play an episode to its end: the settings of the winner are now" in plain(capsys)
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_single_plan_that_fails_is_replaced_by_the_winner_though_there_is_nobody_to_compare_it_with(
    tmp_path, monkeypatch, capsys
):
    folder = write_tiny(tmp_path / "planner", task={"env_id": "Steady-v0"}, temperature=1.0, replan_every=2, **ONE_PLAN)
    default = ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()
    failing(
        monkeypatch, lambda settings, seed: all(settings[name] == default[name] for name in settings.keys() & default)
    )
    report = run(folder, tmp_path, space=SPACE | {"batch_size": [1]})
    assert (report["outcome"], report["chosen"], report["written"]) == ("default failed", "winner", True)
    assert report["holdout"]["differences"] == {}
    assert ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings() == report["winner_settings"]
    assert "by returns in Steady-v0, on the held-out seeds 2000040 to 2000045: the defaults before could not" in (
        (folder / "README.md").read_text()
    )


def test_a_winner_that_fails_on_held_out_seeds_is_not_written(folder, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, lambda settings, seed: seed == 2_000_043 and settings["temperature"] == 0)
    before = (folder / "model_index.json").read_bytes()
    report = run(folder, tmp_path, "--environments", "1")
    assert (report["outcome"], report["chosen"]) == ("winner failed", "default")
    assert report["holdout"]["winner"] is None
    assert report["holdout"]["failures"] == {"winner": "seed 2000043, step 0: the plan is not finite"}
    settings = json.loads(before)["planner"]
    assert json.loads((folder / "model_index.json").read_bytes())["planner"] == settings
    out = plain(capsys)
    assert "winner failed: seed 2000043, step 0" in out
    assert "The winner could not play an episode of the held-out seeds to its end" in out


def test_if_nobody_can_play_the_held_out_seeds_each_is_named(folder, tmp_path, monkeypatch, capfd):
    failing(monkeypatch, lambda settings, seed: seed == 2_000_043)
    with pytest.raises(SystemExit):
        run(folder, tmp_path, "--environments", "1")
    names = "['default', 'winner', 'one plan']"
    assert f"none of {names} could play the held-out seeds to their end" in capfd.readouterr().err


def test_a_second_search_that_was_interrupted_goes_on(folder, tmp_path, monkeypatch):
    assert run(folder, tmp_path)["written"]

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Contest, "_confirm", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(folder, tmp_path, "--again", "true")
    begun = len(Steady.begun)
    report = run(folder, tmp_path)
    assert report["default_settings"]["temperature"] == 0  # of the second search
    assert len(Steady.begun) - begun == 6 * sum(report["holdout"][name] is not None for name in CONTENDERS)


def scalars(folder):
    """Return all curves of a folder: (step, value) by tag."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: sorted((one.step, one.value) for one in events.Scalars(tag)) for tag in events.Tags()["scalars"]}


def test_the_curves_of_a_search_are_there_again_with_its_picture(folder, tmp_path):
    run(folder, tmp_path)
    before = scalars(tmp_path / "out")
    (tmp_path / "out" / "tuning.png").unlink()
    run(folder, tmp_path)
    assert scalars(tmp_path / "out") == before
    assert {"tune/return_mean_best", "tune/return_mean_default"} <= before.keys()
