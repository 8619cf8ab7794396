"""Write the notebook as one file, which Kaggle and Colab can open, from today's notebook and code.

    python kaggle/build.py                writes kaggle/Variational-Autoencoder.ipynb, to be committed
    python kaggle/build.py --user NAME    writes also kaggle/kernel, for `kaggle kernels push -p kaggle/kernel`

Kaggle and Colab take one file, so the notebook brings along what lies beside it: folded cells, right before the first
import of it, write these files. Nothing but Python itself is needed here.
"""

import argparse
import base64
import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NOTEBOOK = "Variational-Autoencoder.ipynb"
FILES = ("vae_utils.py", "explorer/explorer.py", "explorer/template.html")  # what the notebook needs beside it
IMPORT = re.compile(r"^(import|from) (vae_utils|explorer)\b", re.MULTILINE)
LEFT_BEHIND = re.compile(r"\[([^\]]+)\]\((?!http|attachment:|explorer/|#)[^)]+\)")  # a link, by its text
FOLDED = {"_kg_hide-input": True, "cellView": "form", "jupyter": {"source_hidden": True}}  # Kaggle, Colab, JupyterLab

TITLE = "Variational autoencoders on MNIST"  # Kaggle makes the kernel's address of it
DATASET = "hojjatk/mnist-dataset"
# Kaggle mounts it below /kaggle/input, at places that differ. Elsewhere, as on Colab, there is no such folder.
DATA_ROOT = 'DATA_ROOT = "/kaggle/input" if any(Path("/kaggle/input").rglob("*-ubyte*")) else "data"'


def file_cells() -> list[dict]:
    """The cells that write FILES, with the same text to the byte, behind one that says so."""
    text = "The folded cells below hold the code that this notebook imports, and write it into files."
    cells = [{"cell_type": "markdown", "id": "write-text", "metadata": {}, "source": [text]}]
    sources = {"folder": 'from pathlib import Path\n\nPath("explorer").mkdir(exist_ok=True)'}  # %%writefile makes none
    for name in FILES:
        sources[Path(name).stem] = f"%%writefile {name}\n" + (ROOT / name).read_text(encoding="utf-8")
    for name, source in sources.items():
        cell = {"cell_type": "code", "id": f"write-{name}", "metadata": FOLDED, "source": source.splitlines(True)}
        cells.append(cell | {"execution_count": None, "outputs": []})
    return cells


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


def name_what_is_left_behind(cell: dict) -> None:
    """Put a name in place of each link to a file that the single file does not bring along."""
    text = "".join(cell["source"])
    cell["source"] = LEFT_BEHIND.sub(r"\1 in the repository", text).splitlines(keepends=True)


def find_data_on_kaggle(cells: list[dict]) -> None:
    """Let the notebook's parameter DATA_ROOT be Kaggle's input folder where that holds IDX files."""
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            text, found = re.subn(r'^DATA_ROOT = "data".*$', DATA_ROOT, "".join(cell["source"]), flags=re.MULTILINE)
            if found == 1:
                cell["source"] = text.splitlines(keepends=True)
                return
    raise SystemExit(f'{NOTEBOOK} has no cell tagged "parameters" with one line DATA_ROOT = "data", to be changed here')


def first_import(cells: list[dict]) -> int:
    """The place of the first cell that imports one of FILES."""
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "code" and IMPORT.search("".join(cell["source"])):
            return place
    raise SystemExit(f"{NOTEBOOK} has no cell that imports vae_utils, before which its files could be written")


def single_file() -> str:
    """The notebook with its pictures and the cells that write its files, and without anything that a run leaves."""
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    notebook["metadata"]["language_info"] = {"name": "python"}  # without the version that ran it last
    cells = notebook["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            forget_the_run(cell)
        else:
            attach_pictures(cell)
            name_what_is_left_behind(cell)
    find_data_on_kaggle(cells)
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
        "keywords": [],
        "dataset_sources": [DATASET],
        "competition_sources": [],
        "kernel_sources": [],
        "model_sources": [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", help="your name on Kaggle, as in the address of your profile")
    user = parser.parse_args().user
    if user is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", user):
        parser.error(f"--user {user!r}: a name on Kaggle has letters, digits, - and _ only")
    files = {HERE / NOTEBOOK: single_file()}
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
