"""Cost of the live transport: `pytest -s tests/browser/measure.py`. It asserts nothing, so it is not collected."""

import sys
from itertools import pairwise

SETUP = """
import time
import numpy as np
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure
from percpu_lab.views.live import Frame, LiveFigure, Publisher

N = 1000
bars = ColumnDataSource({name: [] for name in ("id", "left", "right", "bottom", "top", "seq")}, name="bars")
image = ColumnDataSource({name: [] for name in ("image", "x", "y", "dw", "dh")}, name="image")
plot = figure(width=900, height=300, x_range=Range1d(0, N), y_range=Range1d(0, 50), tools="", toolbar_location=None)
plot.image_rgba("image", "x", "y", "dw", "dh", source=image)
plot.quad(left="left", right="right", bottom="bottom", top="top", source=bars, line_color=None)
live = LiveFigure(plot)
left = np.arange(N, dtype="f4")
row = (np.arange(N) % 50).astype("f4")
pixels = np.full((100, 800), 0x40808080, "u4")

def quads(seq):
    moved = left + np.float32(seq % 7)
    return {"id": np.arange(N), "left": moved, "right": moved + 8, "bottom": row, "top": row + np.float32(0.8),
            "seq": np.full(N, seq)}

def picture():
    return {"image": pixels, "x": [0], "y": [0], "dw": [N], "dh": [50]}

def median_ms(send):
    times = []
    for k in range(200):
        start = time.perf_counter()
        send(k)
        times.append(time.perf_counter() - start)
        time.sleep(0.02)
    return round(1000 * sorted(times)[100], 3)

live
"""
SEND = """
print("1,000 quads of 6 columns, ms to build and send:", median_ms(lambda k: live.frame({bars: quads(k)})))
print("image of 100 x 800, ms to build and send:", median_ms(lambda k: live.frame({image: picture()})))
"""
LOOP = """
class State:
    n = 0

state = State()

def busy(seconds):
    nr_rounds, end = 0, time.perf_counter() + seconds
    mine, all_threads = time.thread_time(), time.process_time()
    while time.perf_counter() < end:
        for _ in range(1000):
            state.n += 1
        nr_rounds += 1
    mine, all_threads = time.thread_time() - mine, time.process_time() - all_threads
    return nr_rounds / seconds, (all_threads - mine) / seconds

def version():
    return state.n if publishing else 0

publishing = False
publisher = Publisher(live, lambda: Frame({bars: quads(state.n), image: picture()}), version=version)
rates = {False: [], True: []}
for _ in range(4):
    for publishing in (False, True):
        rates[publishing].append(busy(2))
best = {which: max(rate for rate, _ in both) for which, both in rates.items()}
share = sorted(other for _, other in rates[True])[len(rates[True]) // 2]
print(f"rounds a second without frames {best[False]:.0f}, with {best[True]:.0f} ({best[True] / best[False] - 1:+.1%});",
      f"all threads but the loop's use {share:.1%} of a processor")
"""
WATCH = """(() => {
  window.labSeen = [];
  const look = () => {
    const seq = labModel('bars').get_column('seq')[0];
    if (labSeen.at(-1)?.[0] !== seq) labSeen.push([seq, performance.now()]);
    requestAnimationFrame(look);
  };
  look();
})()"""


def test_measure(open_notebook):
    notebook = open_notebook(SETUP, SEND, LOOP)
    notebook.run(0)
    notebook.wait_for_canvas()
    notebook.run(1)
    notebook.js(WATCH)
    notebook.run(2)
    times = [time for _, time in notebook.js("labSeen")]
    gaps = sorted(after - before for before, after in pairwise(times) if after - before < 1000)
    frames = f"ms between two frames in the browser: median {gaps[len(gaps) // 2]:.0f}, longest {gaps[-1]:.0f}"
    sys.stdout.write(f"\n{notebook.text(1)}{notebook.text(2)}{frames}\n")
