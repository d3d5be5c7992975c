"""Imports go one way, and what need not draw needs nothing that draws."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import percpu_lab

PACKAGE = Path(percpu_lab.__file__).parent

# A module imports from its own line and those before, never from one behind.
LAYERS = (
    ("units", "plain", "rich", "errors", "interrupts", "gfp", "json_text"),
    ("kernels",),
    ("core.layout",),
    ("geometry", "ops"),
    ("core", "core_compiled"),
    ("compiled",),
    ("tracepoints",),
    ("events",),
    ("tracefilter",),
    ("models",),
    ("engine_messages",),
    ("engine_arrays",),
    ("engine",),
    ("trace", "traces", "stats", "workloads", "validate", "validate_bitmap"),
    (
        "traces.dmesg",
        "traces.proc",
        "traces.folder",
        "traces.early",
        "traces.consistency",
        "traces.shown",
        "traces.given",
        "traces.simulated",
        "traces.recording",
    ),
    ("kernel_functions",),
    ("pointers", "memory", "allocator"),
    ("cases", "play", "player", "lessons"),
    ("columns", "annotations", "kept"),
    ("rebuild",),
    ("review",),
    ("spans", "raster", "recorded_run"),
    ("runs",),
    ("session",),
    ("views",),
    ("comparison",),
    ("questions",),
    ("report",),
    ("verbs",),
    ("__main__",),
)
HEAVY = ("IPython", "anywidget", "bokeh", "ipywidgets", "matplotlib", "numba", "pandas")
LIGHT_MODULES = (
    "percpu_lab",
    "percpu_lab.core",
    "percpu_lab.engine",
    "percpu_lab.allocator",
    "percpu_lab.play",
    "percpu_lab.questions",
)


def module_names() -> list[str]:
    """Every module of the package but the package itself, which hands out names of all layers, each at first use."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    names = (".".join(part for part in path.parts if part != "__init__") for path in paths)
    return sorted(filter(None, names))


def layer(name: str) -> int:
    """The number of a module's layer, by its own name or the longest listed name it lies in."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for number, names in enumerate(LAYERS):
            if prefix in names:
                return number
    raise AssertionError(f"percpu_lab.{name} has no place in LAYERS of {Path(__file__).name}: give it one")


def source_path(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports, wherever it stands in the file."""
    path = source_path(name)
    package = f"percpu_lab.{name}" if path.name == "__init__.py" else f"percpu_lab.{name}".rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def own_module(imported: str) -> str | None:
    """The module of this package that an imported name is or belongs to."""
    parts = imported.split(".")
    if parts[0] != "percpu_lab" or len(parts) == 1:
        return None
    while len(parts) > 1 and not source_path(".".join(parts[1:])).exists():
        parts.pop()
    return ".".join(parts[1:]) or None


@pytest.mark.parametrize("name", module_names())
def test_module_imports_only_from_its_layer_and_those_before(name: str) -> None:
    wrong = [
        f"line {line}: {imported}"
        for line, imported in imports(name)
        if (target := own_module(imported)) is not None and layer(target) > layer(name)
    ]
    assert not wrong, f"percpu_lab.{name} reaches up: {wrong}"


@pytest.mark.parametrize("name", module_names())
def test_up_to_the_allocator_there_is_neither_clock_nor_chance(name: str) -> None:
    found = {imported.split(".")[0] for _, imported in imports(name)} & {"time", "random", "datetime", "secrets"}
    assert not found or layer(name) > layer("allocator")


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_import_loads_nothing_heavy(name: str) -> None:
    code = f"import json, sys, {name}; print(json.dumps([m for m in sys.modules if '.' not in m]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(json.loads(run.stdout))


def test_importing_the_package_does_not_even_load_numpy() -> None:
    code = "import sys, percpu_lab; print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
