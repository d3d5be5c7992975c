"""The saved notebooks: run from the top, small, nothing from the network. That they still run so is nbval's part."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
MAX_OUTPUT_BYTES = 1_000_000
# what a browser would fetch by itself; a link in prose is none
FETCHED = re.compile(r"""<(script|img|link|iframe)[^>]+(src|href)=\\?["']?(https?:)?//|@import|cdn\.""", re.IGNORECASE)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_tour_comes_first() -> None:
    assert NOTEBOOKS[0].name == "00_tour.ipynb"


def test_format_is_valid(notebook: Any) -> None:
    nbformat.validate(notebook)


def test_any_python_kernel_fits(notebook: Any) -> None:
    assert notebook.metadata.kernelspec.name == "python3"


def test_was_run_once_from_top_to_bottom(notebook: Any) -> None:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_cell_is_left_unchecked(notebook: Any) -> None:
    mark = re.compile(r"nbval.(skip|ignore)", re.IGNORECASE)
    assert [cell for cell in code_cells(notebook) if mark.search(cell.source + str(cell.metadata))] == []


def test_shows_no_error_but_a_wanted_one(notebook: Any) -> None:
    quiet = [cell for cell in code_cells(notebook) if "raises-exception" not in cell.metadata.get("tags", [])]
    assert [output for cell in quiet for output in cell.outputs if output.output_type == "error"] == []


def test_shows_no_warning(notebook: Any) -> None:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


def test_output_fetches_nothing(notebook: Any) -> None:
    outputs = json.dumps([cell.outputs for cell in code_cells(notebook)])
    assert FETCHED.search(outputs) is None


def test_output_is_small(notebook: Any) -> None:
    assert len(json.dumps([cell.outputs for cell in code_cells(notebook)])) < MAX_OUTPUT_BYTES
