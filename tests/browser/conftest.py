"""One JupyterLab and one browser a test session, cut off from the user's settings and from the network."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from browser.driver import Notebook
from playwright.sync_api import Browser, ViewportSize, sync_playwright

Opener = Callable[..., Notebook]

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
IS_PROMISED = os.environ.get("CI") == "true" or os.environ.get("PERCPU_LAB_REQUIRE_BROWSER") == "1"
REPOSITORY = Path(__file__).parents[2]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
VIEWPORT: ViewportSize = {"width": 1300, "height": 1000}
NO_NEWS = '{"fetchNews": "false", "checkForUpdates": false, "doNotDisturbMode": true}'

NO_DEBUGGER = '{"disabledExtensions": {"@jupyterlab/debugger-extension": true}}'  # prints errors when a page is left


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of the system; playwright's own is never downloaded."""
    if shutil.which(CHROMIUM) is None:
        reason = f"no browser at {CHROMIUM}: install chromium, or say where it is with CHROMIUM=/path"
        pytest.fail(reason) if IS_PROMISED else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and root folder of a JupyterLab that holds a copy of the notebooks."""
    root, home = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("home")
    shutil.copytree(REPOSITORY / "notebooks", root / "notebooks")
    _write(home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings", NO_NEWS)
    _write(home / "config/labconfig/page_config.json", NO_DEBUGGER)
    port = _free_port()
    with (home / "lab.log").open("w") as log:
        process = subprocess.Popen(_command(port, root), env=_environment(home), stdout=log, stderr=log, cwd=root)
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_for(base, process, home / "lab.log")
            yield base, root
        finally:
            process.terminate()
            process.wait(30)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _command(port: int, root: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={root}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
    ]


def _environment(home: Path) -> dict[str, str]:
    folders = {
        "HOME": home,
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "IPYTHONDIR": home / "ipython",
    }
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **{name: str(folder) for name, folder in folders.items()}, "PYTHONPATH": path}


def _wait_for(base: str, process: "subprocess.Popen[bytes]", log: Path, timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            with urllib.request.urlopen(f"{base}/api/status", timeout=5):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


@pytest.fixture
def open_notebook(chromium: Browser, lab: tuple[str, Path]) -> Iterator[Opener]:
    """Open a notebook of code cells, or one of the repository's by its path below notebooks/.

    Example: `open_notebook("x = 1", "print(x)")`, `open_notebook(path="00_tour.ipynb")`.

    The page is new, and so is the kernel.
    At the end no error may stand in the browser's console and no request may have left the machine.
    """
    yield from _opener(*lab, chromium)


@pytest.fixture(scope="module")
def _one_page(chromium: Browser, lab: tuple[str, Path]) -> Iterator[Notebook]:
    """The notebook whose cells the tests of a file replace in turn."""
    for open_ in _opener(*lab, chromium):
        yield open_("1 + 1")


@pytest.fixture
def fill_notebook(_one_page: Notebook) -> Iterator[Opener]:
    """As open_notebook, but on a page and with a kernel that the tests of a file share: several seconds faster.

    What the test before showed is gone, its names in the kernel are not.
    """

    def fill(*cells: str) -> Notebook:
        _one_page.page.set_viewport_size(VIEWPORT)
        _one_page.page.mouse.move(0, 0)
        _one_page.replace(*cells)
        return _one_page

    yield fill
    complaints = [*_one_page.errors, *_one_page.outside]
    _one_page.errors.clear()  # not said again by the tests behind
    _one_page.outside.clear()
    assert complaints == []


def _opener(base: str, root: Path, chromium: Browser) -> Iterator[Opener]:
    opened: list[Notebook] = []

    def open_(*cells: str, path: str | None = None) -> Notebook:
        name = f"notebooks/{path}" if path else _write_notebook(root, cells)
        page = chromium.new_page(viewport=VIEWPORT)
        opened.append(Notebook(page, base, name))
        return opened[-1]

    yield open_
    for notebook in opened:
        notebook.close()
    assert [notebook.errors for notebook in opened] == [[]] * len(opened)
    assert [notebook.outside for notebook in opened] == [[]] * len(opened)


def _write_notebook(root: Path, cells: tuple[str, ...]) -> str:
    name = f"test{len(list(root.glob('test*.ipynb')))}.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, root / name)
    return name
