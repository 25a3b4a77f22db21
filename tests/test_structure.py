"""The structure of the package as CONTRIBUTING.md describes it: imports that go one way, and small files and functions.

Imports are read from the source, also those inside functions. Left out is `if TYPE_CHECKING` in gcvit_flax/__init__.py,
which lists the public names.
"""

import ast
import collections
import graphlib

import pytest
from small import ROOT

PACKAGE = ROOT / "gcvit_flax"

# The room of each module of the top level; a folder is a room by its own name, together with the folders in it.
ROOMS = {
    "base": (
        *("atomic", "cli", "config", "devices", "errors", "fields", "huge_pages", "references", "storage", "variants"),
    ),
    "inference": ("inference",),
    "tasks": ("classify", "export_stablehlo"),
    "programs": (
        "attention_maps",
        "convert_weights",
        "embed",
        "evaluate",
        "export",
        "plan",
        "predict",
        "probe",
        "summary",
        "train",
    ),
    "scripts": ("scripts",),
}

# The rooms that each room imports, from the bottom of the package to its top: none of them comes after it in this list.
ALLOWED = {
    "base": (),
    "data": ("base",),
    "model": ("base",),
    "inference": ("base", "model"),
    "visualize": ("base", "data", "model"),
    "weights": ("base", "data", "model"),
    "tasks": ("base", "data", "model", "inference", "weights"),
    "features": ("base", "data", "model", "inference"),
    "training": ("base", "data", "model", "inference", "weights"),
    "planning": ("base", "data", "model", "training"),
    "programs": (
        *("base", "data", "model", "inference", "visualize"),
        *("weights", "tasks", "features", "training", "planning"),
    ),
    "scripts": ("base", "programs"),
}

MAX_LINES = 200
MAX_FUNCTION_LINES = 60
# Where two rooms really need the same word, with the reason.
REPEATED_BASENAMES = {
    "plan.py": "gcvit-plan plans a run on other devices; training/plan.py has a run's plan of its steps",
    "summary.py": "gcvit-summary is of a network; training/report/summary.py of a run that has ended",
}


def module_name(path) -> str:
    """`gcvit_flax.data.crops` for gcvit_flax/data/crops.py, and the folder's name for an __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def imported_modules(name: str) -> set[str]:
    """The package's modules that a module imports, wherever in its source."""
    statements = TREES[name].body
    if name == "gcvit_flax":
        statements = [node for node in statements if not isinstance(node, ast.If)]
    found = set()
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import: write the module's whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {full if full in TREES else node.module for full in names}
    return {module for module in found if module.split(".")[0] == "gcvit_flax"}


def room(module: str) -> str:
    _, first, *rest = module.split(".")
    if rest or (PACKAGE / first).is_dir():
        return first
    (found,) = [name for name, modules in ROOMS.items() if first in modules] or ["without a room: add it to ROOMS"]
    return found


def test_no_module_imports_itself_through_others():
    graph = {module: imported_modules(module) for module in TREES}
    assert len(graph) > 80 and sum(map(len, graph.values())) > 300, "this test sees nothing"
    graphlib.TopologicalSorter(graph).prepare()  # Raises CycleError, with the modules of the circle.


def test_rooms_import_each_other_one_way():
    order = list(ALLOWED)
    for name, lower in ALLOWED.items():
        assert {*lower} <= {*order[: order.index(name)]}, "ALLOWED is not in the order of its arrows"
    arrows = collections.defaultdict(set)
    for module in TREES.keys() - {"gcvit_flax"}:
        for other in imported_modules(module) - {"gcvit_flax"}:
            arrows[room(module), room(other)].add(f"{module} -> {other}")
    found = {arrow: examples for arrow, examples in arrows.items() if arrow[0] != arrow[1]}
    allowed = {(name, other) for name, lower in ALLOWED.items() for other in lower}
    assert not {arrow: sorted(found[arrow]) for arrow in found.keys() - allowed}, "imports against the order of rooms"
    assert not allowed - found.keys(), "arrows of ALLOWED that no import needs any more: remove them"


def test_the_package_itself_is_imported_for_its_version_alone():
    """Its other names are imported from all rooms on first use, which the tests above would not see."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "gcvit_flax":
                names = {f"gcvit_flax.{alias.name}" for alias in node.names}
                assert names - {"gcvit_flax.__version__"} <= TREES.keys(), module
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gcvit_flax":
                assert node.attr == "__version__", f"{module}, line {node.lineno}: import from the module that has it"


def test_programs_are_imported_by_the_console_scripts_alone():
    programs = {f"gcvit_flax.{name}" for name in ROOMS["programs"]} | {"gcvit_flax.training.show_batch"}
    importers = {module for module in TREES if imported_modules(module) & programs}
    assert importers == {"gcvit_flax.scripts"}


@pytest.mark.parametrize("folder", ["gcvit_flax", "benchmarks", "examples"])
def test_files_and_functions_are_small(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        source = path.read_text()
        assert len(source.splitlines()) <= MAX_LINES, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"


def test_a_modules_name_is_used_once():
    counts = collections.Counter(path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    assert {name for name, count in counts.items() if count > 1} == REPEATED_BASENAMES.keys()
