"""What a person sees and does: the views of an allocator and of a recorded run, in a real JupyterLab."""

import pytest
from playwright.sync_api import Error

SETUP = """
import percpu_lab as lab
a = lab.Allocator("x86-64, 4 CPUs", jit="wait")
board = lab.watch(a)
board
"""
# long enough for several frames however slowly a busy machine paints
LOOP = """
pointers = [a.alloc_percpu(64) for _ in range(50_000)]
for k in range(50_000, 1_000_000):
    a.free_percpu(pointers[k % 50_000])
    pointers[k % 50_000] = a.alloc_percpu(64)
print("done")
"""
LAST_OP = 50_000 + 2 * 950_000
SHOWN_OP = """labModels().map(([, model]) => model.text).filter((text) => /^op [0-9,]+/.test(text ?? ""))
  .map((text) => Number(text.match(/^op ([0-9,]+)/)[1].replaceAll(",", ""))).at(-1)"""

NR_WIDGETS = "len(__import__('ipywidgets.widgets.widget', fromlist=['_'])._instances)"


@pytest.fixture
def board(fill_notebook):
    """A notebook that shows a dashboard of an allocator, painted."""
    notebook = fill_notebook(SETUP, LOOP)
    notebook.run(0)
    notebook.wait_for_canvas(4)
    return notebook


def test_all_views_are_painted_with_the_state_before_the_first_request(board):
    board.wait_for(f"{SHOWN_OP} === 0")
    board.poll(lambda: sum(board.ink(k) > 500 for k in range(board.nr_canvases)) >= 4, "four painted plots")


def test_views_show_distinct_moments_while_a_loop_runs_and_the_last_one_soon_after(board):
    board.run(1, wait=False)
    seen = set()
    while not board.done:
        seen.add(board.js(SHOWN_OP))
        board.page.wait_for_timeout(20)
    board.wait_for(f"{SHOWN_OP} === {LAST_OP}")
    between = {op for op in seen if op and 0 < op < LAST_OP}
    assert len(between) >= 3, sorted(seen)
    assert board.text(1) == "done\n"


def test_nothing_on_the_page_moves_when_the_first_events_come(board):
    parts = "[...labFind((e) => e.tagName === 'PRE'), ...labCanvases()]"
    heights = f"{parts}.map((e) => Math.round(e.getBoundingClientRect().height))"
    before = board.js(heights)
    board.execute("for _ in range(3000): a.alloc_percpu(64)")
    board.wait_for(f"{SHOWN_OP} === 3000")
    board.page.wait_for_timeout(600)
    assert board.js(heights) == before


def test_all_lines_of_a_text_are_in_sight_and_long_ones_can_be_scrolled_to(board):
    board.execute("for _ in range(3000): a.alloc_percpu(64)")
    board.wait_for(f"{SHOWN_OP} === 3000")
    pre = "labFind((e) => e.tagName === 'PRE' && e.textContent !== '')"
    board.wait_for(f"{pre}.length === 2")
    for width in (1300, 760):
        board.page.set_viewport_size({"width": width, "height": 1400})
        for text, seen, needed, room, line in board.js(
            f"""{pre}.map((e) => [e.textContent, e.clientWidth, e.scrollHeight, e.clientHeight,
                parseFloat(getComputedStyle(e).lineHeight)])"""
        ):
            assert text.count("\n") == (1 if text.startswith("op ") else 6)
            assert seen > width / 2
            assert needed <= room < needed + 2 * line


def test_lines_of_pages_are_drawn_without_a_canvas_of_their_own(board):
    board.wait_for("labFind((e) => e.matches('canvas:nth-of-type(2)')).every((e) => e.style.display === 'none')")


def test_nothing_stands_above_the_canvases_that_the_page_would_have_to_be_composed_of(board):
    cdp, layers = board.page.context.new_cdp_session(board.page), []
    cdp.on("LayerTree.layerTreeDidChange", lambda event: layers.append(event.get("layers", [])))
    for domain in ("DOM", "LayerTree"):
        cdp.send(f"{domain}.enable")

    def reasons():
        """Why each layer of the page is one; nothing while they change."""
        try:
            asked = [{"layerId": layer["layerId"]} for layer in layers[-1]]
            return [cdp.send("LayerTree.compositingReasons", layer)["compositingReasonIds"] for layer in asked]
        except (IndexError, Error):
            return []

    board.poll(lambda: reasons().count(["Canvas"]) == board.nr_canvases, "a layer for each canvas", timeout=20)
    board.poll(lambda: (found := reasons()) and ["Overlap"] not in found, "no layer above the canvases", timeout=20)
    cdp.detach()


def test_a_tool_beside_a_plot_can_be_clicked(board):
    board.page.mouse.move(*board.point("area_map", 8, 1))
    board.page.keyboard.down("Control")
    board.page.mouse.wheel(0, -400)
    board.page.keyboard.up("Control")
    board.wait_for("labModel('area_map').x_range.end - labModel('area_map').x_range.start < 60")
    board.page.get_by_title("Reset").first.click()
    board.wait_for("labModel('area_map').x_range.end === labModel('area_map').x_range.reset_end")


def test_buttons_allocate_and_free(board):
    board.click_button("alloc_percpu")
    board.wait_for(f"{SHOWN_OP} === 1")
    assert board.value("a.stats().global_stats.nr_cur_alloc") == 1
    board.click_button("free last")
    board.wait_for(f"{SHOWN_OP} === 2")
    assert board.value("a.stats().global_stats.nr_cur_alloc") == 0


def test_area_clicked_in_the_area_map_is_marked_in_the_timeline_and_can_be_freed(board):
    board.execute("p = a.alloc_percpu(4096); q = a.alloc_percpu(64)")
    board.wait_for(f"{SHOWN_OP} === 2")
    off, row = board.value("p.off / 1024 + 1"), 1.5
    board.page.mouse.click(*board.point("area_map", off, row))
    board.wait_for_value("board.session.selection.area == p.op")
    assert board.js("labModel('selected').data.area[0]") == board.value("p.op")
    board.click_button("free selected")
    board.wait_for_value("not p.is_live and q.is_live")


def test_area_clicked_in_a_picture_of_many_is_marked_and_can_be_freed(board):
    board.execute("pointers = [a.alloc_percpu(64) for _ in range(6000)]; p = pointers[4000]")
    board.wait_for(f"{SHOWN_OP} === 6000")
    row = board.value("[chunk.ordinal for chunk in a.chunks].index(p.ordinal)")
    place = board.point("area_map", board.value("(p.off + 32) / 1024"), row + 0.5)
    board.page.mouse.click(*place)
    board.wait_for_value("board.session.selection.chunk == p.ordinal")
    op = board.value("board.session.selection.area")
    assert abs(op - 4000) <= 10  # a pixel is wider than an area
    board.wait_for(f"labModel('selected').data.area[0] === {op}")
    nr_events = board.value("board.figure.nr_events")
    board.page.mouse.click(*place)  # once more: Python has nothing new to tell
    board.wait_for_value(f"board.figure.nr_events > {nr_events}")
    assert board.js("labModel('selected').data.area[0]") == op
    board.click_button("free selected")
    board.wait_for_value(f"not pointers[{op}].is_live")


def test_workload_is_played_paused_and_stepped(board):
    board.click_button("play")
    board.wait_for_value("a.engine.now > 20")
    board.click_button("pause")
    board.wait_for_value("not board.session.playing")
    now = board.value("a.engine.now")
    board.click_button("step")
    board.wait_for_value(f"a.engine.now == {now + 1}")
    board.wait_for(f"{SHOWN_OP} === {now + 1}")


def test_a_refused_free_says_why_and_changes_nothing(board):
    board.click_button("free selected")
    board.wait_for("document.body.innerText.includes('no area in use is selected')")
    assert board.value("a.engine.now") == 0


def test_views_come_back_after_a_reload(board):
    board.execute("_ = a.alloc_percpu(128)")
    board.wait_for(f"{SHOWN_OP} === 1")
    board.reload()
    board.wait_for_canvas(4)
    board.wait_for(f"{SHOWN_OP} === 1")


def test_runs_of_the_same_cell_leave_one_dashboard(board):
    nr_widgets = board.value(NR_WIDGETS)
    for _ in range(3):
        board.run(0)
    board.wait_for_canvas(4)
    board.wait_for("Bokeh.documents.length === 1")
    assert board.value(NR_WIDGETS) == nr_widgets
    assert board.value("sum(t.name.startswith('publisher') for t in __import__('threading').enumerate())") == 1


def test_slider_moves_through_a_recorded_run(fill_notebook):
    notebook = fill_notebook(
        "import percpu_lab as lab\nrun = lab.open_run('notebooks/data/pcpu_test2_1024')\nboard = lab.watch(run)\nboard"
    )
    notebook.run(0)
    notebook.wait_for_canvas(4)
    last_op = notebook.value("run.last_op")
    notebook.wait_for(f"{SHOWN_OP} === {last_op}")
    handle = notebook.page.locator(".noUi-handle").first
    box = handle.bounding_box()
    notebook.drag((box["x"] + 8, box["y"] + 8), (box["x"] - 400, box["y"] + 8))
    notebook.wait_for(f"{SHOWN_OP} < 2500")
    assert notebook.value("run.now") < 2500
    assert notebook.errors == []


TEXTS = """labCanvases().map((_, k) => ["#000000", "#ffffff"].map((colour) => labColours(k)[colour] ?? 0))"""


@pytest.fixture
def turn(board):
    """Give the page a theme; at the end its own again, which JupyterLab keeps for all notebooks."""

    def change(theme):
        # JupyterLab fades a splash screen out after each change, and stumbles over the one of the next
        board.wait_for("!document.getElementById('jupyterlab-splash')")
        board.page.evaluate("(theme) => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)

    yield change
    change("JupyterLab Light")
    board.wait_for("!document.getElementById('jupyterlab-splash')")


def test_texts_of_all_plots_follow_the_theme_of_the_page(board, turn):
    def texts_are(is_shown):
        ink = board.js(TEXTS)
        return len(ink) >= 4 and all(is_shown(black, white) for black, white in ink)

    for _ in range(2):  # the first time a frame may have been waiting to be painted anyway
        turn("JupyterLab Dark")
        board.poll(lambda: texts_are(lambda black, white: white > 300 and black < 20), "white texts on a dark page")
        turn("JupyterLab Light")
        board.poll(lambda: texts_are(lambda black, _white: black > 300), "black texts on a light page")


def test_what_the_pointer_shows_has_the_colours_of_the_page(board, turn):
    turn("JupyterLab Dark")
    board.wait_for("document.body.dataset.jpThemeName === 'JupyterLab Dark'")
    board.wait_for("!document.getElementById('jupyterlab-splash')")
    board.page.mouse.move(*board.point("area_map", 8, 1.5))
    tooltip = "getComputedStyle(document.querySelector('.bk-Tooltip'))"
    board.wait_for(f"{tooltip}.backgroundColor === 'rgb(33, 33, 33)'")
    board.wait_for(f"{tooltip}.color === 'rgba(255, 255, 255, 0.87)'")


def test_letters_beside_the_area_map_are_smaller_on_a_narrow_page(board):
    width = """labModels().filter(([, {name}]) => name === 'area_map')
      .map(([doc, model]) => doc.views_manager.find_one(model).frame.bbox.width)[0]"""
    board.page.set_viewport_size({"width": 800, "height": 1000})
    board.wait_for(f"{width} > 140 && {width} < 300", 10)


def test_legends_may_be_wider_than_their_plots_and_are_not_cut_off(board):
    board.page.set_viewport_size({"width": 1000, "height": 1000})
    cut_off = """labFind((e) => e.matches('.bk-Legend')).filter((e) => {
      const grid = e.shadowRoot.querySelector('.bk-grid').getBoundingClientRect();
      const {clipPath, width} = getComputedStyle(e);
      return clipPath !== 'none' || parseFloat(width) < grid.width - 1 || grid.right > innerWidth;
    }).length"""
    wider = """labModels().filter(([, {name}]) => name === 'area_map').map(([doc, model]) =>
      doc.views_manager.find_one(model).frame.bbox.width)[0] < labFind((e) => e.matches('.bk-Legend'))[0].offsetWidth"""
    board.wait_for(wider, 10)
    board.wait_for(f"{cut_off} === 0", 10)


def test_legends_have_room_after_the_page_has_become_narrow_and_wide_again(fill_notebook):
    room = """() => Bokeh.documents.flatMap((doc) => {
      const plots = [...doc.views_manager.query((view) => view.model.type === 'Figure')];
      const views = plots.flatMap((plot) => [...plot.renderer_views.values()]);
      const legends = views.filter(({model}) => model.type === 'Legend');
      return legends.map(({el, layout}) => layout.bbox.height - el.offsetHeight);
    })"""
    board = "import percpu_lab as lab\na = lab.Allocator(jit='off')\nlab.watch(a)"
    notebook = fill_notebook(board, "a.alloc_percpu(64)")
    notebook.run(0)
    notebook.wait_for_canvas(4)
    notebook.run(1)
    for width in (1300, 800, 1300):
        notebook.page.set_viewport_size({"width": width, "height": 1000})
        notebook.poll(lambda: notebook.page.evaluate(room) == [4, 4, 4], f"room for legends at {width} px", 10)
