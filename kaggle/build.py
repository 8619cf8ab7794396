"""Write the notebook as one file, which Kaggle and Colab can open, from today's notebook and code.

    python kaggle/build.py                writes kaggle/Variational-Autoencoder.ipynb, to be committed
    python kaggle/build.py --user NAME    writes also kaggle/kernel, for `kaggle kernels push -p kaggle/kernel`

Kaggle and Colab take one file, so the notebook brings along what lies beside it: folded cells, right before the first
import of it, write these files. Nothing but Python itself is needed here.
"""

import argparse
import base64
import bz2
import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NOTEBOOK = "Variational-Autoencoder.ipynb"
# What the notebook needs beside it: two modules, and the parts of the explorer's page.
MODULE, EXPLORER = "vae_utils.py", "explorer/explorer.py"
PAGE = [f"explorer/source/{name}" for name in ("explorer.html", "style.css", "model.js", "draw.js", "explorer.js")]
REPOSITORY = ""  # its public address, such as https://github.com/NAME/REPOSITORY: without one the file links to none
IMPORT = re.compile(r"^(import|from) (vae_utils|explorer)\b", re.MULTILINE)
LEFT_BEHIND = re.compile(r"\[([^\]]+)\]\((?!http|attachment:|explorer/explorer\.html|#)([^)]+)\)")  # its text, the file
FOLDED = {"_kg_hide-input": True, "cellView": "form", "jupyter": {"source_hidden": True}}  # Kaggle, Colab, JupyterLab

TITLE = "Variational autoencoders on MNIST"  # Kaggle makes the kernel's address of it
KEYWORDS = ["deep learning", "neural networks", "computer vision", "pytorch"]
DATASET = "hojjatk/mnist-dataset"

# The lines of the notebook that the single file has otherwise, each by how it begins there.
CHANGED = {
    # Kaggle mounts datasets below /kaggle/input, at places that differ and read-only: a download cannot go there.
    'DATA_ROOT = "data"': 'DATA_ROOT = "/kaggle/input" if vae._find(Path("/kaggle/input"), VARIANT) else "data"',
    # Kaggle and Colab show a notebook where the page does not lie beside it.
    "show_explorer(page)": "show_explorer(page, embed=True)",
}

# The compressed files are one line. bz2, since its output is the same with every version of Python.
UNPACK = """\
# The explorer's page as compressed text: {lines:,} lines of HTML, CSS and JavaScript for the browser.
# When this cell has run, they can be read in the folder {folder}.
import bz2
import json
from base64 import b85decode
from pathlib import Path

packed = b85decode(
    "{packed}"
)
for name, text in json.loads(bz2.decompress(packed)).items():
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(text.encode())"""

WRITES = """\
The folded cells below hold the code that this notebook imports, and write it into files. To change `vae_utils.py`, \
edit its cell, restart the kernel and run all. Where the cells are not folded: [on to section 1](#idea)."""

SOURCE = """

*This is one file, built from {repository}, which also holds the tests and the benchmarks. The code is under the MIT \
licence: [licences, and how to cite](#licence).*"""

LICENCE = """\
<a id="licence"></a>
## Licences, and how to cite

The code is under the MIT licence. MNIST is by Yann LeCun and Corinna Cortes, under [CC BY-SA 3.0]\
(https://creativecommons.org/licenses/by-sa/3.0/).{source}

```bibtex
@misc{{variational-autoencoder,
  title = {{{title}}},
  author = {{{{{authors}}}}},
  year = {{{year}}},{url}
}}
```

<details><summary>The MIT licence</summary>

{text}
</details>"""


def text_cell(name: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text.splitlines(keepends=True)}


def file_cells() -> list[dict]:
    """The cells that write modules and page, with the same text to the byte, behind one that says so."""
    sources = {
        "vae_utils": f"%%writefile {MODULE}\n{text_of(MODULE)}",
        "page": packed_page(),  # it makes the folder for what comes next
        "explorer": f"%%writefile {EXPLORER}\n{text_of(EXPLORER)}",
    }
    cells = [text_cell("write-text", WRITES)]
    for name, source in sources.items():
        cell = {"cell_type": "code", "id": f"write-{name}", "metadata": FOLDED}
        cells.append(cell | {"source": source.splitlines(keepends=True), "execution_count": None, "outputs": []})
    return cells


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def packed_page() -> str:
    """Code that writes PAGE."""
    texts = {name: text_of(name) for name in PAGE}
    packed = base64.b85encode(bz2.compress(json.dumps(texts).encode())).decode()
    lines = sum(text.count("\n") for text in texts.values())
    return UNPACK.format(lines=lines, folder=Path(PAGE[0]).parent.as_posix(), packed=packed)


def forget_the_run(cell: dict) -> None:
    """Take out what a run has left in a code cell, and fold on Colab too what is folded elsewhere."""
    cell["outputs"], cell["execution_count"] = [], None
    cell["metadata"].pop("execution", None)  # the times of the run
    if cell["metadata"].get("jupyter", {}).get("source_hidden"):
        cell["metadata"] |= FOLDED


def attach_pictures(cell: dict) -> None:
    """Put the pictures that a text cell shows from the folder `images` into the cell itself."""
    text = "".join(cell["source"])
    names = re.findall(r"\]\(images/([\w-]+\.png)\)", text)
    if names:
        pictures = {name: base64.b64encode((ROOT / "images" / name).read_bytes()).decode() for name in names}
        cell["attachments"] = {name: {"image/png": data} for name, data in pictures.items()}
        cell["source"] = text.replace("](images/", "](attachment:").splitlines(keepends=True)


def link_to_what_is_left_behind(cell: dict, repository: str) -> None:
    """Let each link to a file that the single file does not bring along lead into the repository, or be a name."""
    new = rf"[\1]({repository}/blob/main/\2)" if repository else r"\1 in the repository"
    cell["source"] = LEFT_BEHIND.sub(new, "".join(cell["source"])).splitlines(keepends=True)


def name_the_source(cells: list[dict], repository: str) -> None:
    """Say in the first cell and in one behind the last where the file is from, under which licence, how to cite it."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    year, authors = re.search(r"Copyright \(c\) (\d+) (.+)", text).groups()
    title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
    link = f"[{repository.split('://')[1]}]({repository})" if repository else "a repository"
    source, url = (f" Built from {link}.", f"\n  url = {{{repository}}},") if repository else ("", "")
    cells[0]["source"] += SOURCE.format(repository=link).splitlines(keepends=True)
    licence = LICENCE.format(source=source, title=title, authors=authors, year=year, url=url, text=text)
    cells.append(text_cell("licence", licence))


def change_lines(cells: list[dict]) -> None:
    """Put the lines of CHANGED in their places."""
    for begin, line in CHANGED.items():
        pattern, found = re.compile(rf"^{re.escape(begin)}.*$", re.MULTILINE), 0
        for cell in cells:
            if cell["cell_type"] == "code":
                text, times = pattern.subn(line, "".join(cell["source"]))
                cell["source"], found = text.splitlines(keepends=True), found + times
        if found != 1:
            raise SystemExit(f"{NOTEBOOK} has {found} lines of code that begin with {begin}, not 1, to be changed here")


def first_import(cells: list[dict]) -> int:
    """The place of the first cell that imports one of the modules."""
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "code" and IMPORT.search("".join(cell["source"])):
            return place
    raise SystemExit(f"{NOTEBOOK} has no cell that imports vae_utils, before which its files could be written")


def single_file(repository: str) -> str:
    """The notebook with its pictures and the cells that write its files, and without anything that a run leaves."""
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    notebook["metadata"]["language_info"] = {"name": "python"}  # without the version that ran it last
    cells = notebook["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            forget_the_run(cell)
        else:
            attach_pictures(cell)
            link_to_what_is_left_behind(cell, repository)
    change_lines(cells)
    name_the_source(cells, repository)
    place = first_import(cells)
    cells[place:place] = file_cells()
    return as_json(notebook)


def as_json(content: dict) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def kernel_metadata(user: str) -> dict:
    """Every setting that a push may leave to chance: no GPU, no Internet, seen by nobody else until you say so."""
    slug = re.sub(r"[^a-z0-9]+", "-", TITLE.lower()).strip("-")
    return {
        "id": f"{user}/{slug}",
        "title": TITLE,
        "code_file": NOTEBOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": False,
        "enable_tpu": False,
        "enable_internet": False,
        "keywords": KEYWORDS,
        "dataset_sources": [DATASET],
        "competition_sources": [],
        "kernel_sources": [],
        "model_sources": [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", help="your name on Kaggle, as in the address of your profile")
    parser.add_argument("--repository", default=REPOSITORY, metavar="URL", help="its address (default: REPOSITORY)")
    given = parser.parse_args()
    user, repository = given.user, given.repository.rstrip("/").removesuffix(".git")
    if user is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", user):
        parser.error(f"--user {user!r}: a name on Kaggle has letters, digits, - and _ only")
    if repository and not re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+", repository):
        parser.error(f"--repository {repository!r}: an address has the form https://github.com/NAME/REPOSITORY")
    files = {HERE / NOTEBOOK: single_file(repository)}
    if user:
        files |= {
            HERE / "kernel" / NOTEBOOK: files[HERE / NOTEBOOK],
            HERE / "kernel" / "kernel-metadata.json": as_json(kernel_metadata(user)),
        }
    try:
        for path, text in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())  # with the same ends of lines on every system
            print(f"written: {path}")
    except OSError as error:
        raise SystemExit(f"Cannot write {path}: {error}") from None


if __name__ == "__main__":
    main()
