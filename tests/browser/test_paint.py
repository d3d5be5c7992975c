"""What is painted only when needed must be there when it is needed."""

import pytest

SETUP = """
import numpy as np
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure
from percpu_lab.views.live import LiveFigure

BLUE, GREEN, RED, YELLOW = "#0000ff", "#00ff00", "#ff0000", "#ffff00"

def columns(seq, n=40):
    left = np.arange(n, dtype="f4")
    return {"id": np.arange(n), "left": left, "right": left + 1, "seq": np.full(n, seq),
            "mark": [RED if seq > 1 else YELLOW] * n}

def make(title="bars"):
    source = ColumnDataSource(columns(0), name="bars")
    plot = figure(name="plot", width=600, height=250, title=title, toolbar_location=None, x_range=Range1d(0, 40),
                  y_range=Range1d(0, 10), tools="box_select,tap", active_drag="box_select",
                  outline_line_color="#ff00ff", outline_line_width=3, background_fill_color=None,
                  border_fill_color=None)
    plot.quad(left="left", right="right", bottom=0, top=10, line_color=None, fill_color=BLUE, source=source,
              selection_fill_color="mark", selection_fill_alpha=1, nonselection_fill_color=GREEN,
              nonselection_fill_alpha=1, legend_label="bars")
    plot.add_layout(plot.legend[0], "above")
    return source, plot

source, plot = make()
live = LiveFigure(plot)
live
"""
OVERLAY = "labFind((e) => e.tagName === 'CANVAS' && e.matches(':nth-of-type(2)'))[0]"
LEGEND_CANVASES = "labFind((e) => e.tagName === 'CANVAS' && e.className.includes('bk-glyph'))"
PATCHED = "Bokeh.require('core/dom').InlineStyleSheet.prototype._update === window.labPatch"


def show_bars(show):
    notebook = show(SETUP, "other = LiveFigure(make('other')[1])\nother")
    notebook.run(0)
    notebook.wait_for_canvas()
    return notebook


@pytest.fixture
def bars(fill_notebook):
    return show_bars(fill_notebook)


def shares(notebook):
    """Tenths of the plot in the colours of plain, selected and other rows."""
    colours = notebook.colours()
    nr_pixels = sum(colours.get(colour, 0) for colour in ("#0000ff", "#ff0000", "#00ff00"))
    return [round(10 * colours.get(colour, 0) / nr_pixels) for colour in ("#0000ff", "#ff0000", "#00ff00")]


def send(notebook, seq):
    notebook.execute(f"live.frame({{source: columns({seq})}})")
    notebook.wait_for(f"labModel('bars').get_column('seq')[0] === {seq}")


def test_rows_selected_after_many_frames_have_the_look_of_selected_rows(bars):
    for seq in (1, 2):
        send(bars, seq)
    bars.poll(lambda: shares(bars) == [10, 0, 0], "all rows plain")
    bars.drag(bars.point("plot", 0.1, 1), bars.point("plot", 7.9, 9))
    bars.poll(lambda: shares(bars) == [0, 2, 8], "a fifth of the rows selected")
    bars.execute("live.frame({source: {name: values[4:] for name, values in columns(3).items()}})")
    bars.poll(lambda: shares(bars) == [0, 1, 9], "the rest of the selected rows, where the new frame has them")


def test_what_shows_nothing_is_not_painted_but_can_be_pointed_at(fill_notebook):
    notebook = fill_notebook(
        SETUP.replace("source, plot = make()", "source, plot = make()\nplot.renderers[0].glyph.tags = ['unseen']"),
        "source, plot = make('seen')\nlive = LiveFigure(plot)\nlive",
    )
    notebook.run(0)
    notebook.wait_for_canvas()
    assert notebook.colours().get("#0000ff", 0) == 0
    notebook.page.mouse.click(*notebook.point("plot", 30.5, 5))
    notebook.wait_for_value("[event.ids for event in live.drain() if event.kind == 'tap'] == [(30,)]")
    notebook.run(1)
    notebook.wait_for("labCanvases().length === 2 && (labColours(1)['#0000ff'] ?? 0) > 1000")


def test_nothing_is_left_of_rows_that_are_gone(bars):
    send(bars, 1)
    bars.poll(lambda: bars.colours().get("#0000ff", 0) > 1000, "rows")
    bars.execute("live.frame({source: {name: values[:0] for name, values in columns(2).items()}})")
    bars.poll(lambda: bars.colours().get("#0000ff", 0) == 0, "no rows")


def test_a_tap_hits_the_rows_of_the_newest_frame(bars):
    bars.execute("live.frame({source: {name: values[20:] for name, values in columns(1).items()}})")
    bars.wait_for("labModel('bars').get_length() === 20")
    bars.page.mouse.click(*bars.point("plot", 30.5, 5))
    bars.wait_for_value("[event.ids for event in live._events if event.kind == 'tap'] == [(30,)]")


def test_the_overlay_is_on_the_page_while_something_is_in_it(bars):
    send(bars, 1)
    bars.wait_for(f"{OVERLAY}.style.display === 'none'")
    bars.page.mouse.move(*bars.point("plot", 5, 2))
    bars.page.mouse.down()
    bars.page.mouse.move(*bars.point("plot", 25, 8), steps=4)
    bars.wait_for(f"{OVERLAY}.style.display === ''")
    assert bars.js(f"{OVERLAY}.getBoundingClientRect().width") == 600
    bars.page.mouse.up()
    bars.wait_for(f"{OVERLAY}.style.display === 'none'")


def test_the_entry_of_a_legend_is_a_picture_in_the_colour_of_its_glyph(bars):
    pixel = """(() => {
      const picture = labFind((e) => e.tagName === 'IMG' && e.className.includes('bk-glyph'))[0];
      if (!picture?.complete) return null;
      const context = new OffscreenCanvas(20, 20).getContext('2d');
      context.drawImage(picture, 0, 0, 20, 20);
      return [...context.getImageData(10, 10, 1, 1).data].join();
    })()"""
    bars.wait_for(f"{pixel} === '0,0,255,255'")
    assert bars.js(LEGEND_CANVASES) == []
    item = "labModels().map(([, model]) => model).find(({type}) => type === 'LegendItem')"
    for is_visible in ("false", "true"):
        bars.js(f"{item}.visible = {is_visible}")
        assert bars.js(LEGEND_CANVASES) == []
    bars.wait_for(f"{pixel} === '0,0,255,255'")


AXES = """
from bokeh.layouts import column
from bokeh.models import AllLabels, CustomJSTickFormatter, FixedTicker, LinearAxis, NoOverlap, Range1d
from bokeh.plotting import figure
from percpu_lab.views.live import LiveFigure

def make(policy):
    plot = figure(name="plot", width=500, height=200, toolbar_location=None, tools="", x_range=Range1d(0, 1000),
                  y_range=Range1d(8, 0), y_axis_label="chunks", x_axis_label="offset")
    words = CustomJSTickFormatter(args={"unit": "kB"}, code="return tick > 6 ? '12' : `${tick} ${unit}, Áj|`")
    plot.yaxis.update(ticker=FixedTicker(ticks=[0, 2.5, 5, 8]), formatter=words)
    plot.add_layout(LinearAxis(ticker=FixedTicker(ticks=[1, 4, 7]), major_label_text_font_style="bold"), "right")
    plot.add_layout(LinearAxis(major_label_text_color="red", major_label_text_font_size="1.2em"), "above")
    plot.axis.major_label_policy = policy
    return plot

live = LiveFigure(column(make(AllLabels()), make(NoOverlap(min_distance=0))))
live
"""


def test_labels_of_axes_stand_and_look_as_bokeh_would_have_them(fill_notebook):
    notebook = fill_notebook(AXES)
    notebook.run(0)
    notebook.wait_for_canvas(2)
    pixels = """[0, 1].map((k) => {
      const canvas = labCanvases()[k];
      return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    })"""
    notebook.wait_for(f"(([one, other]) => one.every((value, i) => value === other[i]))({pixels})")
    assert notebook.colours(0).get("#ff0000", 0) > 20


def test_text_of_ticks_follows_what_it_is_made_of(fill_notebook):
    notebook = fill_notebook(AXES)
    notebook.run(0)
    notebook.wait_for_canvas(2)
    formatter = "labModels().map(([, model]) => model).find(({type}) => type === 'CustomJSTickFormatter')"
    said = f"{formatter}.doFormat([1]).join()"
    assert notebook.js(said) == "1 kB, Áj|"
    notebook.js(f"{formatter}.args = {{unit: 'MB'}}")
    assert notebook.js(said) == "1 MB, Áj|"
    notebook.js(f"{formatter}.setv({{args: {{size: 'GB'}}, code: 'return size + tick'}})")
    assert notebook.js(said) == "GB1"


def test_the_browser_gets_used_to_painting_once_a_page_and_shows_what_it_showed(open_notebook):
    notebook = show_bars(open_notebook)
    nr_warm = "window[Symbol.for('percpu_lab.paint')].nrWarm"
    before = notebook.colours()
    notebook.wait_for(f"{nr_warm} === 50")
    assert notebook.colours() == before
    send(notebook, 1)
    notebook.run(1)
    notebook.wait_for_canvas(2)
    notebook.page.wait_for_timeout(1000)
    assert notebook.js(nr_warm) == 50


STATE = """(() => {
  const names = ["data", "start", "end", "text", "visible", "ticks", "location"];
  const values = (model) => [...model].map(({attr}) => names.includes(attr) ? model[attr] : null);
  return Object.fromEntries(labModels().map(([, model]) => [model.id, JSON.stringify(values(model))]));
})()"""


def test_what_a_page_has_practised_on_is_never_shown_and_leaves_no_trace(open_notebook):
    notebook = open_notebook("import percpu_lab as lab\nboard = lab.watch(lab.Allocator(jit='wait'))\nboard")
    notebook.run(0)
    notebook.wait_for_canvas(4)
    notebook.js("""(() => {
      window.labShown = new Set();
      window.labBare = 0;
      const copy = document.createElement('canvas');
      const picture = (canvas) => {
        // without the margin, into which text reaches: Bokeh does not clear it
        [copy.width, copy.height] = [canvas.width - 2, canvas.height];
        copy.getContext('2d').drawImage(canvas, -2, 0);
        return copy.toDataURL();
      };
      const look = () => {
        labShown.add(labCanvases().map(picture).join());
        labBare += CANVASES.filter((e) => new Set(
          e.getContext('2d').getImageData(0, 0, e.width, e.height).data).size === 1).length;
        requestAnimationFrame(look);
      };
      setTimeout(look, 200);
    })()""".replace("CANVASES", LEGEND_CANVASES))
    notebook.page.wait_for_timeout(250)
    state = notebook.js(STATE)
    notebook.wait_for("window[Symbol.for('percpu_lab.paint')].nrWarm === 50")
    notebook.page.wait_for_timeout(1000)
    assert notebook.js(STATE) == state
    assert notebook.js("labShown.size") <= 2, "the board as it appeared, and at rest"
    assert notebook.js("labBare") == 0, "entries of legends without their colours"
    assert notebook.value("board.figure._seq") == 1


@pytest.fixture
def low_page(open_notebook):
    """A board of which only the first plot is in sight."""
    notebook = open_notebook("import percpu_lab as lab\nboard = lab.watch(lab.Allocator(jit='wait'))\nboard")
    notebook.page.set_viewport_size({"width": 1300, "height": 500})
    notebook.run(0)
    notebook.wait_for_canvas(4)
    tops = notebook.js("labCanvases().map((e) => e.getBoundingClientRect().top)")
    assert sorted(top < 500 for top in tops) == [False, False, False, True]
    return notebook


def test_plots_out_of_sight_have_no_canvases_either_that_are_seldom_drawn_on(low_page):
    assert low_page.js(LEGEND_CANVASES) == []
    assert low_page.js("labFind((e) => e.tagName === 'IMG' && e.className.includes('bk-glyph')).length") > 8
    overlays = low_page.js("labFind((e) => e.matches('canvas:nth-of-type(2)')).map((e) => e.style.display)")
    assert overlays == ["none"] * 4


def test_the_browser_gets_used_to_plots_that_are_out_of_sight_too(low_page):
    low_page.js("""(() => {
      window.labPaints = {};
      for (const plot of Bokeh.documents[0].views_manager.query(({model}) => model.type === 'Figure')) {
        const {repaint} = plot, {text} = plot.model.title;
        labPaints[text] = 0;
        plot.repaint = () => { labPaints[text]++; repaint.call(plot); };
      }
    })()""")
    low_page.wait_for("window[Symbol.for('percpu_lab.paint')].nrWarm === 50")
    paints = low_page.js("labPaints")
    assert len(paints) == 4
    assert min(paints.values()) >= 50, paints


def test_style_sheets_are_no_elements_of_the_page_and_can_change(bars):
    in_view = "e.getRootNode().host?.matches('.bk-Figure, .bk-LinearAxis')"
    assert bars.js(f"labFind((e) => e.matches('style') && {in_view})") == []
    style = "getComputedStyle(labFind((e) => e.matches('.bk-Figure'))[0])"
    assert bars.js(f"{style}.getPropertyValue('--bk-test').trim()") == ""
    for colour in ("red", "blue"):
        bars.js(f"labModel('plot').stylesheets = [':host {{ --bk-test: {colour} }}']")
        assert bars.js(f"{style}.getPropertyValue('--bk-test').trim()") == colour
    bars.js("labModel('plot').stylesheets = []")
    assert bars.js(f"{style}.getPropertyValue('--bk-test').trim()") == ""


STEPS = """
import numpy as np
from bokeh.models import Range1d
from bokeh.plotting import figure
from percpu_lab.views.live import LiveFigure

plot = figure(width=400, height=300, x_range=Range1d(0, 10), y_range=Range1d(0, 10), toolbar_location=None)
plot.step([1, 4, np.nan, 6, 9], [2, 8, 5, 3, 7], mode="after", line_width=4, line_color="#ff0000")
plot.step([1, 9], [9, 9], mode="after", line_width=4, line_color="#0000ff", line_alpha=0.5)
live = LiveFigure(plot)
live
"""


def test_thick_steps_are_as_thick_as_they_should_be_and_part_where_there_is_no_point(fill_notebook):
    notebook = fill_notebook(STEPS)
    notebook.run(0)
    notebook.wait_for_canvas()
    across, up = (
        notebook.js(
            f"""(() => {{
              const [[doc, model]] = labModels().filter(([, {{type}}]) => type === 'Figure');
              const view = doc.views_manager.find_one(model), {{x_scale, y_scale}} = view.frame;
              const context = view.canvas_view.primary.ctx;
              const x = Math.round(x_scale.compute({x})), y = Math.round(y_scale.compute({y}));
              const {{data}} = context.getImageData(x - {width / 2}, y - {height / 2}, {width}, {height});
              let covered = 0;
              for (let i = 0; i < data.length; i += 4) covered += (255 - data[i + 1]) / 255;
              return covered;
            }})()"""
        )
        for x, y, width, height in [(2.5, 2, 1, 20), (6 + 3, 5, 20, 1)]
    )
    assert across == pytest.approx(4, abs=0.6)
    assert up == pytest.approx(4, abs=0.6)
    colours = notebook.colours()
    assert colours.get("#8080ff", colours.get("#7f7fff", 0)) > 500, "see-through lines are painted once"


def test_bokeh_is_patched_once_a_page(bars):
    bars.js("window.labPatch = Bokeh.require('core/dom').InlineStyleSheet.prototype._update")
    bars.run(1)
    bars.wait_for_canvas(2)
    assert bars.js(PATCHED)
    assert "textContent" in bars.js("String(window.labPatch)")


def test_a_path_that_the_last_paint_left_is_not_outlined_by_the_next(bars):
    left_over = """(() => {
      const [doc, model] = labModels().find(([, {name}]) => name === 'plot');
      const view = doc.views_manager.find_one(model);
      const {ctx} = view.canvas_view.primary;
      ctx.beginPath();
      ctx.rect(2, 2, 30, 200);
    })()"""
    send(bars, 1)
    before = bars.colours()["#ff00ff"]
    assert before > 100
    bars.js(left_over)
    send(bars, 2)
    bars.page.wait_for_timeout(1000)
    assert bars.colours()["#ff00ff"] == before


def test_the_code_of_the_first_figure_serves_all_on_the_page(bars):
    name = "Object.getOwnPropertySymbols(window).map(String).filter((name) => name.includes('percpu_lab.live'))"
    (first,) = bars.js(name)
    assert "STAMP" not in first
    bars.js(f"window.labCode = window[Symbol.for('{first[7:-1]}')]")
    bars.run(1)
    bars.wait_for_canvas(2)
    assert bars.js(name) == [first]
    assert bars.js(f"window.labCode === window[Symbol.for('{first[7:-1]}')]")
