"""The house: who may import whom, and how large a room may be."""

import ast
import sys
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
    upward = {module for module in own(path) if floor(module) > floor(name_of(path))}
    convenience = {"gradchain.optim_wrapper"} if path.name in ("chain.py", "partition.py") else set()  # .optimizer()
    assert upward == convenience


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
