"""Several runs with one cursor, in a real JupyterLab."""

import pytest

SETUP = """
import percpu_lab as lab
from percpu_lab.workloads import cgroup_churn
guest = lab.Geometry.embed(212_992, cpus=4, atom_size=2 << 20)
result = lab.compare(cgroup_churn(nr_groups=220), machine=guest, jit="wait")
board = result.watch()
board
"""
LAST_OP = 220 * 16 + 200 * 16
MODELS = "labModels().map(([, model]) => model)"
SHOWN_OPS = (
    MODELS
    + """.map((model) => model.text ?? "").filter((text) => /^v[0-9.]+-\\w+  ·  op [0-9,]+/.test(text))
  .map((text) => Number(text.match(/op ([0-9,]+)/)[1].replaceAll(",", "")))"""
)


def shows(op: int) -> str:
    return f"JSON.stringify({SHOWN_OPS}) === '[{op},{op}]'"


@pytest.fixture
def board(fill_notebook):
    """A notebook that shows two runs, painted: two curves and two area maps."""
    notebook = fill_notebook(SETUP)
    notebook.run(0)
    notebook.wait_for_canvas(4)
    notebook.wait_for(shows(LAST_OP))
    return notebook


def test_curves_and_area_maps_of_both_runs_are_painted(board):
    board.poll(lambda: sum(board.ink(k) > 500 for k in range(board.nr_canvases)) >= 4, "four painted plots")
    assert board.js("labModel('area_map_0') !== undefined && labModel('area_map_1') !== undefined")


def test_a_step_back_moves_both_runs_and_the_cursor_in_the_curves(board):
    board.click_button("step -100")
    board.wait_for(shows(LAST_OP - 100))
    spans = (
        "labModels().map(([, model]) => model).filter((model) => model.type === 'Span').map((span) => span.location)"
    )
    board.wait_for(f"{spans}.filter((op) => op === {LAST_OP - 100}).length === 2")
    assert board.value("[run.now for run in result.runs]") == [LAST_OP - 100] * 2


def test_a_click_into_the_curves_goes_there(board):
    board.page.mouse.click(*board.point("pages", 2000, 30))
    board.wait_for_value("result.runs[0].now < 2200")
    now = board.value("board.session.now")
    assert 1800 < now < 2200
    board.wait_for(shows(now))


def test_an_area_clicked_in_one_map_is_marked_in_both(board):
    board.execute("board.seek(500)")
    board.wait_for(shows(500))
    board.execute(
        "import numpy as np; snap = result.runs[0].columns().snapshot; "
        "row = int(np.flatnonzero((snap.areas.birth >= 0) & (snap.areas.requested_bytes == 1064))[0]); "
        "birth = int(snap.areas.birth[row]); off = int(snap.areas.off_bytes[row]) / 1024 + 0.5; "
        "place = int(snap.areas.chunk[row]) + 0.5"
    )
    board.page.mouse.click(*board.point("area_map_0", board.value("off"), board.value("place")))
    board.wait_for_value("board.session.selection.area == birth")
    selected = (
        "labModels().map(([, model]) => model).filter((model) => model.name === 'selected').map((m) => m.data.area[0])"
    )
    board.wait_for(f"JSON.stringify({selected}) === JSON.stringify([{board.value('birth')}, {board.value('birth')}])")
