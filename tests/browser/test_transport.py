"""What must hold between a kernel and a browser, seen on the pixels of a real JupyterLab."""

import pytest

SETUP = """
import gc, threading, time, comm
import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, Range1d, RangeTool
from bokeh.plotting import figure
from percpu_lab.views.live import Frame, LiveFigure, Publisher

def columns(seq, n=40):
    left = np.arange(n, dtype="f4")
    row = np.arange(n) % 10
    return {"id": np.arange(n) + 1000, "left": left, "right": left + 0.8, "bottom": row, "top": row + 0.8,
            "seq": np.full(n, seq)}

def make():
    source = ColumnDataSource(columns(0), name="bars")
    plot = figure(name="plot", width=600, height=250, title="bars", toolbar_location=None,
                  x_range=Range1d(0, 40, name="x"), y_range=Range1d(0, 10),
                  tools="box_select,tap,hover", active_drag="box_select")
    plot.quad(left="left", right="right", bottom="bottom", top="top", line_color=None, fill_color="#0072b2",
              nonselection_fill_alpha=0.1, source=source)
    return source, plot

source, plot = make()
"""
SHOW = "live = LiveFigure(plot)\nlive"
PUBLISH = """
class State:
    n = 0

state = State()
publisher = Publisher(live, lambda: Frame({source: columns(state.n)}), version=lambda: state.n)
"""
BUSY = (
    PUBLISH
    + """
end = time.monotonic() + 5
while time.monotonic() < end:
    state.n += 1
"""
)
SEQ = "labModel('bars').get_column('seq')[0]"
WATCH = f"""(() => {{
  window.labSeen = [];
  const look = () => {{
    if (labModel('bars') === undefined) return;
    const seq = {SEQ};
    if (labSeen.at(-1)?.[0] !== seq) labSeen.push([seq, performance.now(), window.labDone]);
    requestAnimationFrame(look);
  }};
  look();
}})()"""
BLUE = "#0072b2"


def shown(opener, *cells):
    """Fill or open a notebook with the set-up and some cells, the first of which has shown its figure."""
    notebook = opener(SETUP, *cells)
    notebook.run(0)
    notebook.run(1)
    notebook.wait_for_canvas()
    return notebook


def comms(notebook):
    return notebook.value("len(comm.get_comm_manager().comms)")


def sources(notebook):
    """Number of Bokeh's sources that the kernel keeps."""
    return notebook.value("[gc.collect(), sum(type(one) is ColumnDataSource for one in gc.get_objects())][1]")


@pytest.fixture
def bars(fill_notebook):
    """A notebook that shows forty bars on a diagonal, with ids 1000 to 1039, and a range tool below."""
    overview = """
below = figure(name="below", width=600, height=80, x_range=Range1d(0, 80), y_range=Range1d(0, 10), tools="",
               toolbar_location=None)
below.quad(left="left", right="right", bottom="bottom", top="top", source=source)
below.add_tools(RangeTool(x_range=plot.x_range))
live = LiveFigure(column(plot, below))
live
"""
    notebook = fill_notebook(
        SETUP,
        overview,
        "end = time.monotonic() + 20\n"
        + """
live.drain()
while not any(event.kind == "tap" for event in live.drain()) and time.monotonic() < end:
    pass
print("in time" if time.monotonic() < end else "too late")
""",
    )
    notebook.run(0)
    notebook.run(1)
    notebook.wait_for_canvas(2)
    return notebook


def new_events(notebook, kind):
    """Events of one kind that came in since the last call, as (name, ids, indices, x, y, start, end)."""
    notebook.execute("events = globals().get('events', []) + live.drain()")
    fields = "(e.model.name, e.ids, e.indices, e.x, e.y, e.start, e.end)"
    notebook.wait_for_value(f"[events.extend(live.drain()), [e for e in events if e.kind == {kind!r}]][1] != []")
    found = notebook.value(f"[{fields} for e in events if e.kind == {kind!r}]")
    notebook.execute("events.clear()")
    return found


def test_a_figure_appears(fill_notebook):
    notebook = shown(fill_notebook, SHOW)
    assert notebook.colours()[BLUE] > 5000
    assert notebook.text(1) == "LiveFigure('bars')"


@pytest.mark.parametrize("answers", ["at once", "after the cell"])
def test_frames_are_painted_while_a_cell_runs_and_the_last_one_after_it(fill_notebook, answers):
    held_back = "live.comm._reply_subshell_for = lambda data, asked_for: None\n"  # as without subshells
    notebook = shown(fill_notebook, SHOW, BUSY if answers == "at once" else held_back + BUSY)
    notebook.js(WATCH)
    notebook.run(2)
    last = notebook.value("state.n")
    notebook.wait_for(f"{SEQ} === {last}")
    during = [seq for seq, _, done in notebook.js("labSeen") if seq > 0 and not done]
    assert len(during) >= 3
    assert during == sorted(during)


def test_box_selection_arrives_with_ids(bars):
    bars.drag(bars.point("plot", 9.9, 0.1), bars.point("plot", 13.5, 5))
    name, ids, indices, *_ = new_events(bars, "select")[-1]
    assert (name, ids, indices) == ("bars", [1010, 1011, 1012, 1013], [10, 11, 12, 13])


def test_selection_stays_with_its_ids_when_rows_move(bars):
    bars.drag(bars.point("plot", 9.9, 0.1), bars.point("plot", 11.5, 5))
    assert new_events(bars, "select")[-1][1] == [1010, 1011]
    bars.execute("live.frame({source: {name: values[5:] for name, values in columns(1).items()}})")
    bars.wait_for(f"{SEQ} === 1")
    assert bars.js("labModel('bars').selected.indices") == [5, 6]
    bars.execute("live.frame({source: columns(2)})")
    bars.wait_for(f"{SEQ} === 2")
    assert bars.js("labModel('bars').selected.indices") == [10, 11]


def test_tap_arrives_with_the_id_of_what_was_hit(bars):
    bars.page.mouse.click(*bars.point("plot", 23.4, 3.4))
    name, ids, _, x, y, *_ = new_events(bars, "tap")[-1]
    assert (name, ids) == ("bars", [1023])
    assert (x, y) == (pytest.approx(23.4, abs=0.2), pytest.approx(3.4, abs=0.2))


def test_two_quick_taps_on_two_places_both_arrive(bars):
    places = [bars.point("plot", x + 0.4, x % 10 + 0.4) for x in (3, 36)]
    for place in places:
        bars.page.mouse.click(*place)
    bars.wait_for_value("[event.ids for event in live._events if event.kind == 'tap'] == [(1003,), (1036,)]")
    bars.execute("live.drain()")


def test_tap_beside_everything_names_the_plot(bars):
    bars.page.mouse.click(*bars.point("plot", 25, 1))
    name, ids, *_ = new_events(bars, "tap")[-1]
    assert (name, ids) == ("plot", [])


def test_tap_arrives_while_a_cell_runs(bars):
    bars.run(2, wait=False)
    while not bars.done:
        bars.page.mouse.click(*bars.point("plot", 23.4, 3.4))
    assert "in time" in bars.text(2)


def test_hover_arrives_with_ids(bars):
    bars.page.mouse.move(*bars.point("plot", 25, 1))
    bars.page.mouse.move(*bars.point("plot", 34.4, 4.4))
    assert ["bars", [1034]] in [event[:2] for event in new_events(bars, "hover")]


def test_dragged_range_arrives(bars):
    bars.drag(bars.point("below", 20, 5), bars.point("below", 30, 5))
    bars.execute("ranges = []")  # one comes for every few pixels: the last is where the button was let go
    newest = "[ranges.extend((e.model.name, round(e.start), round(e.end)) for e in live.drain() if e.kind == 'range')]"
    near = "ranges and ranges[-1][0] == 'x' and abs(ranges[-1][1] - 10) <= 1 and abs(ranges[-1][2] - 50) <= 1"
    bars.wait_for_value(f"bool(({newest}, {near})[1])")


def test_properties_change_without_an_echo(bars):
    bars.execute(
        "live.drain(); live.frame({}, {plot.x_range: {'start': 5, 'end': 45}, plot.title: {'text': '$$x$$<b>'}})"
    )
    bars.wait_for("labModel('x').start === 5 && labModel('x').end === 45")
    bars.wait_for_value("live.acked == live._seq")
    assert bars.js("labModel('plot').title.text") == "$$x$$<b>"
    assert bars.value("[event.kind for event in live.drain() if event.kind == 'range']") == []
    bars.execute("live.frame({}, {plot.x_range: {'start': 0, 'end': 40}, plot.title: {'text': 'bars'}})")


def test_slider_moves_the_plot(fill_notebook):
    show = """
import ipywidgets
slider = ipywidgets.IntSlider(min=1, max=40, value=1)
live = LiveFigure(plot)
slider.observe(lambda change: live.frame({source: columns(change.new, change.new)}), "value")
ipywidgets.VBox([slider, live])
"""
    notebook = shown(fill_notebook, show)
    before = notebook.colours()[BLUE]
    handle = notebook.page.locator(".noUi-handle").first.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    notebook.drag((x, y), (x + 60, y))
    notebook.wait_for(f"{SEQ} > 2")
    notebook.poll(lambda: notebook.js(SEQ) == notebook.value("slider.value"), "newest value of the slider in the plot")
    assert notebook.js("labModel('bars').get_length()") == notebook.js(SEQ)
    assert notebook.colours()[BLUE] < before


def test_second_view_and_reloaded_page_show_the_newest_columns(fill_notebook):
    notebook = shown(fill_notebook, SHOW, "live")
    notebook.execute("live.frame({source: columns(7)}, {plot.title: {'text': 'seven'}})")
    notebook.wait_for(f"{SEQ} === 7")
    notebook.run(2)
    notebook.wait_for_canvas(2)
    both = "labModels().filter(([, m]) => m.name === 'bars').map(([, m]) => m.get_column('seq')[0]).join()"
    notebook.wait_for(f"{both} === '7,7'")
    notebook.execute("live.frame({source: columns(8)})")
    notebook.wait_for(f"{both} === '8,8'")
    notebook.reload()
    notebook.wait_for_canvas(2)
    notebook.wait_for(f"{both} === '8,8'")
    assert notebook.js("labModel('plot').title.text") == "seven"
    assert notebook.colours(0)[BLUE] > 5000
    assert notebook.colours(1)[BLUE] > 5000


def test_a_reloaded_page_shows_a_figure_whose_box_has_been_made_twice(fill_notebook):
    notebook = fill_notebook(SETUP, "import ipywidgets\nlive = LiveFigure(plot)\nbox = ipywidgets.VBox([live])\nbox")
    for index in (0, 1, 1):
        notebook.run(index)
    notebook.wait_for_canvas()
    notebook.reload()
    notebook.wait_for_canvas()


def test_twenty_runs_of_a_cell_leave_one_figure(open_notebook):
    notebook = shown(open_notebook, "source, plot = make()\n" + SHOW.replace("\nlive", PUBLISH) + "live", "1 + 1")
    nr_comms, nr_sources = comms(notebook), sources(notebook)
    for _ in range(20):
        notebook.run(1)
    assert comms(notebook) == nr_comms
    assert sources(notebook) == nr_sources, "kept by what Out keeps"
    notebook.wait_for_value("sum('publisher' in thread.name for thread in threading.enumerate()) == 1")
    notebook.wait_for("Bokeh.documents.length === 1 && labCanvases().length === 1")
    assert notebook.js("Bokeh.index.roots.map((view) => view.model.type).sort()") == ["Figure", "Notifications"]
    notebook.execute("state.n = 99")
    notebook.wait_for(f"{SEQ} === 99")


def test_figure_of_a_deleted_cell_is_closed(fill_notebook):
    notebook = shown(fill_notebook, SHOW, "1 + 1")
    notebook.page.evaluate("() => jupyterapp.commands.execute('notebook:delete-cell')")
    notebook.run(1)
    assert notebook.value("live.closed") is True


def test_image_is_repainted_with_a_new_shape(fill_notebook):
    show = """
def pixels(height, width, colour):
    return {"id": [1], "image": np.full((height, width), colour, "u4"), "x": [0], "y": [0], "dw": [40], "dh": [10]}

image = ColumnDataSource({"id": [], "image": [], "x": [], "y": [], "dw": [], "dh": []}, name="image")
plot.image_rgba(image="image", x="x", y="y", dw="dw", dh="dh", source=image)
live = LiveFigure(plot)
live
"""
    notebook = shown(fill_notebook, show)
    for height, width, colour, name in [(100, 800, 0xFF0000AA, "#aa0000"), (7, 13, 0xFF00BB00, "#00bb00")]:
        notebook.execute(f"live.frame({{image: pixels({height}, {width}, {colour})}})")
        notebook.wait_for(f"String(labModel('image').get_column('image')[0].shape) === '{height},{width}'")
        notebook.wait_for(f"labColours(0)['{name}'] > 50000")


def test_a_picture_in_runs_is_in_the_browser_what_it_was_in_python(fill_notebook):
    show = """
codes = np.zeros((40, 70), "u1")
codes[3:9, 5:60] = 200
codes[9, ::7] = 3
codes[30:] = np.arange(70) // 10
odd = np.arange(5, dtype="u1")  # what follows begins at an odd byte
image = ColumnDataSource({"odd": [], "image": []}, name="image")
plot.scatter("odd", "odd", source=image)
live = LiveFigure(plot)
live
"""
    notebook = shown(fill_notebook, show)
    notebook.execute("live.frame({image: {'odd': odd, 'image': [codes] * 4 + [codes.T]}})")
    notebook.wait_for("labModel('image').get_column('image').length === 5")
    column = "labModel('image').get_column('image').map((picture) => [picture.shape.join(), [...picture].join()])"
    expected = "[[','.join(map(str, c.shape)), ','.join(map(str, c.reshape(-1)))] for c in [codes] * 4 + [codes.T]]"
    assert notebook.js(column) == notebook.value(expected)


def test_plot_out_of_sight_is_painted_when_it_comes_into_sight(fill_notebook):
    far_below = "import ipywidgets\nlive = LiveFigure(plot)\n"
    far_below += "ipywidgets.VBox([ipywidgets.Box(layout={'min_height': '3000px'}), live])"
    notebook = shown(fill_notebook, far_below)
    scroll = "(labFind((e) => e.matches({!r}))[0].scrollIntoView(), true)"
    notebook.js(scroll.format("canvas"))
    notebook.wait_for(f"labColours(0)['{BLUE}'] > 5000")
    notebook.js(scroll.format(".jp-InputArea"))
    notebook.wait_for("labCanvases()[0].getBoundingClientRect().top > innerHeight")
    notebook.execute("live.frame({source: columns(1, n=2)})")
    notebook.wait_for_value("live.acked == live._seq")
    assert notebook.js(SEQ) == 1
    assert notebook.colours()[BLUE] > 5000
    notebook.js(scroll.format("canvas"))
    notebook.wait_for(f"labColours(0)['{BLUE}'] < 5000")


def test_axis_makes_room_for_longer_numbers_when_frames_pause(fill_notebook):
    notebook = shown(fill_notebook, SHOW)
    left = "labModels().filter(([, m]) => m.name === 'plot').map(([doc, m]) => doc.views_manager.find_one(m))"
    left += "[0].frame.bbox.left"
    before = notebook.js(left)
    notebook.execute("live.frame({}, {plot.y_range: {'end': 3_000_000_000}})")
    notebook.wait_for(f"{left} > {before}")


def test_kernel_that_ends_before_a_frame_was_acknowledged_is_not_complained_about(open_notebook):
    notebook = shown(open_notebook, SHOW)
    notebook.js(
        "window.labSetTimeout = window.setTimeout, window.labLate = [],"
        "window.setTimeout = (call, delay, ...rest) => delay === 500 ? labLate.push(call)"
        " : labSetTimeout(call, delay, ...rest)"
    )
    notebook.execute("live.frame({source: columns(7)})")
    notebook.wait_for("labLate.length > 0")
    notebook.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.dispose()")
    notebook.js("labLate.forEach((call) => call())")
    assert notebook.errors == []


def test_error_of_a_producer_is_shown_and_taken_away(fill_notebook):
    produce = """
class State:
    n = 0

def produce():
    if state.n == 1:
        raise ValueError("<b>no such chunk</b>")
    return Frame({source: columns(state.n)})

state = State()
publisher = Publisher(live, produce, version=lambda: state.n)
state.n = 1
"""
    notebook = fill_notebook(SETUP, SHOW, produce)
    for index in range(3):
        notebook.run(index)
    alert = "labFind((e) => e.getAttribute('role') === 'alert')[0].textContent"
    notebook.wait_for(f"{alert}.includes('<b>no such chunk</b>')")
    notebook.execute("state.n = 2")
    notebook.wait_for(f"{SEQ} === 2 && {alert} === ''")


def test_bokeh_widgets_are_loaded_where_they_are_used(fill_notebook):
    notebook = shown(fill_notebook, "LiveFigure(column(Div(text='a bokeh widget', name='div'), plot))")
    notebook.wait_for("labFind((e) => e.textContent === 'a bokeh widget').length > 0")


def test_notebook_file_stays_small(fill_notebook, lab):
    notebook = shown(fill_notebook, SHOW)
    notebook.save()
    newest = max(lab[1].glob("test*.ipynb"), key=lambda path: path.stat().st_mtime_ns)
    assert "widget-view" in newest.read_text()
    assert newest.stat().st_size < 10_000
