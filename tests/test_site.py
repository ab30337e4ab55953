"""The site's pages: each is in a table of contents, links lead somewhere, and what a page names is there."""

import functools
import inspect
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import config_index
import pytest
import torch
from diffusers import DDPMScheduler

from vgp_lightning import cli
from vgp_lightning.cli.verbs import VERBS
from vgp_lightning.export.folder import join_pipeline
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FUNCTION = re.compile(r"\[`([\w.]+)\(([^)]*)\)`\]\(\.\./(vgp_lightning/[\w/]+)\.py\)")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def without_code(text):
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """Return the anchors of a page's headings, as the repository's host and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---------------------------------------------------------------- contents and links


def test_each_page_and_each_notebook_is_in_a_table_of_contents():
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    listed = {line for table in tables for line in table.splitlines() if line and not line.startswith(":")}
    notebooks = {f"../notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {name.removesuffix(".md") for name in PAGES} - {"index"} | notebooks <= listed
    missing = [name for name in listed if not list((DOCS / name).parent.glob(f"{Path(name).name}.*"))]
    assert missing == []


@pytest.mark.parametrize(
    "file", [*(DOCS / page for page in PAGES), *sorted(ROOT.glob("*.md"))], ids=lambda file: file.name
)
def test_the_links_of_a_page_lead_to_files_and_headings_of_the_repository(file):
    text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in LINK.findall(text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = file.parent / name if name else file
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


# ---------------------------------------------------------------- mathematics


@pytest.mark.parametrize(
    ("name", "arguments", "file"), FUNCTION.findall((DOCS / "mathematics.md").read_text()), ids=lambda text: text[:40]
)
def test_a_function_that_the_mathematics_page_names_is_there_with_these_arguments(name, arguments, file):
    function = import_module(file.replace("/", "."))
    for part in name.split("."):
        function = getattr(function, part)
    assert Path(inspect.getsourcefile(inspect.unwrap(function))) == ROOT / f"{file}.py"
    parameters = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    assert parameters == [argument.strip() for argument in arguments.split(",")]


def test_the_mathematics_page_names_what_the_paper_computes():
    names = {name for name, _, _ in FUNCTION.findall((DOCS / "mathematics.md").read_text())}
    assert names >= {
        *("TrajectoryModule.noised", "DenoiserModule.loss", "posterior_variance", "Guidance.climb", "pin", "choose"),
        *("ValueModule.training_loss", "discounted_returns", "place_warm_start"),
    }


# ---------------------------------------------------------------- code


def test_the_python_of_the_pages_runs_as_printed(tmp_path):
    write_tiny(tmp_path / "exports" / "first")
    environment = os.environ | {"MINARI_DATASETS_PATH": str(tmp_path / "datasets"), "HF_HUB_OFFLINE": "1"}
    pages = ("mathematics.md", "stages.md", "start.md", "api.md")
    script = "\n".join(block for page in pages for block in blocks(page, "python"))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def write_tiny(folder):
    """Write a folder of untrained networks of the Hopper's sizes."""
    torch.manual_seed(0)
    statistics = {"action_dim": 3, "shift": [0.0] * 14, "scale": [1.0] * 14, "return_shift": 0.0, "return_scale": 1.0}
    ValueGuidedPlannerPipeline(
        make_denoiser(14, 16, [16, 64]),
        DDPMScheduler(20, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False),
        make_value_function(14, 16, [16, 64]),
        normalization=statistics | {"action_low": [-1.0] * 3, "action_high": [1.0] * 3},
        planner={"planning_horizon": 16, "batch_size": 2, "sampler": "ddim", "num_inference_steps": 2},
    ).save_pretrained(folder)
    (folder / "pipeline.py").write_text(join_pipeline())


def commands():
    """Return the vgp commands of README and of all pages, each once."""
    found = {}
    for page in ("../README.md", *PAGES):
        for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
            if "vgp " in line and not line.startswith(("#", "pip")):
                command = line.split("#")[0].split("vgp ", 1)[1].rstrip().removesuffix('"')
                found.setdefault(command, page)
    return [command for command in found if not command.startswith("--")]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_a_page_is_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("data: {dataset_id: me/own-v0}\n")  # which `vgp describe --output` writes
    verb, *options = shlex.split(command)
    entry, called = VERBS[verb], []
    module = import_module(f"vgp_lightning.{entry.module}")
    if entry.own_parser:
        options = [option for option in options if option not in ("--ckpt_path", "last")]
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, *options, "--print_config"])
        assert ended.value.code == 0
        return
    function = getattr(module, entry.function)
    monkeypatch.setattr(module, entry.function, functools.wraps(function)(lambda **given: called.append(given)))
    cli.main([verb, *options])
    assert len(called) == 1


def test_the_index_of_configs_has_their_first_lines():
    page = config_index.PAGE.read_text()
    made = config_index.put(config_index.make_index(), page)
    assert page == made, "a config has changed: run `python docs/config_index.py`"
    assert all(f"[{path.relative_to(ROOT / 'configs')}]" in page for path in (ROOT / "configs").rglob("*.yaml"))


# ---------------------------------------------------------------- the site itself


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("sphinx", reason="make docs installs it")
    built = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", tmp_path / "site" / "html"]
    done = subprocess.run(built, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.html"))
    assert (
        re.findall(r'<(?:script|img|iframe)[^>]*src="http[^"]*"|<link[^>]*stylesheet[^>]*href="http[^"]*"', pages) == []
    )
    assert "PlanningAgent" in (tmp_path / "site" / "html" / "docs" / "api.html").read_text()
