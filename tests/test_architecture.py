"""The shape of the house: which package may import which, what the build half must not need, file lengths, names."""

import ast
import fnmatch
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

PACKAGES = ("configs", "pipelines", "model", "eval")
MAY_IMPORT = {
    "configs": {"configs"},
    "pipelines": {"configs", "pipelines"},
    "model": {"configs", "model"},
    "eval": {"configs", "pipelines", "model", "eval"},
    "train.py": {"configs", "pipelines", "model", "eval"},
    "denseav.py": {"model", "eval"},
    "hubconf.py": {"denseav", "model"},
}
TOP_LEVEL = ("train.py", "denseav.py", "hubconf.py")
SOURCES = [
    *sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")),
    *(ROOT / name for name in TOP_LEVEL),
]
BUILD_HALF = [p for p in SOURCES if p.parts[-2] in ("sources", "build", "download") or p.parent.name == "pipelines"]


def _imports(path: Path) -> set[str]:
    """Names of all modules imported anywhere in a file, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    top = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in _imports(path)} & {*PACKAGES, "train", "denseav", "hubconf", "tests"}
    assert ours <= MAY_IMPORT[top], f"{path} imports {ours - MAY_IMPORT[top]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is_and_stays_short(path):
    tree = ast.parse(path.read_text())
    assert len((ast.get_docstring(tree) or "").strip()) > 20, f"{path} has no module docstring"
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem not in {"utils", "util", "common", "helpers", "misc"}


@pytest.mark.parametrize("path", BUILD_HALF, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_build_half_needs_no_torch(path):
    heavy = {"torch", "torchvision", "torchaudio", "timm", "accelerate", "peft", "transformers"}
    assert not {name.split(".")[0] for name in _imports(path)} & heavy
    assert not any(name.startswith("pipelines.stream") for name in _imports(path))


def _imported_modules(tree: ast.Module, modules: set[str]) -> set[str]:
    """Our modules that a file imports, in functions too, without those that only a type checker imports."""
    nodes = list(ast.walk(tree))
    type_checking = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    skipped = {node for block in type_checking for statement in block.body for node in ast.walk(statement)}
    found = set()
    for node in nodes:
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from model import hub` imports the module model.hub, `from model.hub import load` a name of model.hub.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= modules else names | {node.module}
    return found & modules


def _find_cycle(imports: dict[str, set[str]]) -> str:
    """A cycle of imports as `a -> b -> a`; empty if there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


@functools.cache
def _module_imports() -> dict[str, set[str]]:
    names = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    trees = {name: ast.parse(path.read_text()) for name, path in names.items()}
    return {name: _imported_modules(tree, set(names)) for name, tree in trees.items()}


def test_import_cycle_search_covers_function_imports_and_ignores_type_checking_imports():
    tree = ast.parse("""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import model.a
def late():
    from model import b
    from model.c import name
    import torch
""")
    assert _imported_modules(tree, {"model", "model.a", "model.b", "model.c"}) == {"model.b", "model.c"}
    assert _find_cycle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}) == ""
    assert _find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) in ("b -> c -> b", "c -> b -> c")


@pytest.mark.parametrize("package", [*PACKAGES, "all packages"])
def test_no_import_cycles(package):
    imports = _module_imports()
    inside = {name for name in imports if name.split(".")[0] == package or package == "all packages"}
    assert not _find_cycle({name: imports[name] & inside for name in inside})


def test_tests_are_flat_and_no_package_so_that_none_hides_ours():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_public_function_of_the_model_and_the_evaluation_has_a_docstring():
    missing = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in ("model", "eval")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not missing


def test_pytest_enters_every_folder_of_tests(pytestconfig):
    patterns = pytestconfig.getini("norecursedirs")
    folders = {folder.name for folder in (ROOT / "tests").rglob("*") if folder.is_dir()}
    assert {"build", "stream"} <= folders
    assert not [name for name in folders for pattern in patterns if fnmatch.fnmatch(name, pattern)]


COMMANDS = [
    "pipelines.toy_world",
    "pipelines.build",
    "pipelines.download",
    "pipelines.verify",
    "pipelines.inspect",
    "pipelines.doctor",
    "pipelines.stream.index",
    "eval.run",
    "eval.render",
    "eval.app",
    "eval.search",
    "eval.parity",
    "eval.report",
    "eval.ablate",
    "eval.workspace",
    "model.convert",
    "model.export",
    "train",
]
SHOW_HELP = """
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module({command!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code
print("HEAVY", *sorted({{"torch", "av", "torchaudio", "timm", "matplotlib", "decord"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_heavy_import(command):
    done = subprocess.run(
        [sys.executable, "-c", SHOW_HELP.format(command=command)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "HEAVY"
    assert "keys" in done.stdout
