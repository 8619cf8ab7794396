"""The website: it is built without PyTorch, every link leads somewhere, and a browser shows all of it at every width.

It is served below a folder, as GitHub Pages does it. No page may ask for anything from elsewhere.
"""

import os
import re
import runpy
import subprocess
import sys
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.image import imread
from pages import CUT_OFF, faint

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "website" / "build.py"
NOTEBOOK = nbformat.read(ROOT / "Variational-Autoencoder.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
FOLDED = {cell.id for cell in CODE if cell.metadata.get("jupyter", {}).get("source_hidden")}
PROSE = "\n\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
SITE = runpy.run_path(SCRIPT)
GITHUB = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "ada/digits", "GITHUB_REF_NAME": "trunk"}

# Runs a script as the workflow does, where only nbconvert and ziamath are installed.
BARE = """import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "numpy", "matplotlib", "IPython", "vae_utils"]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")"""


def build(folder, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in GITHUB} | variables
    command = [sys.executable, "-c", BARE, SCRIPT, folder]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server") / "repository"
    result = build(folder, **GITHUB)
    assert (result.returncode, result.stderr) == (0, "") and str(folder / "index.html") in result.stdout
    return folder


def read(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def pages(site):
    return {path: read(path) for path in site.rglob("*.html")}


def links(page):
    return [tag[name] for name in ("href", "src") for tag in page.find_all(attrs={name: True})]


def test_every_link_leads_to_a_file_or_an_anchor_and_every_page_to_the_start_page(site, pages):
    broken, reached = [], {site / "index.html"}
    for path, page in pages.items():
        assert path.name in ("index.html", "explorer.html", "playground.html") or page.find("a", string="Start page")
        for place in map(urlsplit, links(page)):
            if place.scheme:
                continue
            target = Path(os.path.normpath(path.parent / unquote(place.path))) if place.path else path
            reached.add(target)
            names = {"explorer.html": "view", "playground.html": "question"}  # what an address with a state must have
            state = target.name in names and names[target.name] in parse_qs(place.fragment, strict_parsing=True)
            anchored = not place.fragment or state or pages[target].find(id=unquote(place.fragment))
            if not target.is_file() or not anchored:
                broken.append((path.name, place))
    assert broken == []
    assert {path for path in site.rglob("*") if path.is_file()} == reached, "there is a file that nothing links to"
    assert not [path for path in reached if path.suffix in (".md", ".py")], "browsers do not show these"


def test_the_repository_is_named_where_it_is_known_and_nothing_stands_in_for_it(site, pages, tmp_path, monkeypatch):
    single_file = "kaggle/Variational-Autoencoder.ipynb"
    colab = f"https://colab.research.google.com/github/ada/digits/blob/trunk/{single_file}"
    start = pages[site / "index.html"]
    assert {colab, single_file, "https://github.com/ada/digits"} <= {*links(start)} and (site / single_file).is_file()
    assert "git clone --depth 1 https://github.com/ada/digits\ncd digits && pip install" in start.pre.text
    for name in GITHUB:
        monkeypatch.delenv(name, raising=False)
    SITE["build"](tmp_path)
    local = [read(tmp_path / name) for name in ("index.html", "notebook.html")]
    words = [word for word in ("git clone", "None", "{{") if word in local[0].text]
    assert single_file in links(local[0]) and words == []
    outside = {urlsplit(link).hostname for page in local for link in links(page)}
    assert not outside & {"github.com", "colab.research.google.com"} and "arxiv.org" in outside


def test_the_article_has_every_figure_formula_heading_and_printed_line(site, pages):
    article, outputs = pages[site / "notebook.html"], [output for cell in CODE for output in cell.outputs]
    pngs = [output.data["image/png"].strip() for output in outputs if "image/png" in output.get("data", {})]
    assert [link.split(",")[1] for link in links(article) if link.startswith("data:image")] == pngs and len(pngs) > 10
    formulas = [re.sub(r"^\$+|\$+$", "", found).strip() for found in re.findall(r"\$\$.+?\$\$|\$[^$]+\$", PROSE, re.S)]
    assert [drawing["aria-label"] for drawing in article.select("main svg")] == formulas and len(formulas) > 50
    headings = [line.lstrip("# ") for line in PROSE.splitlines() if re.match("##? ", line)]
    assert [heading.text for heading in article.select("main h1, main h2")] == headings
    assert [link.text for link in article.select("nav a")] == headings[1:]
    printed = {output.text.strip() for output in outputs if output.output_type == "stream"}
    assert printed <= {pre.text.strip() for pre in article.select("pre.printed")}
    assert not [picture for page in pages.values() for picture in page.find_all("img") if not picture.get("alt")]
    assert {page.html.get("lang") for page in pages.values()} == {"en"}


def test_a_formula_is_drawn_with_its_own_letters_or_stops_the_build():
    letters = r"\mathbb R", r"\mathbb E", r"\mathcal N", "R", "E", "N"
    glyphs = [re.search('<use href="[^"]+"', SITE["formula"](letter, inline=True))[0] for letter in letters]
    assert len({*glyphs}) == len(letters), "two letters look the same"
    with pytest.raises(SystemExit, match="notacommand"):
        SITE["formula"](r"\notacommand{x}", inline=True)


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["build.py", str(tmp_path / "file" / "site")])
    with pytest.raises(SystemExit, match=f"^Cannot write the site to {re.escape(sys.argv[1])}: .*$"):
        SITE["main"]()


@pytest.fixture(scope="module")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=site.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{site.name}/"
    server.shutdown()
    server.server_close()


# Pictures that are missing, blurred or too small to read; formulas without a size.
BAD_PICTURES = """() => [...document.querySelectorAll("img, main svg")].filter(e => {
    const { width, height } = e.getBoundingClientRect();
    if (e.tagName !== "IMG") return width < 4 || height < 4;
    const least = e.closest(".picture") ? 0.7 * e.getAttribute("width") : 100;
    return !e.naturalWidth || width > e.naturalWidth + 1 || width < least;
}).map(e => e.outerHTML.slice(0, 99))"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (768, "dark"), (1280, "light")])
def test_a_browser_shows_everything_at_every_width(width, scheme, site, pages, address, open_window):
    page = open_window(address, width, 720, color_scheme=scheme)
    some = ["index.html", "README.md.html", "notebook.html"]
    names = some if width > 390 else sorted({path.relative_to(site).as_posix() for path in pages} - {*some}) + some
    for name in names:
        page.goto(address + name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
        assert page.evaluate(CUT_OFF) == [], name
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
        assert (int(shade) > 128) == (scheme == "light"), name
        if name in some:
            assert page.evaluate(BAD_PICTURES) == [] and faint(page) == [], name
        if name == "index.html" and width > 1000:
            assert page.evaluate("document.documentElement.scrollHeight") <= 720, "the start page is one screen"
    assert page.locator("#contents").get_attribute("open") == (None if width < 1000 else "")


def test_one_switch_shows_all_code_but_what_the_notebook_folds(address, open_window):
    page = open_window(address + "notebook.html")
    shown = """[...document.querySelectorAll("details.code[open] summary")].map(e => e.textContent.split(": ")[1])"""
    assert page.evaluate(shown) == []
    page.locator("summary", has_text="Code: diagram").click()
    page.locator("#code").press("Enter")
    assert {*page.evaluate(shown)} == {cell.id for cell in CODE} - FOLDED | {"diagram"} and FOLDED
    assert faint(page) == []
    page.locator("#code").press("Enter")
    assert page.evaluate(shown) == ["diagram"]


def test_what_is_too_wide_shows_at_its_edge_that_there_is_more(address, open_window):
    """Pictures and formulas on a phone, in light and dark: the edge has a shadow until one has scrolled there."""
    for scheme in ("light", "dark"):
        page = open_window(address + "notebook.html", 390, color_scheme=scheme)
        for kind in (".picture", ".scroll:has(svg)"):
            wide = next(e for e in page.locator(kind).all() if e.evaluate("e => e.scrollWidth > e.clientWidth + 60"))
            edges = []
            for place in (0, 9999):
                wide.evaluate("(e, place) => { e.scrollLeft = place; }", place)
                shown = imread(BytesIO(wide.screenshot()))[..., :3]
                edges.append([np.median(shown[:, column], 0) for column in (1, -2)])
            (left, more_right), (more_left, right) = edges
            assert np.abs(more_right - right).min() > 0.1 and np.abs(more_left - left).min() > 0.1, (scheme, kind)


# Nothing is hidden in the frame, and nothing in it has to be scrolled.
FITS = """innerHeight === document.documentElement.scrollHeight && innerHeight > 300 && innerHeight < 3000
    && innerWidth === document.documentElement.scrollWidth"""


def test_a_page_comes_alive_beside_a_picture_and_its_frame_is_as_tall_as_its_content(address, open_window):
    page, asked = open_window(address), []
    page.on("request", lambda request: "explorer/" in request.url and asked.append(request.url.split("#")[0]))
    page.goto(address + "notebook.html")
    figures, live_places = page.locator("figure:has(figcaption)").all(), [*SITE["LIVE"].values()]
    pages, alone = [link.split("#")[0] for link, _ in live_places], [*SITE["LIVE"]].index("explorer")
    assert len(figures) == len(live_places) > 4 and asked == []
    # The explorer beside a picture, one part of it, the playground, and the explorer where there is no picture.
    for place in (0, 1, pages.index("explorer/playground.html"), alone):
        figure, (link, text) = figures[place], live_places[place]
        figure.scroll_into_view_if_needed()
        if live := figure.get_by_role("button", name="Live").all():
            live[0].press("Enter")
        assert figure.locator("iframe").get_attribute("src") == address + link
        assert figure.locator("iframe").get_attribute("title") == text and figure.locator("img:visible").count() == 0
        frame = figure.locator("iframe").element_handle().content_frame()
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            frame.wait_for_function(f"(window.explorer || document.querySelector('#cost b')) && {FITS}")
        for picture in figure.get_by_role("button", name="Picture").all():
            picture.press("Enter")
            assert figure.locator("img").is_visible() and figure.locator("iframe").count() == 0
    assert {*asked} == {address + page for page in pages}


def test_without_javascript_the_pictures_stand_and_lead_to_the_pages(address, open_window):
    page = open_window(address + "notebook.html", 390, java_script_enabled=False)
    links = [link.get_attribute("href") for link in page.locator("figure a").all()]
    assert [unescape(link) for link in links] == [link for link, _ in SITE["LIVE"].values()]
    assert all(picture.is_visible() for picture in page.locator("img").all()) and page.locator("iframe").count() == 0
