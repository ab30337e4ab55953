"""README's and the notebooks' code runs as it is printed."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import settings
import torch
import troubleshooting
from diffusers import DDPMScheduler
from nbclient import NotebookClient

from vgp_lightning import cli
from vgp_lightning.agent import collection as collect
from vgp_lightning.data import describing
from vgp_lightning.diagnostics import diagnosis as diagnostics
from vgp_lightning.distillation import criticism, distillation
from vgp_lightning.evaluation import comparison, evaluation, publishing
from vgp_lightning.export import program_folder
from vgp_lightning.export import trained as export
from vgp_lightning.pipeline.joining import join_pipeline
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import DEFAULTS
from vgp_lightning.play import server
from vgp_lightning.recordings import importing
from vgp_lightning.tuning import search as tuning

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("vgp ")]


SLOW = {
    "2_how_a_plan_denoises.ipynb",
    "3_goals_and_rules.ipynb",
    "4_your_own_environment.ipynb",
    "5_reading_a_diagnosis.ipynb",
}


@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(path.name, marks=[pytest.mark.slow] if path.name in SLOW else [])
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    ],
)
def test_each_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # the home may be missing
    content = nbformat.read(ROOT / "notebooks" / notebook, as_version=4)
    NotebookClient(
        content, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


@pytest.mark.parametrize("notebook", sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_notebooks_are_stored_as_they_ran_with_small_output(notebook):
    path = ROOT / "notebooks" / notebook
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    again = "run `python docs/notebooks.py`"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), again
    assert path.stat().st_size < 200_000
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), again
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs), again
    printed = "".join(output.get("text", "") for output in outputs)
    assert str(Path.home()) not in printed
    assert "/tmp/" not in printed


def test_the_python_of_the_readme_runs_as_printed(tmp_path):
    folder = tmp_path / "exports" / "hopper"
    torch.manual_seed(0)
    ValueGuidedPlannerPipeline(
        make_denoiser(14, 16, [16, 64]),
        DDPMScheduler(20, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False),
        make_value_function(14, 16, [16, 64]),
        normalization={
            "action_dim": 3,
            "shift": [0.0] * 14,
            "scale": [1.0] * 14,
            "return_shift": 0.0,
            "return_scale": 1.0,
            "action_low": [-1.0] * 3,
            "action_high": [1.0] * 3,
        },
        planner={"planning_horizon": 16, "batch_size": 2, "sampler": "ddim", "num_inference_steps": 2},
    ).save_pretrained(folder)
    (folder / "pipeline.py").write_text(join_pipeline())
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    script = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 16, 3]) torch.Size([1, 16, 11])" in done.stdout


@pytest.mark.parametrize("command", commands())
def test_each_vgp_command_of_the_readme_is_understood(command, monkeypatch):
    called = []
    for module, name in (
        *((collect, "collect"), (export, "export"), (evaluation, "evaluate"), (comparison, "compare")),
        *((tuning, "tune"), (diagnostics, "diagnose"), (distillation, "distill"), (criticism, "train_critic")),
        *((program_folder, "make_program"), (server, "play"), (publishing, "publish")),
        *((importing, "import_data"), (describing, "describe")),
    ):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, functools.wraps(function)(lambda **options: called.append(options)))
    monkeypatch.chdir(ROOT)
    _, verb, *options = shlex.split(command)
    if verb == "fit":
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, *options, "--print_config"])
        assert ended.value.code == 0
    else:
        cli.main([verb, *options])
        assert len(called) == 1


def test_the_table_of_settings_in_planning_md_is_that_of_their_definition():
    page = settings.PAGE.read_text()
    assert page == settings.put(settings.make_table(), page), "a setting has changed: run `python docs/settings.py`"


def test_the_messages_in_troubleshooting_md_are_those_of_the_table_of_wrong_uses():
    page = troubleshooting.PAGE.read_text()
    made = troubleshooting.put(troubleshooting.make_list(), page)
    assert page == made, "a message has changed: run `python docs/troubleshooting.py`"


def test_the_table_of_settings_shows_defaults_ranges_and_choices():
    rows = {line.split("`")[1]: line for line in settings.make_table().splitlines()[2:]}
    assert list(rows) == list(DEFAULTS)
    assert rows["batch_size"].startswith("| `batch_size` | 64 | 1 | whole number from 1 to 65536 | K, ")
    assert rows["max_grad_norm"].startswith("| `max_grad_norm` | None |  | number >= 0, None | ")
    assert " | None | `ddim` | None, `ddpm`, `ddim`, `dpmsolver`, `unipc` | " in rows["sampler"]
    assert " | 1 |  | whole number from 0 to `planning_horizon` | " in rows["replan_every"]
    assert " | whole number from 1 to the training's noise levels, None | " in rows["num_inference_steps"]
    assert " | 0.1 |  | number | " in rows["scale"]


def test_each_make_target_of_the_readme_exists():
    targets = re.findall(r"^make ([\w-]+)", "\n".join(blocks("bash")), flags=re.MULTILINE)
    assert {"demo", "test", "install", "lint"} <= set(targets)
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
