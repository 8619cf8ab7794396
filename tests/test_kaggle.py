"""Kaggle and Colab: the single file is what kaggle/build.py makes, and it runs as Kaggle runs it.

An empty working folder, the single file alone, papermill as the runner, a read-only input tree, no network.
All forms of the files in all places are in test_data.py, without a notebook.
"""

import base64
import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from test_data import DATA, write_small_mnist
from test_release import in_git

ROOT = Path(__file__).parent.parent
NAME = "Variational-Autoencoder.ipynb"
SINGLE = ROOT / "kaggle" / NAME
NOTEBOOK = nbformat.read(SINGLE, as_version=4)
PAGE = [f"explorer/source/{name}" for name in ("explorer.html", "style.css", "model.js", "draw.js", "explorer.js")]
FILES = ("vae_utils.py", "explorer/explorer.py", *PAGE)
MARKDOWN = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")

# Python runs a module of this name whenever it starts, so it guards the runner and the kernel alike. Their messages
# to each other go through local sockets; every other attempt is noted, for load_mnist would survive the error.
SITECUSTOMIZE = """
import os, sys

def guard(event, values):
    address = values[1] if event == "socket.connect" else None  # a tuple, unless the socket is a local file
    host = values[0] if event == "socket.getaddrinfo" else address[0] if isinstance(address, tuple) else None
    if host not in ("127.0.0.1", "::1", "localhost", "", None):
        with open(os.environ["ATTEMPTS"], "a") as attempts:
            print(host, file=attempts)
        raise OSError(f"this run has no network, and asks for {host}")

sys.addaudithook(guard)
"""

# Kaggle's P100, on any machine: PyTorch says that it is there, and the first operation on it fails for want of kernels.
# PyTorch's optimisers ask for a card too, even on the CPU, and would go on to talk to it: they are told the truth. What
# this leaves out: PyTorch also warns of a real P100.
P100 = """
import sys, torch

def no_kernel():  # what PyTorch calls before its first operation on a card
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

torch.cuda.is_available = lambda: sys._getframe(1).f_globals["__name__"].split(".")[0] != "torch"
torch.cuda._lazy_init = no_kernel
"""

# How the whole notebook is run: tools/try_versions.py sets these.
ON_COLAB, QUICK = os.environ.get("RUN_AS") == "colab", os.environ.get("RUN_QUICK", "True")


def build(folder, *options):
    return subprocess.run([sys.executable, folder / "kaggle/build.py", *options], capture_output=True, encoding="utf-8")


@pytest.fixture
def repository(tmp_path):
    """What build.py reads and build.py itself, in a folder in which a test may build and change things."""
    folder = tmp_path / "some where" / "repository"
    for name in ("kaggle/build.py", "LICENSE", NAME, *FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "images", folder / "images")
    return folder


@pytest.fixture
def guarded(tmp_path):
    """Today's environment with the guard, and without a path by which the repository's own modules could come in."""
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    (tmp_path / "attempts").touch()
    return {**os.environ, "PYTHONPATH": str(tmp_path / "startup"), "ATTEMPTS": str(tmp_path / "attempts")}


def pictures(notebook):
    """The pictures that the text cells carry: name -> bytes."""
    attached = [cell.get("attachments", {}) for cell in notebook.cells]
    return {name: base64.b64decode(kinds["image/png"]) for each in attached for name, kinds in each.items()}


def test_the_committed_file_is_what_build_py_makes_of_todays_files_and_a_run_changes_nothing(repository):
    """But for the pictures: a run of the notebook on another machine draws them a little differently."""
    for name, picture in pictures(NOTEBOOK).items():
        (repository / "images" / name).write_bytes(picture)
    run = nbformat.read(repository / NAME, as_version=4)
    run.metadata.language_info.version = "3.99"
    for cell in run.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="other")], 99
            cell.metadata["execution"] = {"iopub.status.busy": "later"}
    nbformat.write(run, repository / NAME)
    assert build(repository).returncode == 0
    if (repository / "kaggle" / NAME).read_text(encoding="utf-8") != SINGLE.read_text(encoding="utf-8"):
        pytest.fail(f"{SINGLE.relative_to(ROOT)} is not of today: run `python kaggle/build.py`")


@pytest.mark.release
def test_the_committed_file_shows_the_committed_pictures():
    shown = pictures(nbformat.reads(in_git(f"kaggle/{NAME}").decode(), as_version=4))
    assert "manifold.png" in shown
    old = [name for name, picture in shown.items() if picture != in_git(f"images/{name}")]
    assert not old, f"{old} are not of today: run `python kaggle/build.py`"


def test_with_a_name_that_kaggle_can_have_a_folder_is_written_too_and_stays_private(repository):
    folder = repository / "kaggle" / "kernel"
    for user in ("", "a/b", "naïve"):
        result = build(repository, f"--user={user}")
        assert result.returncode == 2 and "letters, digits" in result.stderr
    assert [path.name for path in folder.parent.iterdir()] == ["build.py"]
    result = build(repository, "--user", "some-body")
    assert result.returncode == 0 and str(folder) in result.stdout, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == [NAME, "kernel-metadata.json"]
    assert (folder / NAME).read_bytes() == (repository / "kaggle" / NAME).read_bytes()
    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    assert metadata["id"] == "some-body/" + metadata["title"].lower().replace(" ", "-")
    assert metadata["code_file"] == NAME and metadata["dataset_sources"] == ["hojjatk/mnist-dataset"]
    assert metadata["keywords"]
    assert metadata["is_private"] and not metadata["enable_internet"] and not metadata["enable_gpu"]


def test_it_is_a_notebook_without_a_run_that_folds_what_it_writes_and_links_to_nothing_that_it_lacks():
    nbformat.validate(NOTEBOOK)
    code = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]
    for cell in code:  # folded on Colab, in JupyterLab and on Kaggle, or on none of them
        marks = {"cellView", "jupyter", "_kg_hide-input"} & cell.metadata.keys()
        assert len(marks) == 3 or not (marks or cell.id.startswith("write-"))
    there = {f"attachment:{name}" for name in pictures(NOTEBOOK)} | {"explorer/explorer.html"}  # which the run writes
    there |= {f"#{anchor}" for anchor in re.findall('<a id="([^"]+)">', MARKDOWN)}
    assert {target for target in re.findall(r"\]\(([^)]+)\)", MARKDOWN) if not target.startswith("http")} <= there
    assert SINGLE.stat().st_size < 1e6  # what a push may send


def test_the_first_picture_is_square_and_what_is_not_python_takes_no_room_before_the_imports():
    first = re.search(r"\(attachment:([^)]+)\)", NOTEBOOK.cells[0].source)[1]
    width, height = struct.unpack(">II", pictures(NOTEBOOK)[first][16:24])
    assert width == height > 500
    lines = sum(len(cell.source.splitlines()) for cell in NOTEBOOK.cells if cell.id.startswith("write-"))
    assert lines < 20 + sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in FILES[:2])


@pytest.mark.parametrize("address", ["", "https://github.com/ada/digits"])
def test_the_first_and_the_last_cell_name_source_and_licence_and_what_is_left_behind_is_linked(repository, address):
    for wrong in ("ada/digits", "https://github.com", "https://github.com/ada/my digits"):
        result = build(repository, "--repository", wrong)
        assert result.returncode == 2 and "https://github.com/NAME/REPOSITORY" in result.stderr
    result = build(repository, *(["--repository", f"{address}.git"] if address else []))
    assert result.returncode == 0, result.stderr
    text = [cell.source for cell in nbformat.read(repository / "kaggle" / NAME, as_version=4).cells]
    linked = {target for target in re.findall(r"\]\(([^)]+)\)", "\n".join(text)) if "github.com" in target}
    files = {re.split("/blob/main/|#", target)[1] for target in linked - {address}}
    assert all((ROOT / name).is_file() for name in files) and bool(files) == bool(address)
    assert all((f"[github.com/ada/digits]({address})" in cell) == bool(address) for cell in (text[0], text[-1]))
    assert ("in the repository" in "\n".join(text)) != bool(address)
    assert "MIT" in text[0] and (ROOT / "LICENSE").read_text(encoding="utf-8") in text[-1]
    assert (f"url = {{{address}}}" in text[-1]) == bool(address) and "licenses/by-sa/3.0" in text[-1]


@pytest.mark.parametrize("line", ['DATA_ROOT = "data"', "show_explorer(page)"])
def test_a_line_that_is_to_be_changed_and_is_not_there_stops_the_build_by_name(repository, line):
    path = repository / NAME
    path.write_text(path.read_text(encoding="utf-8").replace(json.dumps(line)[1:-1], "pass"), encoding="utf-8")
    result = build(repository)
    assert result.returncode == 1 and line in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (repository / "kaggle" / NAME).exists()


def test_the_added_cells_write_the_files_to_the_byte(repository, tmp_path):
    """They hold what quoting could damage: backslashes, braces, quotes within quotes, letters that are not ASCII."""
    assert build(repository).returncode == 0
    notebook = nbformat.read(repository / "kaggle" / NAME, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id.startswith("write-")]
    (tmp_path / "explorer").mkdir()  # as when they are run again
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for name in FILES:
        assert (tmp_path / name).read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")


def run_on_kaggle(notebook, tmp_path, guarded, card=""):
    """A quick run in an empty working folder on the tree tmp_path/input, as read-only as Kaggle's; gives its cells."""
    tree, working = tmp_path / "input", tmp_path / "working"
    notebook = nbformat.from_dict(notebook)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assert parameters.source.count('"/kaggle/input"') == 2
    parameters.source = parameters.source.replace('"/kaggle/input"', repr(str(tree)))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(card))
    tree.mkdir(exist_ok=True)
    working.mkdir(exist_ok=True)
    nbformat.write(notebook, working / "in.ipynb")
    before = {tree, *tree.rglob("*")}
    for path in before:
        path.chmod(path.stat().st_mode & ~0o222)
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar", "-p", "QUICK", QUICK]
    result = subprocess.run(command, cwd=working, env=guarded, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {tree, *tree.rglob("*")} == before
    assert (tmp_path / "attempts").read_text() == "" and not list(working.rglob("*.gz"))  # nothing was downloaded
    return nbformat.read(working / "out.ipynb", as_version=4).cells


@pytest.mark.parametrize(("place", "form", "variant", "other"), [
    ("input/datasets/someone/mnist", {"gz": True, "inside": True}, "MNIST", "input/fashion-mnist"),
    ("working/data/MNIST/raw", {}, "MNIST", None),  # nothing is on Kaggle, or this is Colab
    ("working/data/KMNIST/raw", {}, "KMNIST", "input/mnist-dataset"),  # a download cannot go where the other is
])  # fmt: skip
def test_the_data_cell_in_each_place(tmp_path, guarded, place, form, variant, other):
    """The notebook as far as its first figure, on five images; the other variant has three."""
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    write_small_mnist(tmp_path / place, images, **form)
    if other:
        write_small_mnist(tmp_path / other, images[:3])
    copy = nbformat.from_dict(NOTEBOOK)
    copy.cells = copy.cells[: 1 + next(i for i, cell in enumerate(copy.cells) if "vae.load_mnist(" in cell.source)]
    for cell in copy.cells:
        cell.source = cell.source.replace('\nVARIANT = "MNIST"', f'\nVARIANT = "{variant}"')
    assert "train_images (5, 784)" in run_on_kaggle(copy, tmp_path, guarded)[-1].outputs[0].text


def test_the_whole_notebook_on_the_default_dataset(tmp_path, guarded):
    """hojjatk/mnist-dataset: each file under a name with a dot, and again in a folder with the name of the file.

    With a card that fails. On Colab: no card, and MNIST where the download would put it, since there is no network.
    """
    dataset, raw = tmp_path / "input/datasets/hojjatk/mnist-dataset", tmp_path / "working/data/MNIST/raw"
    for path in (DATA / "MNIST" / "raw").glob("*.gz"):
        name = path.stem
        for copy in [raw / name] if ON_COLAB else [dataset / name / name, dataset / name.replace("-idx", ".idx")]:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(gzip.decompress(path.read_bytes()))
    cells = run_on_kaggle(NOTEBOOK, tmp_path, guarded, card="" if ON_COLAB else P100)
    committed = nbformat.read(ROOT / NAME, as_version=4).cells
    run, stored = ([out for cell in some for out in cell.get("outputs", [])] for some in (cells, committed))
    figures, wanted = (sum("image/png" in output.get("data", {}) for output in outputs) for outputs in (run, stored))
    assert figures == wanted
    embedded = [html for output in run if "srcdoc=" in (html := output.get("data", {}).get("text/html", ""))]
    assert len(embedded) == 1 and len(embedded[0]) > 1e6
    if QUICK == "True":  # such a run leaves the README's pictures and page alone
        assert not [name for name in ("images", "explorer/explorer.html") if (tmp_path / "working" / name).exists()]
    printed = "".join(output.get("text", "") for output in run)
    assert f"test ({500 if QUICK == 'True' else 10_000}, 784)" in printed
    fallback = "There is a GPU, but PyTorch cannot compute on it: the CPU is used."
    assert ON_COLAB or fallback in printed or ", mps, " in printed  # a Mac has a card of its own
    assert not [output for output in run if output.output_type == "error" or output.get("name") == "stderr"]
