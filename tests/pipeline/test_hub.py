"""Planners go to the Hub as whole folders and come back as data; the Hub is a server on this machine."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from fakes import contents, run_elsewhere, write_tiny
from huggingface_hub import constants

from vgp_lightning.pipeline.hub import is_repository
from vgp_lightning.pipeline.joining import join_pipeline
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

WHOLE = {"model_index.json", "pipeline.py", "README.md", "training/denoiser.yaml", "scheduler/scheduler_config.json"}
WHOLE |= {
    f"{part}/{file}"
    for part in ("unet", "value_function")
    for file in ("config.json", "diffusion_pytorch_model.safetensors")
}


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "planner", task={"env_id": "MountainCarContinuous-v0"})


def plan(pipeline):
    return pipeline([0.5, -0.5], generator=torch.Generator().manual_seed(7)).actions


def test_a_saved_folder_is_whole_and_the_same_as_the_one_that_was_loaded(folder, tmp_path):
    ValueGuidedPlannerPipeline.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)
    assert set(contents(folder)) == WHOLE


def test_a_planner_that_was_put_together_in_memory_is_saved_with_its_code(folder, tmp_path):
    loaded = ValueGuidedPlannerPipeline.from_pretrained(folder)
    made = ValueGuidedPlannerPipeline(loaded.unet, loaded.scheduler, normalization=loaded.normalization)
    made.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "pipeline.py").read_text() == join_pipeline()


SAVE_ELSEWHERE = """
import json, sys
sys.modules["vgp_lightning"] = None
from diffusers import DiffusionPipeline
first, second, copy = sys.argv[1:]
load = lambda folder: DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
pipeline = load(first)
load(second)
pipeline.save_pretrained(copy)
print(json.dumps(None))
"""


def test_without_the_package_a_folder_is_saved_with_the_code_that_it_was_loaded_with(folder, tmp_path):
    other = write_tiny(tmp_path / "other")
    (other / "pipeline.py").write_text((other / "pipeline.py").read_text() + "# another one\n")
    run_elsewhere(tmp_path, SAVE_ELSEWHERE, folder, other, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)


def test_what_a_link_in_a_folder_leads_to_is_not_handed_on(folder, tmp_path):
    (tmp_path / "secret").write_text("a token")
    (folder / "training" / "denoiser.yaml").unlink()
    (folder / "training" / "denoiser.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"denoiser\.yaml is a link to .*secret, outside of"):
        ValueGuidedPlannerPipeline.from_pretrained(folder).save_pretrained(tmp_path / "copy")


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_what_is_pushed_is_the_whole_folder_and_plans_the_same_when_it_comes_back(hub, folder, tmp_path, way):
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    if way == "push_to_hub":
        assert pipeline.push_to_hub("me/planner") == f"{hub.address}/me/planner/commit/{hub.commit('me/planner')}"
    else:
        pipeline.save_pretrained(tmp_path / "copy", push_to_hub=True, repo_id="me/planner")
    assert hub.repositories["me/planner"] == contents(folder)
    back = ValueGuidedPlannerPipeline.from_pretrained("me/planner")
    torch.testing.assert_close(plan(back), plan(pipeline), rtol=0, atol=0)
    back.save_pretrained(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_of_a_strangers_repository_no_code_and_no_pickle_is_fetched(hub, folder):
    (folder / "pipeline.py").write_text("raise SystemExit('a stranger runs')")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "program").mkdir()
    (folder / "program" / "plan.pt2").write_bytes(b"code")
    hub.put("stranger/planner", folder)
    assert plan(ValueGuidedPlannerPipeline.from_pretrained("stranger/planner")).isfinite().all()
    resolved = [line.split("/resolve/")[1].split("/", 1)[1] for line in hub.asked if "/resolve/" in line]
    assert set(resolved) == WHOLE - {"pipeline.py"}


def test_a_repository_that_is_not_there_or_is_no_planner_is_named(hub, tmp_path):
    with pytest.raises(ValueError, match="there is no folder me/nothing here, and the Hugging Face Hub has no such"):
        ValueGuidedPlannerPipeline.from_pretrained("me/nothing")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "README.md").write_text("words")
    hub.put("me/text", tmp_path / "text")
    with pytest.raises(ValueError, match=r"me/text on the Hugging Face Hub has no model_index\.json"):
        ValueGuidedPlannerPipeline.from_pretrained("me/text")


def test_an_upload_that_fails_says_why_and_what_to_do(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"could not be put on the Hugging Face Hub as me/planner: .*hf auth login"):
        ValueGuidedPlannerPipeline.from_pretrained(folder).push_to_hub("me/planner")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("me/planner", True),
        ("./me/planner", False),
        ("here/typo", False),
        ("a/b/c", False),
        ("planner", False),
        ("/a/b", False),
    ],
)
def test_only_what_can_be_no_local_folder_is_looked_for_on_the_hub(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    assert is_repository(name) is expected


def test_diffusers_has_no_plain_way_to_a_folder_that_leaves_its_own_planner_working(folder):
    """The card says so. A list as _class_name would make the plain way work, and break ValueGuidedRLPipeline."""
    with pytest.raises(AttributeError, match="has no attribute ValueGuidedPlannerPipeline"):
        DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["pipeline", index["_class_name"]]}))
    from diffusers.experimental import ValueGuidedRLPipeline

    with pytest.raises(ValueError, match="trust_remote_code"):
        ValueGuidedRLPipeline.from_pretrained(folder, env=None)
