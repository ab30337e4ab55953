"""What pyproject.toml and constraints.txt promise about dependencies."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import constraints
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(TEXT)["project"]
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]


def names(requirements):
    return {canonicalize_name(requirement.name) for requirement in requirements}


def imported(folder):
    """Return the distributions whose packages a folder's files import."""
    roots = set()
    # The programs in tests/fixtures/formats were run in environments of their own, with other libraries.
    for path in set((ROOT / folder).rglob("*.py")) - set((ROOT / "tests/fixtures").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots.add(node.module.split(".")[0])
    distributions = packages_distributions()
    ours = {"vgp_lightning", "benchmarks"} | {
        path.stem for name in ("tests", "docs") for path in (ROOT / name).glob("*.py")
    }
    third_party = roots - set(sys.stdlib_module_names) - ours
    # mujoco is three distributions that share a package; the one of its name brings the others.
    return {
        canonicalize_name(distribution)
        for root in third_party
        # What is not installed, such as the browser's driver, has the name of its package.
        for distribution in ([root] if root in distributions.get(root, [root]) else distributions[root])
    }


def pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("requirement", [*NEEDED, *EXTRAS], ids=str)
def test_the_constraints_hold_a_version_within_the_bounds_of_every_dependency(requirement):
    assert pinned()[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_constraints_are_the_versions_of_the_lock():
    lock = (ROOT / "requirements-all.lock").read_text()

    assert (ROOT / "constraints.txt").read_text() == constraints.constraints(lock, TEXT)
    locked = {line.split("==")[0] for line in lock.splitlines() if "==" in line.split(";")[0]}
    assert locked | {"torch"} == set(pinned())


def entries(lock):
    return (ROOT / lock).read_text().replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-all.lock"])
def test_each_entry_of_a_lock_has_a_hash(lock):
    assert len(entries(lock)) > 100
    assert [entry for entry in entries(lock) if not re.search(r" --hash=sha256:[0-9a-f]{64}\b", entry)] == []


def test_what_make_install_takes_is_a_part_of_all_and_leaves_out_what_a_newcomer_need_not_wait_for():
    part, everything = ({entry.split()[0] for entry in entries(f"requirements{end}.lock")} for end in ("", "-all"))
    assert part < everything
    assert {entry.split("==")[0] for entry in everything - part} >= {"gradio", "playwright", "sphinx"}


def test_the_package_declares_what_it_imports_and_nothing_else():
    assert imported("vgp_lightning") == names(NEEDED)


def test_the_tests_and_the_benchmarks_import_what_is_declared():
    assert imported("tests") | imported("benchmarks") <= names(NEEDED) | names(EXTRAS)


def test_every_dependency_of_the_package_has_its_reason_beside_it_and_every_upper_bound_too():
    block = TEXT.split("dependencies = [\n")[1].split("\n]\n")[0]
    entries = re.findall(r'^    ("[^\n]*(?:\n {6,}#[^\n]*)*)', block, flags=re.MULTILINE)
    assert len(entries) == len(NEEDED)
    for entry in entries:
        assert re.search(r'",\s+# \S', entry), entry
        bound = re.search(r",(<[\d.]+)", entry)
        assert bound is None or f"# {bound[1]}: " in entry, entry
