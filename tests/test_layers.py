"""Who may import whom: a table of rooms, and the rules beside it. docs/rooms.py reads the imports."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
import rooms
from jsonargparse import ArgumentParser
from rooms import FILES, ROOMS, imports, imports_of_ours, parsed, unit

import vgp_lightning
from vgp_lightning.cli.verbs import VERBS, function_of
from vgp_lightning.pipeline.joining import join_pipeline

MAY_IMPORT = {
    # the rooms, in floors
    "data": set(),
    "pipeline": set(),
    "report": set(),
    "recordings": {"data"},
    "training": {"data", "pipeline", "report"},
    # data: a collection writes a dataset; report: films of episodes; shipped: the example planner
    "agent": {"pipeline", "data", "report", "shipped"},
    "export": {"training", "pipeline", "report"},
    "evaluation": {"agent", "export", "pipeline", "report"},  # export: the card; pipeline: the settings
    # data: recorded states; training: the habit's module; export: it goes into the folder
    "distillation": {"data", "training", "agent", "export", "pipeline", "report"},
    "play": {"agent", "pipeline", "report"},  # pipeline: the settings
    "diagnostics": {"agent", "pipeline", "data", "report"},  # data: returns, as training computes them
    "tuning": {"evaluation", "agent", "export", "pipeline", "report"},  # export: the winner goes into the folder
    # It names its verbs as text. agent: the threads; the others: small parts of what verbs do, for dry runs
    "cli": {"agent", "data", "demo", "distillation", "evaluation", "export", "report", "shipped", "training"},
    # the files beside them
    "demo": {"agent", "evaluation", "export", "pipeline", "report", "shipped"},  # pipeline: one plan's settings
    "callbacks": {"training"},  # the old door
    "__main__": {"cli"},
    "__init__": set(),
    "shipped": set(),
}
# ---------------------------------------------------------------- rooms


def test_the_table_names_no_room_that_is_not_used():
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for file in FILES:
        used[unit(file)] |= {unit(other) for other in imports_of_ours(parsed(file), file)} - {unit(file)}
    assert used == MAY_IMPORT


def test_every_file_stands_in_a_room_of_the_table_and_rooms_have_no_rooms_inside():
    assert {unit(file) for file in FILES} == set(MAY_IMPORT)
    assert [file for file in FILES if file.count("/") > 1] == []


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_from_the_rooms_that_its_own_may_use(file):
    used = {unit(other) for other in imports_of_ours(parsed(file), file)} - {unit(file)}
    assert used - MAY_IMPORT[unit(file)] == set()


@pytest.mark.parametrize(
    "source",
    [
        "from vgp_lightning.export import folder",
        "from vgp_lightning.export.folder import write_folder",
        "import vgp_lightning.export.folder as f",
        "def late():\n    from vgp_lightning.export.folder import write_folder",
    ],
)
def test_an_arrow_is_seen_however_it_is_written(source):
    assert imports_of_ours(ast.parse(source), "cli.py") == {"export/folder.py"}


@pytest.mark.parametrize("source", ["from vgp_lightning.export import export", "from vgp_lightning import export"])
def test_a_door_is_told_from_a_file(source):
    assert imports_of_ours(ast.parse(source), "cli.py") == {"export"}


@pytest.mark.parametrize("file", FILES)
def test_inside_the_package_files_are_imported_and_never_doors(file):
    assert [other for other in imports_of_ours(parsed(file), file) if not other.endswith(".py")] == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_files_of_a_room_import_each_other_in_no_circle(room):
    files = [file for file in FILES if file.startswith(f"{room}/")]
    arrows = {file: {other for other in imports_of_ours(parsed(file), file) if other in files} for file in files}
    list(TopologicalSorter(arrows).static_order())  # which raises where there is one


# ---------------------------------------------------------------- the drawing


def test_the_drawing_in_contributing_shows_the_rooms_and_imports_as_they_are():
    page = (rooms.ROOT / "CONTRIBUTING.md").read_text()
    assert page == rooms.put(rooms.draw(), page), "the imports have changed: run `python docs/rooms.py`"


def test_a_room_is_drawn_one_floor_above_the_highest_that_it_uses():
    assert rooms.floors({"c": {"a", "b"}, "b": {"a"}, "a": set()}) == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(CycleError):
        rooms.floors({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize(("used", "line"), [("pipeline", [["▼"]]), ("data", [])])
def test_a_line_is_drawn_between_neighbours_only_if_the_upper_uses_the_lower(monkeypatch, used, line):
    monkeypatch.setattr(rooms, "ROOMS", ["agent", "data", "pipeline"])
    monkeypatch.setattr(rooms, "COLUMNS", (("data",), ("pipeline", "agent")))
    monkeypatch.setattr(rooms, "arrows", lambda: {"agent": {used}, "data": set(), "pipeline": set()})
    plan = rooms.draw().split("```")[1].splitlines()
    drawn = [words for words in map(str.split, plan) if words]
    assert drawn == [["floor", "1", "agent"], *line, ["ground", "floor", "data", "pipeline"]]


def test_two_rooms_in_one_place_are_refused(monkeypatch):
    monkeypatch.setattr(rooms, "COLUMNS", (tuple(ROOMS),))
    with pytest.raises(ValueError, match="COLUMNS"):
        rooms.draw()


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_names_a_function_that_is_there(verb):
    assert callable(function_of(verb))


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("cli/")])
def test_the_command_line_imports_torch_and_its_like_inside_its_verbs_only(file):
    heavy = {"torch", "lightning", "diffusers", "minari", "gymnasium"}
    top = ast.Module([node for node in parsed(file).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert {module.split(".")[0] for module, _ in imports(top)} & heavy == set()


# ---------------------------------------------------------------- doors

FACE = [
    *("MinariDataModule", "Plan", "PlanningAgent", "PositionController", "ValueGuidedPlannerPipeline"),
    *("__version__", "example_planner"),
]
# Where users have found things up to version 0.1, and configs and checkpoints name them.
PATHS = {
    "pipeline": ["ValueGuidedPlannerPipeline", "Plan", "StockEnvironment"],
    "agent": ["PlanningAgent", "PositionController", "make_environments", "rollout"],
    "training": ["DenoiserModule", "ValueModule", "PlannerModule"],
    "cli": ["main"],
    "callbacks": ["PlanPicture", "CalibrationPicture", "Throughput"],
    "data": ["MinariDataModule"],
    "evaluation": ["evaluate"],
    "export": ["export"],
    "tuning": ["tune"],
    "diagnostics": ["diagnose"],
}


def loaded_by(code):
    """Return the packages that a fresh process has loaded after some code."""
    report = "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_face_has_the_nouns_and_loads_torch_when_one_is_asked_for():
    nouns = "import vgp_lightning; assert set(dir(vgp_lightning)) == set(vgp_lightning.__all__) == set(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", f"import sys; {nouns}", *FACE[:-2], FACE[-1]], check=True)
    assert "torch" not in loaded_by("import vgp_lightning; vgp_lightning.__version__; dir(vgp_lightning)")
    assert "torch" in loaded_by(f"from vgp_lightning import {', '.join(FACE)}")


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PATHS.items() for name in names])
def test_the_paths_that_users_have_stay(module, name):
    assert callable(getattr(import_module(f"vgp_lightning.{module}"), name))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_no_door_of_the_name_of_one_of_its_files(room):
    files = {Path(file).stem for file in FILES if file.startswith(f"{room}/")}
    assert files & set(getattr(import_module(f"vgp_lightning.{room}"), "__all__", [])) == set()


@pytest.mark.parametrize("kind", ["DenoiserModule", "ValueModule", "PlannerModule", "PlanPicture", "Throughput"])
def test_configs_go_on_naming_modules_and_callbacks_by_their_room(kind):
    parser = ArgumentParser()
    parser.add_argument("--kind", type=type)
    saved = parser.dump(parser.parse_object({"kind": getattr(import_module("vgp_lightning.training"), kind)}))
    assert saved == f"kind: vgp_lightning.training.{kind}\n"


def test_who_has_a_folder_needs_neither_lightning_nor_minari():
    modules = ("agent.deployment", "evaluation.evaluation", "tuning.search", "diagnostics.diagnosis")
    loaded = loaded_by("; ".join(f"import vgp_lightning.{module}" for module in modules))
    assert loaded & {"lightning", "minari"} == set()
    assert {"torch", "gymnasium"} <= loaded


def test_the_help_of_all_verbs_loads_nothing_heavy():
    heavy = {"torch", "lightning", "diffusers", "minari", "gymnasium", "jsonargparse", "numpy"}
    heavy |= {"argparse", "ast", "dataclasses", "email", "inspect"}  # of Python itself: together half of its time
    assert loaded_by("from vgp_lightning.cli import main; main(['--help'])") & heavy == set()


def test_the_configs_are_listed_without_loading_anything_heavy():
    heavy = {"torch", "lightning", "diffusers", "minari", "gymnasium", "jsonargparse", "numpy"}
    assert loaded_by("from vgp_lightning.cli import main; main(['configs', 'planner.yaml'])") & heavy == set()


@pytest.mark.parametrize("module", ["vgp_lightning", "vgp_lightning.cli"])  # the second is what torchrun starts
def test_the_package_and_its_room_are_the_command_line(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"vgp_lightning {vgp_lightning.__version__}")


# ---------------------------------------------------------------- what travels

TRAVELLING = [file for file in FILES if file.startswith("pipeline/") and not file.endswith("__init__.py")]


@pytest.mark.parametrize("file", TRAVELLING)
def test_what_travels_with_an_export_needs_numpy_torch_and_diffusers_with_its_hub_alone(file):
    roots = {module.split(".")[0] for module, _ in imports(parsed(file)) if not module.startswith(".")}
    # diffusers cannot be installed without huggingface_hub.
    assert roots - set(sys.stdlib_module_names) <= {"numpy", "torch", "diffusers", "huggingface_hub"}


@pytest.mark.parametrize("file", FILES)
def test_imports_are_relative_where_a_file_travels_and_absolute_elsewhere(file):
    modules = [module for module, _ in imports(parsed(file))]
    relative = [module for module in modules if module.startswith(".")]
    assert relative == [] if file not in TRAVELLING else not any(module.startswith("vgp_") for module in modules)


def definitions(tree):
    """Return the names that a file defines at its top, and what its imports call by which name."""
    defined, imported = [], {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        else:
            defined += [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return set(defined), imported


def test_the_files_that_travel_can_be_one():
    # They import names of each other at the top, under the names that they have there; no name means two things.
    seen, meant = {}, {}
    for file in TRAVELLING:
        tree = parsed(file)
        relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        assert all(node in tree.body and not any(alias.asname for alias in node.names) for node in relative)
        defined, imported = definitions(tree)
        for name in defined:
            assert seen.setdefault(name, file) == file, f"{name} stands in {file} and in {seen[name]}"
        for name, source in imported.items():
            assert meant.setdefault(name, source) == source, f"{name} is {source} in {file}, {meant[name]} elsewhere"
    assert seen.keys() & meant.keys() == set()


def test_the_joined_file_holds_all_of_them_and_compiles():
    text = join_pipeline()
    compile(text, "pipeline.py", "exec")
    assert all(f"\n# {'-' * 16} {Path(file).name}\n" in text for file in TRAVELLING)
    assert not [module for module, _ in imports(ast.parse(text)) if module.startswith(".")]
