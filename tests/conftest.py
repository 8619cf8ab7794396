"""What all tests share: figures drawn in memory, property tests that try the same on every machine, and a browser.

The browser is a Chromium found on the machine, or else the one that playwright has installed. Where there is none the
tests that need it are skipped; where the environment variable CI is set they fail instead.
"""

import os
import shutil
from pathlib import Path

import matplotlib
import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes on two cores; read when PyTorch is first imported, below
    os.environ.setdefault("OMP_NUM_THREADS", "1")
matplotlib.use("Agg")
settings.register_profile("same every time", derandomize=True, deadline=None, database=None)
settings.load_profile("same every time")


def pytest_collection_modifyitems(items):
    """Begin with the longest, which run the notebook: at the end one of two processes would wait for such a one."""
    items.sort(key=lambda item: item.path.name != "test_notebook.py")


# One for each file of tests and not for all: an event loop runs while it is open, and a notebook needs its own.
@pytest.fixture(scope="module")
def browser():
    """Chromium: the machine's own, else playwright's. Without its sandbox, which containers and root do not have."""
    from playwright.sync_api import sync_playwright  # here, for tests of the notebook alone do without it

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if not found and not Path(playwright.chromium.executable_path).exists():
            give_up = pytest.fail if os.environ.get("CI") else pytest.skip
            give_up("no browser: no chromium and no google-chrome is on the path, and playwright has none")
        with playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"]) as browser:
            yield browser


@pytest.fixture
def open_window(browser):
    """Open an address in a new window. None may have logged anything, or have asked for anything from elsewhere."""
    here, faults, contexts = ("file:", "data:", "blob:", "http://127.0.0.1:"), [], []

    def open_window(address, width=1280, height=800, until=None, reduced_motion="reduce", **options):
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, reduced_motion=reduced_motion, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)  # a page that trains takes its time on a slow machine
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith(here) or faults.append(request.url))
        page.goto(address)
        if until:
            page.wait_for_function(until)
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as a notebook takes it."""
    shown = []
    monkeypatch.setattr("explorer.explorer.display", lambda data, raw: shown.append(data if raw else None))
    return shown
