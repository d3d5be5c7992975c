"""A recording of a real kernel in the browser: the three views, who asked in hovers, the slider."""

from pathlib import Path

import pytest

RECORDING = Path(__file__).parents[1] / "data" / "real" / "folders" / "pcs-smp3-boot"
SETUP = f"""
import percpu_lab as lab
recording = lab.open_trace({str(RECORDING)!r})
board = lab.watch(recording)
board
"""
SUMMARY = """labModels().map(([, model]) => model.text).filter((text) => /^event [0-9,]+/.test(text ?? "")).at(-1)"""
TOOLTIP = """(() => {
  const seen = [];
  const walk = (node) => {
    if (node.shadowRoot) walk(node.shadowRoot);
    if (node.classList?.contains("bk-Tooltip")) seen.push((node.shadowRoot ?? node).textContent);
    for (const child of node.children ?? []) walk(child);
  };
  walk(document.body);
  return seen.join(" ");
})()"""


@pytest.fixture
def board(fill_notebook):
    """A notebook that shows the dashboard of a recording, painted."""
    notebook = fill_notebook(SETUP)
    notebook.run(0)
    notebook.wait_for_canvas(4)
    return notebook


def test_a_recording_is_shown_with_its_time_and_moves_by_the_slider(board):
    board.wait_for(f"{SUMMARY}.startsWith('event 336  ·  3 CPUs, unit 512 KiB')")
    assert board.js(SUMMARY).split("\n")[0].endswith(" s")
    board.execute("board.seek(100)")
    board.wait_for(f"{SUMMARY}.startsWith('event 100  ')")
    board.poll(lambda: sum(board.ink(k) > 500 for k in range(board.nr_canvases)) >= 4, "four painted plots")


def test_a_hover_says_who_asked_for_an_area(board):
    x, y = board.point("area_map", 2.0, 1.5)
    board.page.mouse.move(x, y)
    board.wait_for(f"/for \\w+\\+0x/.test({TOOLTIP})")


def test_the_end_of_a_long_event_is_reached_by_scrolling(board):
    board.wait_for(f"{SUMMARY}.startsWith('event 336  ')")
    tail = "labFind((e) => e.tagName === 'PRE' && e.textContent.includes('the last events')).at(-1)"
    board.wait_for(f"{tail}.textContent.trimEnd().endsWith('GFP_KERNEL')")
    assert board.js(f"{tail}.getBoundingClientRect().right <= window.innerWidth")
    board.wait_for(f"{tail}.scrollWidth > {tail}.clientWidth")
    board.js(f"{tail}.scrollLeft = 100000")
    assert board.js(f"{tail}.scrollLeft + {tail}.clientWidth >= {tail}.scrollWidth - 1")
