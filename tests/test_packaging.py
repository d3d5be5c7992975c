"""What a user installs is complete, and its papers agree with one another."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import percpu_lab

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as a user gets it."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def names_and_bounds(requirements: list[str]) -> dict[str, str]:
    """Requirements as written in both files, by name: 'numpy>=2.1,<3' gives numpy: '>=2.1,<3'."""
    parts = (re.fullmatch(r"([\w-]+)\s*(.*)", requirement) for requirement in requirements)
    return {part[1]: part[2] for part in parts if part}


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    files = (path.relative_to(ROOT) for path in (ROOT / "percpu_lab").rglob("*") if path.is_file())
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_nothing_but_the_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"percpu_lab", f"percpu_lab-{PROJECT['version']}.dist-info"}


def test_installed_package_knows_its_commands(installed: Path) -> None:
    command = [sys.executable, "-m", "percpu_lab", "--help"]
    run = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("usage: percpu_lab")


def test_installed_version_is_the_one_of_the_project_and_of_the_newest_change() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"] == version("percpu-lab") == percpu_lab.__version__


def test_conda_environment_asks_for_what_the_project_asks_for() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    everything = PROJECT["dependencies"] + [entry for name in EXTRAS for entry in EXTRAS[name]]
    bounds = names_and_bounds(everything) | {"python": PROJECT["requires-python"], "git": "", "make": "", "pip": ""}
    assert names_and_bounds(conda).items() <= bounds.items()
    assert pip == {"pip": ["--editable .[fast,test]"]}


def test_core_dependencies_are_these_six() -> None:
    wanted = {"anywidget", "bokeh", "ipywidgets", "jinja2", "matplotlib", "numpy"}
    assert set(names_and_bounds(PROJECT["dependencies"])) == wanted


def test_readme_example_does_what_it_says() -> None:
    assert doctest.testfile(str(ROOT / "README.md"), module_relative=False).failed == 0


def test_readme_names_only_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", readme)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
