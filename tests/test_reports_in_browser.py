"""Pages of all verbs in a browser, at the widths of a desk and of a phone, light and dark."""

import json

import numpy as np
import pytest
from browser import look, open_page
from PIL import Image
from reports import SPEC, make_evaluation

from vgp_lightning.demo import _describe
from vgp_lightning.diagnostics.page import describe_diagnosis
from vgp_lightning.evaluation.comparison import compare, describe_pairs
from vgp_lightning.evaluation.pages import describe_evaluation
from vgp_lightning.report.page import write_page
from vgp_lightning.tuning.page import describe_search

pytestmark = pytest.mark.browser
RETURNS = {"behaviour": 100, "unguided": 90, "guided": 140}


def evaluations():
    rng = np.random.default_rng(0)
    start = rng.normal(0, 30, 12)
    return {name: make_evaluation(mean + start + rng.normal(0, 9, 12)) for name, mean in RETURNS.items()}


def draw_film(folder):
    folder.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((480, 510), 50).save(folder / "rollout.gif")


def demo(folder):
    draw_film(folder / "evaluation" / "guided")
    report = evaluations() | {
        "seconds": {"collect": 1.5},
        "pipeline": "runs/demo/pipeline",
        "options": {"episodes": 12},
    }
    write_page(folder / "report.html", lambda: _describe(report | {"environment": "Hopper-v5"}, folder))


def evaluate(folder):
    draw_film(folder)
    write_page(folder / "report.html", lambda: describe_evaluation(evaluations()["guided"], folder))


def compare_both(folder):
    spec = SPEC | {"additional_wrappers": []}
    for name in ("unguided", "guided"):
        draw_film(folder / name)
        (folder / name / "evaluation.json").write_text(json.dumps(evaluations()[name] | {"env_spec": spec}))
    compare(str(folder / "unguided"), str(folder / "guided"), json=str(folder / "report.json"))


def tune(folder):
    played = evaluations()
    contenders = {"default": played["behaviour"], "winner": played["guided"], "one plan": played["unguided"]}
    returns = {name: [one["return"] for one in report["episodes"]] for name, report in contenders.items()}
    gains = {
        f"{b} - {a}": describe_pairs([y - x for x, y in zip(returns[a], returns[b], strict=True)], (a, b))
        for a, b in (("default", "winner"), ("one plan", "default"), ("one plan", "winner"))
    }
    report = played["guided"] | {"latency_ms": None, "over_latency": 0, "episodes_played": 9, "episodes": 9}
    report |= {"space": {"scale": [0.1, 0.5], "n_guide_steps": [0, 2]}, "default_settings": report["settings"]}
    report |= {"rungs": [{"configurations": 3, "seeds": [1]}, {"configurations": 1, "seeds": [2, 3, 4]}], "winner": 1}
    report["configurations"] = [{"return_means": means} for means in ([90.0], [95.0, 130.0], [80.0])]
    report |= {"outcome": "better", "chosen": "winner", "written": True}
    report["holdout"] = {"seeds": list(range(10, 22)), "differences": gains, **contenders}
    write_page(folder / "report.html", lambda: describe_search(report))


def diagnose(folder):
    draw_film(folder)
    Image.effect_noise((900, 380), 50).convert("RGB").save(folder / "guidance.png")
    report = evaluations()["guided"] | {"missing": {"own_actions": "not repeatable"}, "return_mean": 3.0}
    calibration = {"count": 90, "spearman": 0.5, "pearson": 0.4, "slope": 0.8, "bias": 1.2}
    calibration["curve"] = [[float(i), 0.8 * i + (i % 2)] for i in range(10)]
    report["calibration"] = {"all": calibration, "complete": None}
    report["ranking"] = [{"level": level, "all": 0.9 - level / 30, "complete": None} for level in (0, 5, 10, 14, 19)]
    mean = {"mean": 0.4, "ci95": [0.1, 0.7], "states": 9}
    judged = dict.fromkeys(("rank_correlation", "repeatability", "gain", "possible", "regret"), mean)
    report["choice"] = {"states": 9, "candidates": 16, "steps": 20, "own_steps": 1, "repeats": 2, "unguided": judged}
    report["horizon"] = {"movement": [0.0, 1.0, 2.0], "replanned": [0.0, 0.2, 0.3], "foretold": 1.0}
    report |= {"own_actions": None, "guidance": {"gain_mean": 1.0, "moved": 0.2}, "pictures": ["guidance.png"]}
    names = [f"a dimension with a rather long name {i}" for i in range(11)]
    report["dynamics"] = {"mean": 0.9, "dimensions": [0.1 * i for i in range(11)], "names": names}
    report |= {"starts": 3, "choice_steps": 20, "recorded_episodes": 0, "candidates": 16}
    write_page(folder / "report.html", lambda: describe_diagnosis(report, folder))


@pytest.mark.parametrize("verb", [demo, evaluate, compare_both, tune, diagnose], ids=lambda verb: verb.__name__)
def test_a_page_fits_desk_and_phone_needs_no_network_and_has_no_errors(tmp_path, verb):
    folder = tmp_path / verb.__name__
    folder.mkdir()
    verb(folder)
    path = folder / "report.html"
    assert path.is_file(), "the page was not written"
    for visit in look(path.as_uri(), tmp_path, verb.__name__):
        visit.check()


def test_what_is_hostile_in_a_report_does_not_run(tmp_path):
    evil = "<script>console.error('ran')</script><img src=x onerror=console.error('ran')>"
    report = evaluations()["guided"] | {"env_id": evil, "pipeline": f"a/{evil}", "device": evil}
    report["settings"] = report["settings"] | {evil: evil}
    report["env_spec"] = {"id": evil, "kwargs": {evil: evil}}
    write_page(tmp_path / "report.html", lambda: describe_evaluation(report, tmp_path))
    with open_page((tmp_path / "report.html").as_uri()) as visit:
        assert "<script>" in visit.page.inner_text("h1")
        assert visit.page.evaluate("document.scripts.length") == 0
    visit.check()


def test_a_table_that_opens_fits_too(tmp_path):
    evaluate(tmp_path)
    with open_page((tmp_path / "report.html").as_uri(), width=390) as visit:
        for summary in visit.page.query_selector_all("summary"):
            summary.click()
        assert visit.page.is_visible("text=All episodes")
    visit.check()
