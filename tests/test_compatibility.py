"""What version 0.1 wrote, before the package had rooms: its runs resume, its folders load and plan the same.

tests/fixtures/made_by_0.1.tar.xz was made with commit f300546: a Minari dataset of 120 steps (Pendulum-v1, random), the
run folder of a PlannerModule that was stopped at step 6 of 12, the command that made it, the sums of the absolute
weights with which that commit ended the run, and an exported folder. To keep the file small, all weights were rounded
to powers of two before that commit went on with them.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import run_elsewhere

from vgp_lightning.cli import main
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

FIXTURE = Path(__file__).parent / "fixtures" / "made_by_0.1.tar.xz"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Unpack what version 0.1 made, and stand in its folder."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_version_0_1_resumes_in_its_folder_and_ends_as_it_did_there(made):
    command = json.loads((made / "words.json").read_text())
    checkpoint = made / "runs/planner/version_0/checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 6
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        main([*command, "--ckpt_path", "last"])
    finally:
        torch.set_num_threads(threads)
    ended = torch.load(checkpoint, weights_only=True)
    assert ended["global_step"] == 12
    sums = {name: float(weight.double().abs().sum()) for name, weight in ended["current_model_state"].items()}
    # Processors round differently: one without AVX-512 ended 3e-5 beside another.
    assert sums == {name: pytest.approx(value, rel=3e-4) for name, value in load(made / "expected.json").items()}


def load(path):
    return json.loads(path.read_text())


def test_a_config_of_version_0_1_repeats_its_run(made):
    main(["fit", "-c", "runs/planner/version_0/config.yaml", "--trainer.max_steps", "2"])
    assert (made / "runs/planner/version_1/checkpoints/last.ckpt").is_file()


def test_a_checkpoint_of_version_0_1_is_exported(made):
    main(["export", "--denoiser", "runs/planner/version_0/checkpoints/last.ckpt", "--output", "again"])
    plan = ValueGuidedPlannerPipeline.from_pretrained("again")(np.zeros(3))
    assert plan.actions.isfinite().all()


PLAN = """
import json, sys
{before}
import torch
torch.set_num_threads(1)
from diffusers import DiffusionPipeline
{load}
plans = []
for settings in json.loads(sys.argv[1]):
    plan = pipeline([0.5, -0.5, 1.0], generator=torch.Generator().manual_seed(7), **settings)
    plans.append([plan.actions.tolist(), plan.observations.tolist(), plan.values.tolist()])
print(json.dumps(plans))
"""
# Without guide_on: clean, whose first gradient was that of a plan without its conditions.
SETTINGS = [{}, {"n_guide_steps": 0}, {"sampler": "ddpm", "num_inference_steps": 8}]
THEIRS = {
    "before": 'sys.modules["vgp_lightning"] = None',
    "load": """
folder = "exported"
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
""",
}
OURS = {
    "before": "from vgp_lightning import ValueGuidedPlannerPipeline",
    "load": 'pipeline = ValueGuidedPlannerPipeline.from_pretrained("exported")',
}


def plans(made, how):
    return run_elsewhere(made, PLAN.format(**how), json.dumps(SETTINGS))


def test_a_folder_of_version_0_1_plans_by_this_package_as_by_the_code_that_it_carries(made):
    # Pendulum-v1 has 4 dimensions, so nothing is padded; the gradient is taken of 16 plans at least, then of 8.
    for theirs, ours in zip(plans(made, THEIRS), plans(made, OURS), strict=True):
        for part, other in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(other, part, rtol=1e-5, atol=1e-4)  # 2e-5 on one without AVX-512
