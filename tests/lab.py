"""JupyterLab in a real browser, for tests."""

import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import TimeoutError, expect
from waiting import WAIT_S, until

from shalab.laboratory.widgets import launch

WAIT_MS = 120_000  # a safety net: a kernel imports torch first, and a machine may be busy
expect.set_options(timeout=WAIT_MS)

_FOLDERS = (
    "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR",
)  # fmt: skip
# Of the code cells; a folded one shows none.
_PROMPTS = (
    "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.textContent).filter(Boolean)"
)
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}  # fmt: skip


def launch_browser(playwright):
    """The Chromium or Chrome of this machine, else playwright's own; without any, a skip that cannot be overlooked."""
    try:
        return launch(playwright)
    except Exception as error:
        lines = "no Chromium or Chrome was found, and playwright has none: THE WIDGETS WERE NOT TRIED IN A BROWSER"
        if os.environ.get("CI"):
            pytest.fail(f"{lines}\n{error}")
        warnings.warn(lines, stacklevel=2)
        pytest.skip(lines)


def free_port() -> int:
    """A port below those that systems give away by themselves: no other test gets it before it is used."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(15_000, 30_000)))
            return probe.getsockname()[1]


class Server:
    """JupyterLab on a free loopback port, with settings of its own, serving `folder`."""

    def __init__(self, folder: Path, home: Path):
        self.folder, self.home, self.token, self.port = folder, home, "a-token-for-tests", free_port()

    def __enter__(self):
        folders = {name: str(self.home / name.lower()) for name in _FOLDERS}
        overrides = Path(folders["JUPYTER_CONFIG_DIR"]) / "labconfig" / "default_setting_overrides.json"
        overrides.parent.mkdir(parents=True)
        overrides.write_text(json.dumps(_SETTINGS), encoding="utf-8")
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={self.port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.folder}",
        ]  # fmt: skip
        self.log = (self.home / "server.log").open("w", encoding="utf-8")
        self.process = subprocess.Popen(command, env={**os.environ, **folders}, stdout=self.log, stderr=self.log)
        for _ in range(240):
            try:
                self._call("api/status")
                return self
            except OSError:
                time.sleep(0.5)
                if self.process.poll() is not None:
                    break
        raise RuntimeError((self.home / "server.log").read_text(encoding="utf-8"))

    def __exit__(self, *_):
        try:
            self._call("api/shutdown", "POST")
            self.process.wait(60)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
        self.log.close()

    def add_kernel(self, name: str, environment: dict[str, str]):
        """A second kernel for Python, with these variables."""
        folder = self.home / "jupyter_data_dir" / "kernels" / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": command, "display_name": "Python 3", "language": "python", "env": environment}
        (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def _call(self, path, method="GET"):
        request = urllib.request.Request(
            self.url(path), method=method, headers={"Authorization": f"token {self.token}"}
        )  # fmt: skip
        return urllib.request.urlopen(request, timeout=60).read()


def _is_fault(message) -> bool:
    """Jupyter's server answers with status 500 to who lists the kernels in the moment in which one of them starts."""
    return message.type == "error" and "/api/kernels?" not in message.location["url"]


class Lab:
    """Opens notebooks in one browser and watches for every error that a reader might see in its console."""

    def __init__(self, server: Server, browser, pictures: Path):
        self.server, self.browser, self.pictures = server, browser, pictures

    @contextmanager
    def notebook(self, *sources: str, name: str = "test.ipynb", **options):
        """A new notebook of these cells, executed; yields the page.

        Errors in the page, in its console or in a cell fail the test.
        """
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), self.server.folder / name)
        with self.open(name, **options) as page:
            self.run_all(page)
            yield page

    @contextmanager
    def open(self, name: str, width: int = 1280, height: int = 2400, dark: bool = False):
        """The page of a notebook that lies in the server's folder, its kernel ready."""
        page = self.browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(WAIT_MS)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if _is_fault(message) else None)
        page.goto(self.server.url(f"lab/tree/{name}?token={self.server.token}&reset"))
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        n_cells = len(nbformat.read(self.server.folder / name, as_version=4).cells)
        page.wait_for_function(
            "n => document.querySelectorAll('.jp-Notebook .jp-Cell').length === n &&"
            " document.querySelector('.jp-Toolbar-kernelName')?.textContent.includes('Python')",
            arg=n_cells,
        )
        wait_until_idle(page)
        try:
            if dark:
                theme(page, "JupyterLab Dark")
            yield page
            assert not errors, errors
        finally:
            if dark:
                theme(page, "JupyterLab Light")  # the server remembers it
            page.close()

    def run_all(self, page, timeout_s: float = WAIT_S):
        """Run All, until every cell has its number; no cell may have failed.

        On a machine under load the first request to a kernel that has just started is sometimes lost on JupyterLab's
        way to it. Then no cell is being executed, and the menu is used once more.
        """
        menu(page, "Run", '[data-command="runmenu:run-all"]')
        try:
            page.wait_for_function(f"{_PROMPTS}.some(text => /\\[(\\*|\\d+)\\]/.test(text))", timeout=30_000)
        except TimeoutError:
            menu(page, "Run", '[data-command="runmenu:run-all"]')
        try:
            page.wait_for_function(f"{_PROMPTS}.every(text => /\\[\\d+\\]/.test(text))", timeout=1000 * timeout_s)
        except TimeoutError as error:
            self.picture(page, "not-executed")
            log = (self.server.home / "server.log").read_text(encoding="utf-8")[-3000:]
            raise AssertionError(f"prompts after {timeout_s} s: {page.evaluate(_PROMPTS)}\n{log}") from error
        wait_until_idle(page)
        faults = page.locator('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type$=".stderr"]')
        assert faults.count() == 0, faults.all_inner_texts()

    def execute(self, page, source: str) -> str:
        """Runs a line in the page's kernel, in a cell at the end, and returns what it prints."""
        page.locator(".jp-Notebook .jp-Cell").last.click(position={"x": 5, "y": 5})
        page.keyboard.press("Escape")
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.keyboard.insert_text(source)
        page.keyboard.press("Control+Enter")
        cell = page.locator(".jp-CodeCell").last
        cell.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]")).wait_for()
        output = cell.locator(".jp-OutputArea-output")
        wait_until_idle(page)
        return "\n".join(output.all_inner_texts()).strip()

    def says(self, page, source: str, expected, read: Callable = str):
        """Waits until the kernel says what is expected: a widget sends a change when it has the answer to the last.

        read: makes what is to be compared of what the source prints
        """
        end = time.monotonic() + WAIT_S
        while (said := read(self.execute(page, source))) != expected:
            assert time.monotonic() < end, f"{source} says {said}, not {expected}"

    def save(self, page, name: str):
        """Saves the notebook, and waits until its file holds what its cells show."""
        file = self.server.folder / name
        before = file.stat().st_mtime_ns
        menu(page, "File", '[data-command="docmanager:save"]')
        until(
            lambda: file.stat().st_mtime_ns != before and file.read_text(encoding="utf-8").endswith("}\n"),
            f"{name} that is newer",
        )

    def picture(self, target, name: str):
        """Keeps a screenshot of a page or of an element."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        target.screenshot(path=self.pictures / f"{name}.png")


def wait_until_idle(page):
    """The sign of it is hidden where the toolbar is too narrow."""
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached")


def settle(page):
    """Two frames: what is drawn when its size is known has been drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def narrow(page, widget, width: int = 800, height: int = 600):
    """Makes the window small, and waits until the widget has its place in it and nothing runs out of that."""
    page.set_viewport_size({"width": width, "height": height})
    inside = """(node, width) => innerWidth === width && node.getBoundingClientRect().right <= width
        && node.scrollWidth <= node.clientWidth"""
    until(lambda: widget.evaluate(inside, width), f"widget that fits into {width} pixels")


def menu(page, title: str, item: str, submenu: str | None = None):
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{title}$")).click()
    if submenu:
        page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{submenu}$")).hover()
    page.locator(f".lm-Menu-item{item}").click()


def theme(page, name: str):
    menu(page, "Settings", f':has(.lm-Menu-itemLabel:text-is("{name}"))', "Theme")
    light = str(name == "JupyterLab Light").lower()
    page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")


def violations(page, selector: str) -> list[str]:
    """What axe-core finds wrong inside `selector`."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=selector).response["violations"]
    return [f"{fault['id']}: {node['html']}" for fault in found for node in fault["nodes"]]
