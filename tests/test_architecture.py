"""The shape of the code is a tested property: arrows, packages, public names, size."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgert

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
FOLDERS = {"edgert": "edgert", "edgert.export": "export", "edgert.devices": "devices"}

# The runtime's rooms (folders, or files that stand alone), from the command line down to the errors: a module
# imports from its own room and from those on floors below.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"serve"},
    {"batch", "bench", "chat", "compare"},
    {"model"},
    {"answering", "machine", "settings", "shelf"},
    {"engine", "text"},
    {"home", "saving", "file_lock", "devices", "toml_text"},
    {"bundle"},
    {"errors"},
    {"installation", "suggestion"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Of the runtime, the exporter uses the contract and what computes and reads text; devices only the contract.
CONTRACT = {"__version__", "bundle", "devices", "engine", "errors", "export", "saving", "suggestion", "text"}


def modules():
    """Path by dotted name, of all three packages."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()
RUNTIME = {name: path for name, path in MODULES.items() if path.is_relative_to(ROOT / "edgert")}


def imports(module, top_level_only=False):
    """Absolute names of what a module imports; relative imports resolve within its own package."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (package if node.level else "", node.module or "") if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def module_of(name):
    """The module that an imported name is, or is in; None of what isn't edgert's."""
    parts = name.split(".")
    return next((m for n in range(len(parts), 0, -1) if (m := ".".join(parts[:n])) in MODULES), None)


def room(name):
    """`cli` of edgert.cli.console.read_stdin, the empty string of edgert's own names, None of others."""
    module = module_of(name)
    return None if module is None else [*module.split("."), ""][1]


def test_imported_names_are_found_in_their_module():
    assert module_of("edgert.cli.console.read_stdin") == "edgert.cli.console"
    assert module_of("edgert.__version__") == "edgert" and module_of("json.loads") is None
    assert room("edgert.cli.console") == room("edgert.cli") == "cli" and room("edgert.__version__") == ""


@pytest.mark.parametrize("module", [name for name in RUNTIME if name != "edgert"])
def test_runtime_arrows_point_down(module):
    for name in imports(module):
        target = room(name)
        if target in FLOOR and target != room(module):
            assert FLOOR[target] > FLOOR[room(module)], f"{module} imports {name}"


@pytest.mark.parametrize("package", FOLDERS)
def test_no_modules_import_each_other(package):
    """In a circle, directly or by others; what a function imports when it is called doesn't count."""
    graph = {
        module: {target for name in imports(module, top_level_only=True) if (target := module_of(name))}
        for module, path in MODULES.items()
        if path.is_relative_to(ROOT / FOLDERS[package])
    }
    for module, targets in graph.items():
        targets.discard(module)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("module", RUNTIME)
def test_only_the_command_line_imports_the_exporter_and_only_lazily(module):
    exporter = [name for name in imports(module) if name.startswith("edgert.export")]
    assert not exporter or room(module) == "cli"
    assert not [n for n in imports(module, top_level_only=True) if n.startswith("edgert.export")]


@pytest.mark.parametrize("module", [name for name in MODULES if name not in RUNTIME])
def test_exporter_and_devices_use_only_the_contract(module):
    for name in imports(module):
        allowed = (
            {"errors", "devices", "bundle", "suggestion"} if module.startswith("edgert.devices") else CONTRACT
        )
        assert name == "edgert.__version__" or room(name) in allowed | {None}, f"{module} imports {name}"


def test_no_torch_anywhere():
    for module in MODULES:
        for name in imports(module):
            assert name.split(".")[0] not in ("torch", "transformers"), module


def test_size_is_bounded():
    for path in MODULES.values():
        text = path.read_text("utf-8")
        assert text.count("\n") <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_every_package_folder_is_listed():
    found = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert found == set(SETUPTOOLS["packages"])


def test_every_data_file_is_listed():
    for package, folder in SETUPTOOLS["package-dir"].items():
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix not in (".py", ".pyc"):
                parents = [".".join([package, *up.parts]) for up in path.relative_to(ROOT / folder).parents]
                owner = next(parent for parent in parents if parent in SETUPTOOLS["packages"])
                assert any(path.match(pattern) for pattern in SETUPTOOLS["package-data"][owner]), path


def test_nothing_top_level_is_called_export_or_devices():
    code = "import importlib.util as u; assert not u.find_spec('export') and not u.find_spec('devices')"
    subprocess.run([sys.executable, "-P", "-c", code], cwd="/", check=True)


def test_public_names_exist_and_are_sorted():
    assert edgert.__all__ == sorted(edgert.__all__)
    for name in edgert.__all__:
        assert getattr(edgert, name).__module__.startswith("edgert")


def test_a_type_checker_knows_which_names_there_are():
    """It would take any name for a public one if it saw `__getattr__`."""
    tree = ast.parse((ROOT / "edgert" / "__init__.py").read_text("utf-8"))
    assert "__getattr__" not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_importing_edgert_is_light():
    """No numpy and no onnxruntime until they are needed; onnxruntime's telemetry is off."""
    code = """
import os, sys, edgert
assert not {"numpy", "onnxruntime", "tokenizers", "jinja2", "click"} & set(sys.modules)
edgert.load
heavy = {"onnx", "onnx_ir", "torch", "transformers", "gguf", "safetensors", "edgert.export"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
