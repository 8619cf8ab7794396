"""Write the website: a start page, the notebook as it is stored, the explorer, and every file that these link to.

    pip install nbconvert
    python tools/build_site.py [FOLDER]

Nothing is run and nothing is downloaded. Links in the repository stay links in the site, wherever the site is served.
"""

import argparse
import re
import shutil
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote

import nbformat
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "tools" / "pages"
NOTEBOOK = PurePosixPath("Variational-Autoencoder.ipynb")
START = PurePosixPath("index.html")
# Formulas need MathJax, and who reads the site is online. nbconvert's own address asks for the newest version first.
MATHJAX = "https://cdnjs.cloudflare.com/ajax/libs/mathjax/2.7.7/MathJax.js?config=TeX-AMS_CHTML-full,Safe"
LINK = re.compile(r'\b(href|src|srcset)="([^":#]+)(#[^"]*)?"')  # no colon: links to elsewhere have one


def site_path(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository lies in the site. Many browsers download .md and .py, so these become pages."""
    if path == NOTEBOOK:
        return PurePosixPath("notebook.html")
    return path.with_name(f"{path.name}.html") if path.suffix in (".md", ".py") else path


def as_notebook(path: PurePosixPath) -> nbformat.NotebookNode:
    """A file that becomes a page, as a notebook with a title."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path == NOTEBOOK:
        notebook = nbformat.reads(text, as_version=4)
    elif path.suffix == ".py":
        notebook = new_notebook(cells=[new_markdown_cell(f"# {path.name}"), new_code_cell(text)])
    else:
        notebook = new_notebook(cells=[new_markdown_cell(text)])
    notebook.metadata.title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    # IPython's own lexer would need IPython, and the notebook has no magic command that Python's does not know.
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "python3"}
    return notebook


def follow_links(html: str, source: PurePosixPath) -> tuple[str, list[PurePosixPath]]:
    """The page of `source` with its links as they must be in the site, and the files of the repository behind them."""
    files = []

    def rewrite(match: re.Match) -> str:
        attribute, link, anchor = match.groups(default="")
        target = PurePosixPath(normpath(source.parent / unquote(link)))
        if (ROOT / target).is_dir():  # a web server has no page for it; without href the words are no link
            return 'title="a folder of the repository"'
        if not (ROOT / target).is_file():
            raise SystemExit(f"{source} links to {link}, which is not in the repository.")
        files.append(target)
        return f'{attribute}="{link.removesuffix(target.name)}{site_path(target).name}{anchor}"'

    return LINK.sub(rewrite, html), files


def build(folder: Path) -> None:
    exporter = HTMLExporter(
        template_file=str(TEMPLATES / "notebook.html.j2"),
        mathjax_url=MATHJAX,
        exclude_anchor_links=True,
        exclude_input_prompt=True,  # on a telephone they take a quarter of the width
        exclude_output_prompt=True,
    )
    html, waiting = follow_links((TEMPLATES / "start.html").read_text(encoding="utf-8"), START)
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
        page, _ = exporter.from_notebook_node(as_notebook(path))
        html, files = follow_links(page, path)
        waiting += files
        back = f'<nav><a href="{"../" * (len(path.parts) - 1)}{START}">Start page</a></nav>'
        target.write_text(html.replace("<main>", f"{back}\n<main>", 1), encoding="utf-8")


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
