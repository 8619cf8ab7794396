"""Run the notebook in JupyterLab as a person does, in a real browser, and look at what is seen.

    pip install -r requirements-dev.txt
    python tools/jupyterlab.py [SCREENSHOT.png]

Headless Chromium or Chrome opens a copy with QUICK = True and chooses Run > Run All Cells. It must then see as
many figures as the committed notebook stores, the explorer at work in its frame, and no error.
Not part of pytest: it needs a browser, and how soon a page settles is nobody's promise.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
NAME = "Variational-Autoencoder.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 600_000  # milliseconds that the cells may take, on a slow machine


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def figures(cells: list) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


def lay_out(folder: Path) -> None:
    """What the notebook needs, and the notebook itself with QUICK = True and without its outputs."""
    for name in ("vae_utils.py", "data", "explorer", "images"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    notebook = nbformat.read(ROOT / NAME, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = cell.source.replace("\nQUICK = False", "\nQUICK = True")
    nbformat.write(notebook, folder / NAME)


def start_server(folder: Path) -> tuple[subprocess.Popen, str]:
    """`jupyter lab` in the folder, on a free port of this machine only, and its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--IdentityProvider.token="]  # no password: nobody else gets at this address
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/lab"
    for _ in range(120):
        try:
            urlopen(address).close()
            return server, address
        except URLError:
            time.sleep(0.5)
    server.terminate()
    raise SystemExit("jupyter lab has not answered for a minute; start it by hand to see why")


def run_all_cells(page: Page) -> None:
    """Choose Run > Run All Cells, and save once the kernel has nothing left to do."""
    # The status bar names the kernel before it has one; cells that are run earlier than "Idle" are not run at all.
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last_prompt = page.locator(".jp-CodeCell .jp-InputPrompt").last
    expect(last_prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=PATIENCE)
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=60_000)
    page.keyboard.press("Control+s")
    expect(page.locator(".jp-mod-dirty")).to_have_count(0, timeout=60_000)


def look(page: Page, path: Path) -> None:
    """What the page shows, and what it has saved, against what the committed notebook stores."""
    wanted = figures(code_cells(ROOT / NAME))
    for cell in page.locator(".jp-Notebook .jp-CodeCell").all():
        cell.scroll_into_view_if_needed()
    seen = page.locator(".jp-OutputArea img").evaluate_all("all => all.filter(i => i.naturalWidth > 0).length")
    errors = page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.error']").count()
    errors += page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']").count()
    saved = code_cells(path)
    print(f"{seen} figures seen, {figures(saved)} saved, {wanted} wanted; {errors} outputs that are errors or warnings")
    assert seen == figures(saved) == wanted and errors == 0
    assert [cell.execution_count for cell in saved] == list(range(1, len(saved) + 1))
    explorer = page.frame_locator(".jp-OutputArea iframe")
    explorer.locator("#random").click()
    expect(explorer.locator("#value-total")).to_contain_text(".")
    print("the explorer answers in its frame")


def main() -> None:
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        raise SystemExit(f"No browser here: looked for {', '.join(BROWSERS)} on the PATH.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lay_out(Path(folder))
        server, address = start_server(Path(folder))
        try:
            browser = playwright.chromium.launch(executable_path=browser_path)
            page = browser.new_page(viewport={"width": 1200, "height": 1000})
            page.goto(f"{address}/tree/{NAME}")
            run_all_cells(page)
            look(page, Path(folder) / NAME)
            for picture in sys.argv[1:]:
                page.screenshot(path=picture)
            browser.close()
        finally:
            server.terminate()
            server.wait()
    print("JupyterLab runs the notebook")


if __name__ == "__main__":
    main()
