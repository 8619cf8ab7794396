"""Write the website: a start page, the notebook as an article, the pages that compute, and all that these link to.

    pip install nbconvert ziamath
    python website/build.py [FOLDER]

Nothing is run and nothing is downloaded: the article shows the outputs that the notebook has stored, and its formulas
are drawn here, so no page asks for anything from elsewhere. Links in the repository stay links in the site, wherever it
is served. On GitHub, whose workflows say in GITHUB_... which repository they build, the pages link to that as well.
"""

import argparse
import base64
import os
import re
import shutil
import struct
from functools import cache
from html import escape, unescape
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote

import nbformat
import ziamath
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NOTEBOOK = PurePosixPath("Variational-Autoencoder.ipynb")
START = PurePosixPath("index.html")
EXPLORER = PurePosixPath("explorer/explorer.html")
SINGLE_FILE = PurePosixPath("kaggle/Variational-Autoencoder.ipynb")  # the notebook with all that it imports

PLAYGROUND = PurePosixPath("explorer/playground.html")
# Cells of the notebook beside whose picture one of the two pages can be opened: in which state, and what to do there.
LIVE = {
    "kl-picture": (
        f"{EXPLORER}#view=dots&part=plane",
        "Move over the map: the decoder paints what it makes of each place.",
    ),
    "loss-picture": (f"{EXPLORER}#view=loss&digit=147", "Another 4 that comes back as a 9, in grey. Draw your own."),
    "learning": (f"{EXPLORER}#view=learning&part=plane", "Move through the epochs by hand, and see what the codes do."),
    "walk": (
        f"{EXPLORER}#view=dots&part=plane&walk=0.9,1.3,1.2,-0.6",
        "Walk along the line, or choose two points of your own.",
    ),
    "explorer": (f"{EXPLORER}#view=dots", "The model of this page, in your browser."),
    "mistake": (
        f"{PLAYGROUND}#question=mean",
        "A trained model goes on with this loss: guess what its pixels will cost.",
    ),
    "beta-picture": (
        f"{PLAYGROUND}#question=beta40",
        "Guess what β = 40 does to a trained model. Then turn β yourself.",
    ),
}

FONT_SIZE = 18  # pixels; the formulas are drawn for it, and their sizes are then given in em
LINK = re.compile(r'\b(href|src|srcset)="([^":#]+)(#[^"]*)?"')  # no colon: links to elsewhere have one
HEADING = re.compile(r'<h([12]) id="([^"]+)">(.*?)</h\1>')


class Renderer(IPythonRenderer):
    """Markdown as HTML: headings with GitHub's anchors, wide tables that scroll by themselves, formulas as pictures."""

    def heading(self, text: str, level: int, **_: object) -> str:
        words = unescape(re.sub("<[^>]+>", "", text)).lower()
        anchor = re.sub(r"[^\w -]", "", words).replace(" ", "-")
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def table(self, text: str) -> str:
        return f'<div class="scroll"><table>{text}</table></div>\n'

    def inline_math(self, body: str) -> str:
        return formula(body, inline=True)

    def block_math(self, body: str) -> str:
        return f'<span class="scroll block">{formula(body, inline=False)}</span>'


@cache
def formula(latex: str, *, inline: bool) -> str:
    """The formula as a drawing in the colour of the text around it."""
    known = re.sub(r"\\mathbb (\w)", r"\\mathbb{\1}", latex.replace("{aligned}", "{align*}"))  # as ziamath knows them
    drawing = ziamath.Latex(known, size=FONT_SIZE, inline=inline, color="currentColor")
    if "\\" in drawing.mathmlstr():
        raise SystemExit(f"ziamath does not know a command of the formula {latex.strip()}")
    svg = drawing.svg()
    box = re.search(r'viewBox="([^"]+)"', svg)[1]
    _, top, width, height = (float(number) / FONT_SIZE for number in box.split())  # the baseline is at 0
    style = f"width: {width:.3f}em; height: {height:.3f}em; vertical-align: {-top - height:.3f}em"
    start = f'<svg role="img" aria-label="{escape(latex.strip())}" style="{style}" viewBox="{box}">'
    return start + svg.split(">", 1)[1]


def markdown(source: str) -> Markup:
    html = MarkdownWithMath(renderer=Renderer(escape=False)).render(source)
    # No line begins with the comma behind a formula.
    html = re.sub(r'(<svg role="img"(?:(?!</svg>).)*</svg>)([,.;:?)]+)', r'<span class="whole">\1\2</span>', html)
    # An anchor of its own above a heading becomes the heading's.
    return Markup(re.sub(r'<p><a id="([^"]+)"></a></p>\s*<h(\d) id="[^"]+"', r'<h\2 id="\1"', html))


def python(source: str) -> Markup:
    html = highlight(source, PythonLexer(), HtmlFormatter())
    return Markup(html.replace("<pre>", '<pre tabindex="0">'))  # the keyboard scrolls it


def share_glyphs(html: str) -> str:
    """Every formula brings the shapes of its letters: keep each of them once, before everything else."""
    symbol = re.compile(r'<symbol id="([^"]+)"[^>]*?(?:/>|>.*?</symbol>)', re.DOTALL)
    glyphs = {match[1]: match[0] for match in symbol.finditer(html)}
    drawings = f'<svg aria-hidden="true" width="0" height="0" class="glyphs">{"".join(glyphs.values())}</svg>'
    return symbol.sub("", html).replace("<body>", f"<body>\n{drawings}" if glyphs else "<body>", 1)


def repository() -> dict[str, str] | None:
    """The repository on GitHub, if a workflow of it builds the site."""
    server, name, branch = (os.environ.get(f"GITHUB_{key}") for key in ("SERVER_URL", "REPOSITORY", "REF_NAME"))
    if not (server and name and branch):
        return None
    colab = f"https://colab.research.google.com/github/{name}/blob/{branch}/{SINGLE_FILE}"
    return {"url": f"{server}/{name}", "folder": name.split("/")[-1], "colab": colab}


def picture_size(output: nbformat.NotebookNode) -> tuple[int, int]:
    """Width and height in which to show a stored picture: as the notebook says, else its own."""
    said = output.metadata.get("image/png", {})
    own = struct.unpack(">II", base64.b64decode(output.data["image/png"][:32])[16:])
    return said.get("width", own[0]), said.get("height", own[1])


def site_path(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository lies in the site. Many browsers download .md and .py, so these become pages."""
    if path == NOTEBOOK:
        return PurePosixPath("notebook.html")
    return path.with_name(f"{path.name}.html") if path.suffix in (".md", ".py") else path


def as_notebook(path: PurePosixPath) -> nbformat.NotebookNode:
    """A file that becomes a page, as a notebook."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".py":
        return new_notebook(cells=[new_markdown_cell(f"# {path.name}"), new_code_cell(text)])
    if path.suffix == ".md":
        return new_notebook(cells=[new_markdown_cell(text)])
    notebook = nbformat.reads(text, as_version=4)
    for cell in LIVE.keys() - {cell.id for cell in notebook.cells}:
        raise SystemExit(f"{path} has no cell {cell}: mend LIVE in website/build.py.")
    return notebook


def follow_links(html: str, source: PurePosixPath) -> tuple[str, list[PurePosixPath]]:
    """The page of `source` with its links as they must be in the site, and the files of the repository behind them."""
    files = []

    def rewrite(match: re.Match) -> str:
        attribute, link, anchor = match.groups(default="")
        target = PurePosixPath(normpath(source.parent / unquote(link)))
        if target == START:
            return match[0]
        if (ROOT / target).is_dir():  # a web server has no page for it; without href the words are no link
            return 'title="a folder of the repository"'
        if not (ROOT / target).is_file():
            raise SystemExit(f"{source} links to {link}, which is not in the repository.")
        files.append(target)
        return f'{attribute}="{link.removesuffix(target.name)}{site_path(target).name}{anchor}"'

    return LINK.sub(rewrite, html), files


def build(folder: Path) -> None:
    templates = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    templates.filters |= {"markdown": markdown, "python": python, "picture_size": picture_size}
    templates.globals |= {"repository": repository(), "explorer": EXPLORER, "playground": PLAYGROUND}
    templates.globals |= {"notebook": NOTEBOOK, "live": LIVE}
    templates.globals |= {"single_file": SINGLE_FILE if (ROOT / SINGLE_FILE).is_file() else None}

    html, waiting = follow_links(templates.get_template("start.html").render(), START)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / START).write_text(html, encoding="utf-8")
    done = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        target = folder / site_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if site_path(path) == path:
            shutil.copyfile(ROOT / path, target)
            continue
        cells = as_notebook(path).cells
        headings = HEADING.findall("".join(markdown(cell.source) for cell in cells if cell.cell_type == "markdown"))
        up = "../" * (len(path.parts) - 1)
        page = templates.get_template("article.html").render(path=path, up=up, cells=cells, headings=headings)
        html, files = follow_links(page, path)
        waiting += files
        target.write_text(share_glyphs(html), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the website into a folder.")
    parser.add_argument("folder", nargs="?", default=ROOT / "site", type=Path, help="(default: %(default)s)")
    folder = parser.parse_args().folder
    try:
        build(folder)
    except OSError as error:
        raise SystemExit(f"Cannot write the site to {folder}: {error}") from None
    print(f"Written: {folder / START}")


if __name__ == "__main__":
    main()
