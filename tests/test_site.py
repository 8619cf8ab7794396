"""The website: it is built without PyTorch, every link leads somewhere, and a browser shows all of it at every width.

It is served below a folder, as GitHub Pages does it. No test has a network: MathJax is answered by an empty file.
"""

import functools
import html
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

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


class Page(HTMLParser):
    """The links and the anchors of a page, and the pictures that are not described."""

    def __init__(self, path):
        super().__init__()
        self.language, self.links, self.anchors, self.undescribed = None, [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "html":
            self.language = values.get("lang")
        if tag == "img" and (values.get("alt") or "No description").startswith("No description"):
            self.undescribed.append(str(attributes)[:200])
        self.anchors += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src", "srcset") if name in values]


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_link_leads_to_a_file_or_an_anchor(site, pages):
    broken, reached = [], {site / "index.html"}
    for path, page in pages.items():
        for link in page.links:
            place = urlsplit(link)
            if place.scheme in ("https", "data"):
                continue
            target = Path(os.path.normpath(path.parent / unquote(place.path))) if place.path else path
            reached.add(target)
            anchors = pages[target].anchors if target in pages else ()
            if not target.is_file() or (place.fragment and unquote(place.fragment) not in anchors):
                broken.append((path.name, link))
    assert broken == []
    assert {path for path in site.rglob("*") if path.is_file()} == reached, "there is a file that nothing links to"
    assert not [path for path in reached if path.suffix in (".ipynb", ".md", ".py")], "browsers do not show these"


def test_start_page_notebook_and_explorer_lead_to_each_other(site, pages):
    wanted = {"notebook.html", "explorer/explorer.html", "images/learning.png"}
    assert wanted <= {*pages[site / "index.html"].links}
    assert "explorer/explorer.html" in pages[site / "notebook.html"].links
    for path in pages.keys() - {site / "index.html", site / "explorer" / "explorer.html"}:
        assert Path(os.path.relpath(site / "index.html", path.parent)).as_posix() in pages[path].links, path


def test_pages_have_a_language_and_describe_their_pictures(pages):
    assert {page.language for page in pages.values()} == {"en"}
    assert [picture for page in pages.values() for picture in page.undescribed] == []


def test_the_notebook_has_its_stored_figures_and_its_formulas(site, pages):
    outputs = [output.get("data", {}) for cell in NOTEBOOK.cells for output in cell.get("outputs", [])]
    figures = [f"data:image/png;base64,{data['image/png']}".strip() for data in outputs if "image/png" in data]
    shown = [link.strip() for link in pages[site / "notebook.html"].links if link.startswith("data:image")]
    assert shown == figures and len(figures) > 10
    text = "".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.DOTALL)
    page = html.unescape((site / "notebook.html").read_text(encoding="utf-8"))
    assert [formula for formula in formulas if formula not in page] == [] and len(formulas) > 50


@pytest.fixture(scope="module")
def address(site):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site.parent))
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
        if url.startswith(MATHJAX):
            formulas.append(url)
            return route.fulfill(status=200, content_type="text/javascript", body="")
        if url.startswith(address):
            return route.continue_()
        faults.append(url)
        return route.abort()

    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        context.route("**/*", answer)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        for name in sorted(path.relative_to(site).as_posix() for path in pages):
            page.goto(address + name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
            missing = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src.slice(0, 99))"
            assert page.evaluate(missing) == [], name
            shade = page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
            assert (int(shade) > 128) == (scheme == "light"), name
            assert page.evaluate(CUT_OFF, width) == [], name
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
