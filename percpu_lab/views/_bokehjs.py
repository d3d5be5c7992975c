"""BokehJS for the page: from the installed package, once a kernel, never into the notebook file."""

from pathlib import Path

import anywidget
from bokeh.embed.bundle import bundle_for_objs_and_resources
from bokeh.models import LayoutDOM
from bokeh.resources import Resources


class _Script(anywidget.AnyWidget):
    """A part of BokehJS, held by the kernel for every page that needs it; made once a kernel."""

    _esm = Path(__file__).with_name("script.js").read_text(encoding="utf-8")

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        super().__init__()
        self.on_msg(self._push)
        self._push()  # unasked: a kernel busy with the next cell would not hear the question

    def _push(self, *_message: object) -> None:
        self.send({"type": "script"}, [self._path.read_bytes()])


_scripts: dict[str, _Script] = {}


def _script(path: str) -> _Script:
    if path not in _scripts or _scripts[path].comm is None:  # somebody closed all widgets
        _scripts[path] = _Script(path)
    return _scripts[path]


def scripts_for(root: LayoutDOM) -> list[list[str]]:
    """Name the parts of BokehJS that a root needs, with a reference by which live.js finds each."""
    needed = bundle_for_objs_and_resources([root], Resources(mode="absolute"))
    return [[Path(file.url).name, f"anywidget:{_script(file.url).model_id}"] for file in needed.js_files]
