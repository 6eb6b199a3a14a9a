"""The shape of the code is a tested property: arrows, packages, public names, size."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgert

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
RUNTIME = sorted((ROOT / "edgert").rglob("*.py"))
SOURCES = [*RUNTIME, *sorted((ROOT / "export").rglob("*.py")), *sorted((ROOT / "devices").rglob("*.py"))]

# What each runtime module may import of the others: one way, from the command line down to the errors.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"cli.answering", "cli.benching", "cli.comparing", "cli.examining", "cli.fitting", "cli.inspecting"},
    {"cli.opening"},
    {"cli.exporting"},
    {"cli.console", "cli.options"},
    {"bench", "bench_plot", "chat", "comparison_page"},
    {"compare", "conversation", "footprint", "peers"},
    {"comparison", "figures", "model", "pace"},
    {"doctor"},
    {"tuning"},
    {"engine"},
    {"golden", "prepared"},
    {"answer", "decoder", "machine", "memory", "prompts", "stops", "weights"},
    {"bandwidth", "cache", "energy", "fidelity", "sampler", "tokenizer", "template"},
    {"session"},
    {"providers"},
    {"bundle", "devices", "final", "heat", "home", "loops", "saving"},
    {"errors"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path, top_level_only):
    """Absolute names of what a file imports; relative imports resolve within edgert.export."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"edgert.export.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)


def runtime_part(name):
    """`cli` of edgert.cli.console.read_stdin, None of what isn't edgert's."""
    parts = name.split(".")
    return parts[1] if parts[0] == "edgert" and len(parts) > 1 else None


def level(name):
    """Of the module that an imported name is, or is in; None of what has no layer."""
    parts = name.split(".")[1:] if name.startswith("edgert.") else []
    modules = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((LEVEL[module] for module in modules if module in LEVEL), None)


def module_of(path):
    """`cli.console` of edgert/cli/console.py, `cli` of its __init__.py, the empty string of edgert's own."""
    parts = path.relative_to(ROOT / "edgert").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_imported_names_are_found_in_their_layer():
    assert level("edgert.cli.console.read_stdin") == LEVEL["cli.console"] > level("edgert.cli.main")
    assert level("edgert.export") is None and level("json.loads") is None


@pytest.mark.parametrize("path", RUNTIME, ids=module_of)
def test_runtime_arrows_point_one_way(path):
    module = module_of(path)
    if not module:
        return
    for name in imports(path, top_level_only=False):
        target = level(name)
        if target is not None:
            assert target > LEVEL[module], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", RUNTIME, ids=module_of)
def test_only_the_command_line_imports_the_exporter_and_only_lazily(path):
    exporter = [n for n in imports(path, top_level_only=False) if n.startswith("edgert.export")]
    assert not exporter or module_of(path).startswith("cli.")
    assert not [n for n in imports(path, top_level_only=True) if n.startswith("edgert.export")]


@pytest.mark.parametrize("folder", ["export", "devices"])
def test_exporter_and_devices_use_only_the_contract(folder):
    allowed = {
        "export",
        "devices",
        "bundle",
        "errors",
        "decoder",
        "fidelity",
        "session",
        "template",
        "__version__",
        "golden",
        "tokenizer",
    }
    for path in (ROOT / folder).glob("*.py"):
        for name in imports(path, top_level_only=False):
            assert runtime_part(name) in allowed | {None}, f"{path} imports {name}"


def test_no_torch_anywhere():
    for path in SOURCES:
        for name in imports(path, top_level_only=False):
            assert name.split(".")[0] not in ("torch", "transformers"), path


def test_size_is_bounded():
    for path in SOURCES:
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
                assert any(path.match(pattern) for pattern in SETUPTOOLS["package-data"][package]), path


def test_nothing_top_level_is_called_export_or_devices():
    code = "import importlib.util as u; assert not u.find_spec('export') and not u.find_spec('devices')"
    subprocess.run([sys.executable, "-P", "-c", code], cwd="/", check=True)


def test_public_names_exist_and_are_sorted():
    assert edgert.__all__ == sorted(edgert.__all__)
    for name in edgert.__all__:
        assert getattr(edgert, name).__module__.startswith("edgert")


def test_importing_edgert_is_light():
    """No exporter, no template engine of the command line, no torch; onnxruntime's telemetry is off."""
    code = """
import os, sys, edgert
heavy = {"onnx", "onnx_ir", "torch", "transformers", "gguf", "safetensors", "edgert.export"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
