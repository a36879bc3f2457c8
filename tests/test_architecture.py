"""The house: who may import whom, and how large a room may be."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gradchain
from gradchain import ChainOptimizer, optim_wrapper

ROOT = Path(gradchain.__file__).parent
FLOORS = ["_fields", "_declared", "types", "transforms", "chains", "optim_wrapper", "studies"]
SHARED_MATHEMATICS = {f"gradchain.transforms.{path.stem}" for path in (ROOT / "transforms").glob("_[a-z]*.py")}
FILES = sorted(ROOT.rglob("*.py"))


def floor(module):
    """How high a module stands; the package's own __init__ and __main__ stand above all."""
    part = module.removeprefix("gradchain").strip(".").partition(".")[0]
    return FLOORS.index(part) if part in FLOORS else len(FLOORS)


def imports(path):
    """All modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def own(path):
    return {module for module in imports(path) if module.partition(".")[0] == "gradchain"}


def name_of(path):
    return "gradchain." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert {module for module in own(path) if floor(module) > floor(name_of(path))} == set()


def loaded_by(path):
    """The modules that Python runs for the imports of a file, those inside functions and for type checkers included.

    To import ``a.b.c`` is to run ``a`` and ``a.b`` before it, unless the importing file is itself in them.
    """
    names = {name_of(other) for other in FILES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & names) | ({node.module} if inside - names else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    found &= names
    above = {".".join(module.split(".")[:depth]) for module in found for depth in range(2, module.count(".") + 1)}
    return found | {package for package in above if not name_of(path).startswith(f"{package}.")} - {name_of(path)}


def test_no_module_imports_itself_through_others():
    graph = TopologicalSorter({name_of(path): loaded_by(path) for path in FILES})
    graph.prepare()  # CycleError names the modules of a circle


def test_no_module_imports_the_package_that_it_is_in():
    inward = {name_of(path): {one for one in loaded_by(path) if name_of(path).startswith(f"{one}.")} for path in FILES}
    assert {name: packages for name, packages in inward.items() if packages} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "transforms").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_transforms_know_only_the_types_and_shared_mathematics(path):
    assert own(path) <= {"gradchain.types", *SHARED_MATHEMATICS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_outgrows_its_room(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize(
    "name", ["gradchain", *(f"gradchain.{p}" for p in ("transforms", "chains", "chains.presets", "optim_wrapper"))]
)
def test_what_a_package_gathers_it_exports_in_order(name):
    package = sys.modules[name]
    statements = [node for node in ast.walk(ast.parse(Path(package.__file__).read_text())) if isinstance(node, ast.ImportFrom)]
    gathered = {alias.name for node in statements for alias in node.names}
    assert gathered <= set(package.__all__) and package.__all__ == sorted(set(package.__all__))


def test_every_preset_class_is_exported():
    classes = {cls for cls in vars(optim_wrapper.presets).values() if isinstance(cls, type)} - {ChainOptimizer}
    assert {cls for cls in classes if issubclass(cls, ChainOptimizer)} <= {
        getattr(optim_wrapper, name) for name in optim_wrapper.__all__
    }


def test_the_core_needs_torch_and_typing_extensions_alone():
    needed = {module.partition(".")[0] for path in FILES if "studies" not in path.parts for module in imports(path)}
    assert needed - set(sys.stdlib_module_names) == {"gradchain", "torch", "typing_extensions"}
