"""Cost of the live transport and of the dashboard: `pytest -s tests/browser/measure.py`.

It asserts nothing, so it is not collected. Wall times mean something on an idle machine only; processor time means a
little more on a busy one. `-k dashboard` chooses.
"""

import os
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import median

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


ROUNDS = 6
IDLE_MS = 2500  # before each cell
# Each in a new notebook, browsers and collectors being quicker with what they have seen, and from cell to cell in the
# same way: where another cell becomes the active one, JupyterLab has work to do, and takes a tenth of the loop's time.
# Pointers that are kept make the garbage collector go through everything, which is less while views are open
# (views/_collector.py); loops that drop theirs say what views cost alone.
# "at once" is as a person has it: behind a pause a processor may be slower by half for a tenth of a second up to a
# whole one, and JupyterLab is busy with the start of the cell, with views and without. "warm" is behind a second of
# other work in the same cell, when both are over.
ALLOCATE = """
import time
import numpy as np
import percpu_lab as lab

def keep(allocator):
    pointers = []
    for _ in range(100_000):
        pointers.append(allocator.alloc_percpu(64))

def drop(allocator):
    for _ in range(100_000):
        allocator.alloc_percpu(64)

def seconds(loop, allocator, warm_up):
    end = time.perf_counter() + warm_up
    while time.perf_counter() < end:
        sum(range(1000))
    start = time.perf_counter()
    loop(allocator)
    return time.perf_counter() - start
"""
LOOPS = ("keep", "drop")
WARM_UPS = {"at once": 0, "warm": 1.0}  # seconds
FIRST_LOOP = "first = seconds(loop, lab.Allocator(jit='wait'), 0)"  # takes longer than the others of a kernel
NO_BOARD = "a = lab.Allocator(jit='wait')"
SHOW_BOARD = "a = lab.Allocator(jit='wait')\nboard = lab.watch(a)\nboard"
LOOP_ALONE = "taken = seconds(loop, a, warm_up)"
WATCHED = f"before = board.figure._seq\n{LOOP_ALONE}\nsent = board.figure._seq - before"
FRAMES = """
import asyncio

a = lab.Allocator(jit='wait')
a.run(lab.Ops.alloc(np.arange(90_000), 64))

async def frames(n):
    for _ in range(n):
        a.run(lab.Ops.alloc(np.arange(500), 64))
        board.publisher.flush()
        await asyncio.sleep(0.1)
"""
NR_FRAMES = 40
# every moment that the page shows, and when; a look at every frame of the page would cost what is to be measured
MOMENTS = """(() => {
  const moments = (window.labMoments = []);
  const summary = labFind((e) => e.tagName === 'PRE' && e.textContent.startsWith('op ')).at(-1);
  const note = () => {
    const now = summary.textContent.match(/[0-9,]+/)[0];
    if (moments === labMoments) moments.push([now, performance.now(), window.labDone]);
  };
  note();
  new MutationObserver(note).observe(summary, {childList: true, characterData: true, subtree: true});
})()"""


def processor_ms():
    """Processor time so far of the processes of browser, server and kernel, in milliseconds."""
    spent = Counter()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            times = stat.read_text().rsplit(")", 1)[1].split()
            command = stat.with_name("cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it has ended
        names = {
            "--type=renderer": "renderer",
            "chrom": "rest of the browser",
            "ipykernel": "kernel",
            "jupyterlab": "server",
        }
        name = next((name for sign, name in names.items() if sign in command), None)
        if name:
            spent[name] += (int(times[11]) + int(times[12])) * 1000 // os.sysconf("SC_CLK_TCK")
    return spent


def test_measure_dashboard(open_notebook):
    rounds = {(loop, warm): [] for loop in LOOPS for warm in WARM_UPS}
    for _ in range(ROUNDS):
        for case, results in rounds.items():
            results.append((time_alone(open_notebook, *case), *time_watched(open_notebook, *case)))
            sys.stdout.write(f"\n{', '.join(case)}: {said(*results[-1])}")
    for case, results in rounds.items():
        alone, watched, nr_sent, _, _ = zip(*results, strict=True)
        before, behind, rate = median(alone), median(watched), sum(nr_sent) / sum(watched)
        sys.stdout.write(
            f"\n{', '.join(case)}: median {before:.3f} s alone, {behind:.3f} s watched: "
            f"{behind / before:.2f} times as long, {rate:.1f} frames a second"
        )
    sys.stdout.write("\n")


def ready(open_notebook, loop, warm, *cells):
    """A notebook whose last cell is to be measured, and the others are run."""
    notebook = open_notebook(ALLOCATE, FIRST_LOOP, *cells)
    notebook.run(0)
    notebook.execute(f"loop, warm_up = {loop}, {WARM_UPS[warm]}")
    for index in range(1, 1 + len(cells)):
        notebook.run(index)
    return notebook


def time_alone(open_notebook, loop, warm):
    """Seconds of the loop without views."""
    notebook = ready(open_notebook, loop, warm, NO_BOARD, LOOP_ALONE)
    notebook.page.wait_for_timeout(IDLE_MS)
    notebook.run(3)
    taken = notebook.value("taken")
    notebook.close()
    return taken


def time_watched(open_notebook, loop, warm):
    """Seconds of the watched loop, frames sent, moments painted before its end, ms from it to the last."""
    notebook = ready(open_notebook, loop, warm, SHOW_BOARD, WATCHED)
    notebook.wait_for_canvas(4)
    notebook.page.wait_for_timeout(IDLE_MS)
    notebook.js(MOMENTS)
    notebook.run(3)
    notebook.wait_for("labMoments.at(-1)[0] === '100,000'")
    moments, end = notebook.js("labMoments"), notebook.js("labDoneAt")
    nr_painted = sum(1 for now, _, is_done in moments if not is_done and now not in ("0", "100,000"))
    taken = notebook.value("taken"), notebook.value("sent")
    notebook.close()
    return *taken, nr_painted, moments[-1][1] - end


def said(alone, watched, nr_sent, nr_painted, late):
    """A round in words."""
    return (
        f"{alone:.3f} s alone, {watched:.3f} s watched: {nr_sent} frames sent, {nr_painted} moments on the screen "
        f"before the cell's end, the last one {late:.0f} ms after it"
    )


def test_measure_dashboard_frames(open_notebook):
    notebook = open_notebook(ALLOCATE + FRAMES, "board = lab.watch(a)\nboard", f"await frames({NR_FRAMES})")
    notebook.run(0)
    notebook.run(1)
    notebook.wait_for_canvas(4)
    notebook.page.wait_for_timeout(2500)
    start = processor_ms()
    notebook.run(2)
    spent = {name: (ms - start[name]) / NR_FRAMES for name, ms in processor_ms().items()}
    shares = ", ".join(f"{name} {ms:.0f}" for name, ms in sorted(spent.items(), key=lambda item: -item[1]))
    sys.stdout.write(f"\nms of processor time a frame of 100,000 areas, ten frames a second: {shares}\n")
