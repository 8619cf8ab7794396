"""Write a folder that `kaggle kernels push -p FOLDER` takes as it is, from today's notebook and code.

    python kaggle/build.py --user NAME

A push sends one file, so the notebook has to bring along what lies beside it: folded first cells write these files.
The same notebook can be uploaded by hand, to Kaggle or to Colab. Nothing but Python itself is needed here.
"""

import argparse
import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "Variational-Autoencoder.ipynb"
FILES = ("vae_utils.py", "explorer/explorer.py", "explorer/template.html")  # what the notebook needs beside it

TITLE = "Variational autoencoders on MNIST"  # Kaggle makes the kernel's address of it
DATASET = "hojjatk/mnist-dataset"
# Kaggle mounts it below /kaggle/input, at places that differ. Elsewhere, as on Colab, there is no such folder.
DATA_ROOT = 'DATA_ROOT = "/kaggle/input" if any(Path("/kaggle/input").rglob("*-ubyte*")) else "data"'


def code_cell(name: str, source: str) -> dict:
    """A code cell, folded away in Kaggle's words and in JupyterLab's, so that readers begin with the text."""
    folded = {"_kg_hide-input": True, "jupyter": {"source_hidden": True}}
    parts = source.splitlines(keepends=True)
    return {
        "cell_type": "code", "execution_count": None, "id": name, "metadata": folded, "outputs": [], "source": parts,
    }  # fmt: skip


def file_cells() -> list[dict]:
    """The cells that write FILES, with the same text to the byte. %%writefile makes no folder, so one cell does."""
    cells = [code_cell("write-folder", 'from pathlib import Path\n\nPath("explorer").mkdir(exist_ok=True)')]
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        cells.append(code_cell(f"write-{Path(name).stem}", f"%%writefile {name}\n{text}"))
    return cells


def attach_pictures(cell: dict) -> None:
    """Put the pictures that a text cell shows from the folder `images` into the cell itself."""
    text = "".join(cell["source"])
    names = re.findall(r"\]\(images/([\w-]+\.png)\)", text)
    if names:
        pictures = {name: base64.b64encode((ROOT / "images" / name).read_bytes()).decode() for name in names}
        cell["attachments"] = {name: {"image/png": data} for name, data in pictures.items()}
        cell["source"] = text.replace("](images/", "](attachment:").splitlines(keepends=True)


def find_data_on_kaggle(cells: list[dict]) -> None:
    """Let the notebook's parameter DATA_ROOT be Kaggle's input folder where that holds IDX files."""
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            text, found = re.subn(r'^DATA_ROOT = "data".*$', DATA_ROOT, "".join(cell["source"]), flags=re.MULTILINE)
            if found == 1:
                cell["source"] = text.splitlines(keepends=True)
                return
    raise SystemExit(f'{NOTEBOOK} has no cell tagged "parameters" with one line DATA_ROOT = "data", to be changed here')


def kernel_notebook() -> dict:
    """The committed notebook with its pictures and without its outputs, led by the cells that write its files."""
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        else:
            attach_pictures(cell)
    find_data_on_kaggle(notebook["cells"])
    notebook["cells"] = file_cells() + notebook["cells"]
    return notebook


def kernel_metadata(user: str, dataset: str) -> dict:
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
        "dataset_sources": [dataset],
        "competition_sources": [],
        "kernel_sources": [],
        "model_sources": [],
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a folder for `kaggle kernels push -p FOLDER`.")
    parser.add_argument("--user", required=True, help="your name on Kaggle, as in the address of your profile")
    parser.add_argument(
        "--dataset", default=DATASET, help="OWNER/NAME of the dataset with MNIST (default: %(default)s)"
    )
    parser.add_argument("--out", default=ROOT / "kaggle" / "kernel", type=Path, help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    if not re.fullmatch(r"[A-Za-z0-9_-]+", arguments.user):
        parser.error(f"--user {arguments.user!r}: a name on Kaggle has letters, digits, - and _ only")
    if not re.fullmatch(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+", arguments.dataset):
        parser.error(f"--dataset {arguments.dataset!r}: wanted OWNER/NAME, such as {DATASET}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    files = {"kernel-metadata.json": kernel_metadata(arguments.user, arguments.dataset), NOTEBOOK: kernel_notebook()}
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (arguments.out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"Cannot write to {arguments.out}: {error}. Name another folder with --out.") from None
    print(f"Written. Next:\n  kaggle kernels push -p {arguments.out}")


if __name__ == "__main__":
    main()
