"""Who may import whom. The package is flat; these arrows are its architecture."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import pytest

from vgp_lightning import cli
from vgp_lightning.folder import join_pipeline

PACKAGE = Path(__file__).parent.parent / "vgp_lightning"
MAY_IMPORT = {
    "__init__": set(),
    "normalizer": set(),
    "sampling": set(),
    "inference": set(),
    "guidance": {"inference"},
    "settings": {"guidance", "sampling"},
    "pipeline": {"guidance", "inference", "sampling", "settings"},
    "rendering": set(),
    "figures": set(),
    "mazes": {"figures"},
    "reports": set(),
    "episodes": set(),
    "networks": {"settings"},  # the horizons' rule
    "windows": {"episodes"},
    "data": {"episodes", "normalizer", "statistics", "windows"},
    "acceleration": {"inference"},
    "learning": {"acceleration", "data", "networks", "windows"},
    "training": {"learning", "networks", "windows"},
    "checkpoints": set(),
    "health": {"checkpoints", "learning", "windows"},
    "fitting": {"acceleration", "callbacks", "checkpoints", "data", "health", "learning", "training"},
    "agent": {"pipeline"},
    "behaviours": {"agent", "pipeline"},
    "collect": {"agent", "behaviours"},
    "statistics": set(),
    "deployment": {"agent", "pipeline"},
    "evaluation": {"agent", "deployment", "figures", "pipeline", "rendering", "reports", "statistics"},
    "comparison": {"reports", "statistics"},
    "recordings": {"agent", "pipeline", "rendering"},
    "measures": {"agent", "pipeline", "recordings", "statistics"},
    "findings": {"agent", "figures", "mazes", "measures", "pipeline", "recordings", "rendering", "statistics"},
    "diagnostics": {"agent", "deployment", "figures", "findings", "mazes", "recordings", "rendering", "reports"},
    "folder": {"pipeline"},
    "space": {"pipeline", "settings"},
    "halving": set(),
    "tuning": {
        *("agent", "comparison", "deployment", "evaluation", "figures", "folder", "halving", "pipeline", "reports"),
        *("space", "statistics"),
    },
    "export": {"folder", "training", "pipeline", "networks"},
    "original_checkpoint": {"networks", "training"},
    "original": {"original_checkpoint", "folder", "networks", "pipeline"},
    "callbacks": {"figures", "learning", "training", "pipeline", "statistics", "windows"},
    "demo": {"shipped", "agent", "behaviours", "collect", "evaluation", "export", "figures", "reports", "pipeline"},
    "shipped": set(),
    "cli": set(),  # it names its verbs as text
}
TRAVELLING = {"pipeline", "settings", "sampling", "guidance", "inference"}  # joined to one file in every export
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(tree):
    """Return (module, names) of every import, whatever function it stands in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level + (node.module or ""), [alias.name for alias in node.names])


def imports_of_ours(tree):
    """Return the modules of the package that are imported."""
    found = set()
    for module, names in imports(tree):
        if module.startswith("."):
            found.add(module.removeprefix("."))
        elif module == "vgp_lightning":
            assert names, "import the module that is meant, not the package"
            found |= set(names)
        elif module.startswith("vgp_lightning."):
            found.add(module.split(".")[1])
    return found


def parsed(name):
    return ast.parse((PACKAGE / f"{name}.py").read_text())


def test_the_package_is_flat_and_every_module_stands_in_the_table():
    assert set(MODULES) == set(MAY_IMPORT)
    assert [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_lies_below_it(name):
    assert imports_of_ours(parsed(name)) - MAY_IMPORT[name] == set()


@pytest.mark.parametrize(
    "source",
    [
        "from vgp_lightning.export import export",
        "from vgp_lightning import export",
        "import vgp_lightning.export as e",
        "def late():\n    from vgp_lightning.export import export",
    ],
)
def test_an_arrow_is_seen_however_it_is_written(source):
    assert imports_of_ours(ast.parse(source)) == {"export"}


@pytest.mark.parametrize("verb", cli._VERBS)
def test_a_verb_names_a_function_that_is_there(verb):
    entry = cli._VERBS[verb]
    assert callable(getattr(import_module(f"vgp_lightning.{entry.module}"), entry.function))


def test_the_command_line_imports_the_package_and_torch_inside_its_verbs_only():
    heavy = {"torch", "lightning", "diffusers", "minari", "gymnasium", "jsonargparse", "vgp_lightning"}
    top = ast.Module([node for node in parsed("cli").body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert {module.split(".")[0] for module, _ in imports(top)} & heavy == set()


def test_what_travels_with_an_export_needs_numpy_torch_and_diffusers_alone():
    for name in TRAVELLING:
        roots = {module.split(".")[0] for module, _ in imports(parsed(name)) if not module.startswith(".")}
        assert roots - set(sys.stdlib_module_names) <= {"numpy", "torch", "diffusers"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_are_relative_where_a_file_travels_and_absolute_elsewhere(name):
    modules = [module for module, _ in imports(parsed(name))]
    relative = [module for module in modules if module.startswith(".")]
    assert relative == [] if name not in TRAVELLING else not any(module.startswith("vgp_") for module in modules)


def definitions(tree):
    """Return the names that a file defines at its top, and what its imports call by which name."""
    defined, imported = [], {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        else:
            defined += [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return set(defined), imported


def test_the_files_that_travel_can_be_one():
    # All imports of each other are of names, in one line each at the top, under the names that they have there.
    seen, meant = {}, {}
    for name in TRAVELLING:
        tree = parsed(name)
        relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        assert all(node in tree.body and not any(alias.asname for alias in node.names) for node in relative)
        defined, imported = definitions(tree)
        for one in defined:
            assert seen.setdefault(one, name) == name, f"{one} stands in {name} and in {seen[one]}"
        for one, source in imported.items():
            if source[0] not in TRAVELLING:
                assert meant.setdefault(one, source) == source, f"{one} is {source} in {name}, {meant[one]} elsewhere"
    assert seen.keys() & meant.keys() == set()


def test_the_joined_file_holds_all_of_them_and_compiles():
    text = join_pipeline()
    compile(text, "pipeline.py", "exec")
    assert all(f"\n# {'-' * 16} {name}.py\n" in text for name in TRAVELLING)
    assert not [module for module, _ in imports(ast.parse(text)) if module.startswith(".")]
