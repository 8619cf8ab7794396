"""The website: it is built without PyTorch, every link leads somewhere, and a browser shows all of it at every width.

It is served below a folder, as GitHub Pages does it. No test has a network: MathJax is answered by an empty file.
"""

import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tools" / "build_site.py"
NOTEBOOK = nbformat.read(ROOT / "Variational-Autoencoder.ipynb", as_version=4)
MATHJAX = "https://cdnjs.cloudflare.com/ajax/libs/mathjax/"

# Runs a script as the workflow does, where nothing but nbconvert is installed.
BARE = """import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "numpy", "matplotlib", "IPython", "vae_utils"]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")"""


def build(folder):
    return subprocess.run([sys.executable, "-c", BARE, SCRIPT, folder], capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server") / "repository"
    result = build(folder)
    assert (result.returncode, result.stderr) == (0, "") and str(folder / "index.html") in result.stdout
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.rglob("*.html")}


def links(page):
    return [tag[name] for name in ("href", "src", "srcset") for tag in page.find_all(attrs={name: True})]


def test_every_link_leads_to_a_file_or_an_anchor(site, pages):
    broken, reached = [], {site / "index.html"}
    for path, page in pages.items():
        for place in map(urlsplit, links(page)):
            if place.scheme in ("https", "data"):
                continue
            target = Path(os.path.normpath(path.parent / unquote(place.path))) if place.path else path
            reached.add(target)
            anchored = not place.fragment or (target in pages and pages[target].find(id=unquote(place.fragment)))
            if not target.is_file() or not anchored:
                broken.append((path.name, place))
    assert broken == []
    assert {path for path in site.rglob("*") if path.is_file()} == reached, "there is a file that nothing links to"
    assert not [path for path in reached if path.suffix in (".ipynb", ".md", ".py")], "browsers do not show these"


def test_start_page_notebook_and_explorer_lead_to_each_other(site, pages):
    wanted = {"notebook.html", "explorer/explorer.html", "images/learning.png"}
    assert wanted <= {*links(pages[site / "index.html"])}
    assert "explorer/explorer.html" in links(pages[site / "notebook.html"])
    for path in pages.keys() - {site / "index.html", site / "explorer" / "explorer.html"}:
        assert Path(os.path.relpath(site / "index.html", path.parent)).as_posix() in links(pages[path]), path


def test_pages_have_a_language_and_describe_their_pictures(pages):
    assert {page.html.get("lang") for page in pages.values()} == {"en"}
    described = [picture.get("alt", "") for page in pages.values() for picture in page.find_all("img")]
    assert len(described) > 10 and not [text for text in described if not text or text.startswith("No description")]


def test_the_notebook_has_its_stored_figures_and_its_formulas(site, pages):
    page = pages[site / "notebook.html"]
    outputs = [output.get("data", {}) for cell in NOTEBOOK.cells for output in cell.get("outputs", [])]
    figures = [f"data:image/png;base64,{data['image/png']}".strip() for data in outputs if "image/png" in data]
    assert [link.strip() for link in links(page) if link.startswith("data:image")] == figures and len(figures) > 10
    text = "".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.DOTALL)
    assert [formula for formula in formulas if formula not in page.text] == [] and len(formulas) > 50


@pytest.fixture(scope="module")
def address(site):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{site.name}/"
    server.shutdown()
    server.server_close()


# What ends to the right of the window, and no box around it can be scrolled to show it.
CUT_OFF = """width => [...document.querySelectorAll("body *")].filter(e => {
    if (e.getBoundingClientRect().right <= width + 1) return false;
    do e = e.parentElement; while (e && getComputedStyle(e).overflowX === "visible");
    return !e || getComputedStyle(e).overflowX === "hidden";
}).map(e => e.outerHTML.slice(0, 99))"""


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "dark"), (1280, "light")])
def test_a_browser_shows_everything_at_every_width(width, scheme, site, pages, address, browser):
    faults, formulas = [], []

    def answer(route):
        url = route.request.url
        if url.startswith(address):
            return route.continue_()
        (formulas if url.startswith(MATHJAX) else faults).append(url)
        return route.fulfill(status=200, content_type="text/javascript", body="")

    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        context.route("**/*", answer)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        for name in sorted(path.relative_to(site).as_posix() for path in pages):
            page.goto(address + name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
            missing = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src.slice(0, 99))"
            assert page.evaluate(missing) == [] and page.evaluate(CUT_OFF, width) == [], name
            shade = page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
            assert (int(shade) > 128) == (scheme == "light"), name
            if name == "notebook.html":
                (frame,) = page.frames[1:]
                frame.wait_for_function("window.explorer")
                answers = """[...document.querySelectorAll("details")].map(
                    e => e.textContent.length - e.querySelector("summary").textContent.length)"""
                assert min(page.evaluate(answers)) > 20, "an answer is not folded away with its question"
    assert faults == [] and formulas


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    result = build(tmp_path / "file" / "site")
    assert result.returncode == 1 and result.stderr.startswith(f"Cannot write the site to {tmp_path / 'file' / 'site'}")
    assert result.stderr.count("\n") == 1
