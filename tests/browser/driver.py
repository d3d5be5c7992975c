"""A notebook in a real JupyterLab in a real browser, driven from a test."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

IS_READY = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.context;
  return context?.isReady && context.sessionContext?.session?.kernel?.status === 'idle';
}"""

POLL_MS = 50  # a question at every frame would keep the page composing

# Bokeh and ipywidgets paint inside shadow roots, which no CSS selector of the page reaches.
HELPERS = """
window.labFind = (wanted) => {
  const found = [];
  const walk = (node) => {
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children ?? []) { if (wanted(child)) found.push(child); walk(child); }
  };
  walk(document.body);
  return found;
};
// A plot has two canvases: the glyphs' and, above it, that of tools and annotations.
window.labCanvases = () =>
  labFind((e) => e.tagName === 'CANVAS' && e.getBoundingClientRect().width > 50 && e.matches(':first-of-type'));
window.labColours = (k) => {
  const canvas = labCanvases()[k];
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = {};
  for (let i = 0; i < pixels.length; i += 4) {
    if (pixels[i + 3] === 0) continue;
    const colour = '#' + [0, 1, 2].map((j) => pixels[i + j].toString(16).padStart(2, '0')).join('');
    colours[colour] = (colours[colour] ?? 0) + 1;
  }
  return colours;
};
window.labModels = () =>
  (window.Bokeh?.documents ?? []).flatMap((doc) => [...doc.all_models].map((model) => [doc, model]));
window.labModel = (name, k = 0) => labModels().map(([, model]) => model).filter((model) => model.name === name).at(k);
"""


class Notebook:
    """An open notebook.

    Args:
        page: a fresh page of the browser.
        base: address of the JupyterLab.
        name: path of the notebook below its root.
    """

    def __init__(self, page: Page, base: str, name: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.outside: list[str] = []
        home = (base, base.replace("http", "ws", 1), "data:", "blob:", "about:")
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("request", lambda request: request.url.startswith(home) or self.outside.append(request.url))
        page.on("websocket", lambda socket: socket.url.startswith(home) or self.outside.append(socket.url))
        page.add_init_script(HELPERS)
        page.goto(f"{base}/doc/tree/{name}")
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        self.page.wait_for_function(IS_READY, timeout=60_000)

    def save(self) -> None:
        """Write the notebook's file."""
        self.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")

    def reload(self) -> None:
        """Save, and load the page again; the kernel goes on."""
        self.save()
        self.page.reload()
        self._wait_until_ready()

    def replace(self, *cells: str) -> None:
        """Put other cells in the place of all that are there; what they showed goes, the kernel goes on."""
        self.page.evaluate(
            """(sources) => {
              const {model} = jupyterapp.shell.currentWidget.content;
              const {sharedModel} = model;
              model.deletedCells.push(...sharedModel.cells.map(({id}) => id)); // the kernel hears of them
              sharedModel.transact(() => {
                sharedModel.deleteCellRange(0, sharedModel.cells.length);
                sharedModel.insertCells(0, sources.map((source) => ({cell_type: 'code', source})));
              });
            }""",
            list(cells),
        )
        self.wait_for("!window.Bokeh?.documents.length")

    def run(self, index: int, *, wait: bool = True) -> None:
        """Run a cell as its run button does."""
        self.page.evaluate(
            """(i) => {
              const {content} = jupyterapp.shell.currentWidget;
              content.activeCellIndex = i;
              content.deselectAll();
              window.labDone = false;
              window.labRun = jupyterapp.commands.execute('notebook:run-cell').finally(() => {
                window.labDone = true;
                window.labDoneAt = performance.now();
              });
            }""",
            index,
        )
        if wait:
            self.wait_until_done()

    @property
    def done(self) -> bool:
        """Whether the cell that was last run has ended."""
        return bool(self.page.evaluate("() => window.labDone"))

    def wait_until_done(self, timeout: float = 120) -> None:
        """Wait for the end of the cell that was last run, without a question at every frame of the page."""
        late = f"new Promise((_, fail) => setTimeout(() => fail('a cell still runs'), {1000 * timeout}))"
        self.page.evaluate(f"async () => {{ await Promise.race([window.labRun, {late}]); }}")

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """Outputs of a cell as the notebook file would keep them."""
        return self.page.evaluate(
            "(i) => jupyterapp.shell.currentWidget.content.model.cells.get(i).toJSON().outputs", index
        )

    def text(self, index: int) -> str:
        """Text of all outputs of a cell: streams, results and tracebacks."""
        return "".join(_text_of(output) for output in self.outputs(index))

    def execute(self, code: str) -> str:
        """Run code in the kernel without a cell; returns what it printed, raises RuntimeError if it failed."""
        failed, text = self.page.evaluate(
            """async (code) => {
              const {kernel} = jupyterapp.shell.currentWidget.sessionContext.session;
              const future = kernel.requestExecute({code, store_history: false});
              let text = '', failed = false;
              future.onIOPub = ({header, content}) => {
                if (header.msg_type === 'stream') text += content.text;
                if (header.msg_type === 'error') { failed = true; text += content.traceback.join('\\n'); }
              };
              await future.done;
              return [failed, text];
            }""",
            code,
        )
        if failed:
            raise RuntimeError(text)
        return text

    def value(self, expression: str) -> Any:
        """Value of an expression in the kernel that JSON can carry."""
        return json.loads(self.execute(f"import json as _json; print(_json.dumps({expression}))"))

    def wait_for_value(self, expression: str, timeout: float = 60) -> Any:
        """Ask the kernel until an expression is true; returns its value."""
        return self.poll(lambda: self.value(expression), expression, timeout)

    def wait_for(self, javascript: str, timeout: float = 60) -> Any:
        """Wait until a JavaScript expression is true in the page; returns its value.

        What cannot be evaluated yet, such as a column that has no first value, is not true yet.
        """
        predicate = f"() => {{ try {{ return ({javascript}); }} catch {{ return false; }} }}"
        return self.page.wait_for_function(predicate, timeout=timeout * 1000, polling=POLL_MS).json_value()

    def js(self, javascript: str) -> Any:
        """Value of a JavaScript expression in the page; labModel(name) finds a Bokeh model by its name."""
        return self.page.evaluate(f"() => ({javascript})")

    def poll(self, ask: Callable[[], Any], what: str, timeout: float = 60) -> Any:
        """Ask until the answer is true, running the browser in between; returns the answer."""
        deadline = time.monotonic() + timeout
        while not (answer := ask()):
            assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s: {what}; errors: {self.errors}"
            self.page.wait_for_timeout(50)
        return answer

    def wait_for_canvas(self, nr_canvases: int = 1, timeout: float = 60) -> None:
        """Wait until at least so many plots are on the page and painted."""
        idle = "window.Bokeh?.documents.length > 0 && Bokeh.documents.every((doc) => doc.is_idle)"
        self.wait_for(f"{idle} && labCanvases().length >= {nr_canvases}", timeout)

    @property
    def nr_canvases(self) -> int:
        """Number of plots on the page, through all shadow roots."""
        return int(self.js("labCanvases().length"))

    def colours(self, canvas: int = 0) -> dict[str, int]:
        """Number of pixels of each colour "#rrggbb" on a canvas; transparent ones do not count."""
        return self.page.evaluate("(k) => labColours(k)", canvas)

    def ink(self, canvas: int = 0) -> int:
        """Number of pixels that are neither transparent nor white."""
        return sum(count for colour, count in self.colours(canvas).items() if colour != "#ffffff")

    def point(self, plot: str, x: float, y: float, view: int = 0) -> tuple[float, float]:
        """Place on the page of a point in a plot's data units; scrolls it into sight."""
        where = """([name, x, y, k]) => {
          const [doc, model] = labModels().filter(([, model]) => model.name === name).at(k);
          const view = doc.views_manager.find_one(model);
          view.el.scrollIntoView({block: 'center'});
          const {left, top} = view.canvas_view.el.getBoundingClientRect();
          return [left + view.frame.x_scale.compute(x), top + view.frame.y_scale.compute(y)];
        }"""
        left, top = self.page.evaluate(where, [plot, x, y, view])
        return left, top

    def click_button(self, text: str) -> None:
        """Click the first button with this text."""
        label = re.compile(rf"^\s*{re.escape(text)}\s*$")
        self.page.locator("button.jupyter-button").filter(has_text=label).first.click()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place of the page and let it go at another."""
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move(*end, steps=8)
        mouse.up()

    def screenshot(self, path: Path | str) -> None:
        """Write the page as a PNG file."""
        self.page.screenshot(path=str(path))

    def close(self) -> None:
        """Stop the kernel and close the page; does nothing the second time."""
        if self.page.is_closed():
            return
        self.page.evaluate(
            "async () => { await jupyterapp.shell.currentWidget?.sessionContext?.shutdown?.().catch(() => null); }"
        )
        self.page.close()


def _text_of(output: dict[str, Any]) -> str:
    text = output.get("text", output.get("traceback", output.get("data", {}).get("text/plain", "")))
    return "".join(text)
