"""Kaggle: the folder that kaggle/build.py writes, and its notebook run as Kaggle runs it.

An empty working folder, the built notebook alone, papermill as the runner, a read-only input tree, no network.
All forms of the files in all places are in test_data.py, without a notebook.
"""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from test_data import DATA, write_small_mnist

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "kaggle" / "build.py"
NAME = "Variational-Autoencoder.ipynb"
FILES = ("vae_utils.py", "explorer/explorer.py", "explorer/template.html")

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

def no_kernel():  # what PyTorch calls before its first operation on a card; before 2.8 it had no AcceleratorError
    error = getattr(torch, "AcceleratorError", RuntimeError)
    raise error("CUDA error: no kernel image is available for execution on the device")

torch.cuda.is_available = lambda: sys._getframe(1).f_globals["__name__"].split(".")[0] != "torch"
torch.cuda._lazy_init = no_kernel
"""

# How the whole notebook is run: tools/try_versions.py sets these.
ON_COLAB, QUICK = os.environ.get("RUN_AS") == "colab", os.environ.get("RUN_QUICK", "True")


def build(*options, script=BUILD):
    return subprocess.run([sys.executable, script, *map(str, options)], capture_output=True, encoding="utf-8")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    out = tmp_path_factory.mktemp("kernel")
    assert build("--user", "x", "--out", out).returncode == 0
    return nbformat.read(out / NAME, as_version=4)


@pytest.fixture
def guarded(tmp_path):
    """Today's environment with the guard, and without a path by which the repository's own modules could come in."""
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    (tmp_path / "attempts").touch()
    return {**os.environ, "PYTHONPATH": str(tmp_path / "startup"), "ATTEMPTS": str(tmp_path / "attempts")}


@pytest.mark.parametrize("dataset", ["hojjatk/mnist-dataset", "zalando-research/fashionmnist"])
def test_the_folder_holds_two_files_and_every_setting_is_explicit(tmp_path, dataset):
    out = tmp_path / "some where" / "kernel"  # what `kaggle kernels push -p` is given
    other = [] if dataset == "hojjatk/mnist-dataset" else ["--dataset", dataset]
    result = build("--user", "some-body", "--out", out, *other)
    assert result.returncode == 0 and str(out) in result.stdout, result.stderr
    assert sorted(path.name for path in out.iterdir()) == [NAME, "kernel-metadata.json"]
    metadata = json.loads((out / "kernel-metadata.json").read_text(encoding="utf-8"))
    assert metadata.pop("id") == "some-body/" + metadata.pop("title").lower().replace(" ", "-")
    settings = {"code_file": NAME, "language": "python", "kernel_type": "notebook", "dataset_sources": [dataset]}
    settings |= {key: False for key in ("enable_gpu", "enable_tpu", "enable_internet")} | {"is_private": True}
    settings |= {key: [] for key in ("keywords", "competition_sources", "kernel_sources", "model_sources")}
    assert metadata == settings


def test_the_notebook_is_the_committed_one_behind_folded_cells_without_outputs(notebook):
    nbformat.validate(notebook)
    committed = nbformat.read(ROOT / NAME, as_version=4)
    added, kept = notebook.cells[: -len(committed.cells)], notebook.cells[-len(committed.cells) :]
    assert added and all(cell.cell_type == "code" and cell.id.startswith("write-") for cell in added)
    assert all(cell.metadata["_kg_hide-input"] and cell.metadata.jupyter.source_hidden for cell in added)
    for cell, original in zip(kept, committed.cells, strict=True):
        source = original.source.replace("](images/", "](attachment:")  # such pictures travel in the cell
        line = re.search('^DATA_ROOT = "/kaggle/input" if .* else "data"$', cell.source, re.MULTILINE)
        source = re.sub('^DATA_ROOT = "data".*', line[0] if line else "", source, flags=re.MULTILINE)
        assert (cell.cell_type, cell.source, cell.metadata) == (original.cell_type, source, original.metadata)
        for name in re.findall(r"\]\(attachment:([^)]+)\)", source):
            picture = base64.b64decode(cell.attachments[name]["image/png"])
            assert picture == (ROOT / "images" / name).read_bytes()
    assert sum("attachments" in cell for cell in kept) >= 1
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert notebook.metadata == committed.metadata


# What a text must survive on its way through JSON, IPython and the file system.
AWKWARD = "r\"\"\"\\\\ \\n, {braces}, `${1}`, %percent, !bang, ?\n\"\"\"\n\n%timeit\n'''ü ζ\n  '''\n\t</script>\\\n"


def test_the_first_cells_write_the_files_to_the_byte(tmp_path):
    """In a copy of the repository whose files hold everything that quoting could damage."""
    repository = tmp_path / "repository"
    (repository / "explorer").mkdir(parents=True)
    shutil.copytree(BUILD.parent, repository / "kaggle")
    shutil.copytree(ROOT / "images", repository / "images")
    shutil.copy(ROOT / NAME, repository)
    texts = {name: AWKWARD + (ROOT / name).read_text(encoding="utf-8") + AWKWARD for name in FILES}
    for name, text in texts.items():
        (repository / name).write_bytes(text.encode())
    assert build("--user", "x", script=repository / "kaggle" / "build.py").returncode == 0
    notebook = nbformat.read(repository / "kaggle" / "kernel" / NAME, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id.startswith("write-")]
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for name, text in texts.items():
        assert (tmp_path / name).read_bytes().replace(b"\r\n", b"\n") == text.encode()
    committed = (repository / NAME).read_text(encoding="utf-8")
    (repository / NAME).write_text(committed.replace("DATA_ROOT = ", "FOLDER = "), encoding="utf-8")
    result = build("--user", "x", script=repository / "kaggle" / "build.py")
    assert result.returncode == 1 and "DATA_ROOT" in result.stderr and "Traceback" not in result.stderr


REFUSED = [
    *(({"--user": user}, 2, "letters, digits") for user in ("", "some body", "a/b", "naïve", "x;y")),
    ({"--dataset": "mnist-in-csv"}, 2, "OWNER/NAME"),
    ({"--out": "file"}, 1, "Cannot write to .*file.*--out"),
]


@pytest.mark.parametrize(("options", "code", "message"), REFUSED)
def test_what_cannot_be_pushed_or_written_is_refused_in_one_clear_line(tmp_path, options, code, message):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    options = {"--user": "x", "--out": "new", **options}
    result = build(*(f"{name}={tmp_path / value if name == '--out' else value}" for name, value in options.items()))
    assert result.returncode == code and re.search(message, result.stderr) and "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_guard_lets_nothing_out(guarded, tmp_path):
    """Without this, a guard that does nothing would prove that nothing is asked of the network."""
    for call in ("urllib.request.urlopen('http://example.org')", "socket.create_connection(('192.0.2.1', 80), 1)"):
        command = [sys.executable, "-c", f"import socket, urllib.request; {call}"]
        result = subprocess.run(command, env=guarded, capture_output=True, text=True)
        assert "this run has no network" in result.stderr
    assert (tmp_path / "attempts").read_text().split() == ["example.org", "192.0.2.1"]


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
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar", "-p", "QUICK", QUICK]
    modes = {path: path.stat().st_mode for path in [tree, *tree.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        result = subprocess.run(command, cwd=working, env=guarded, capture_output=True, text=True)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert result.returncode == 0, result.stderr
    assert {tree, *tree.rglob("*")} == set(modes)
    assert (tmp_path / "attempts").read_text() == "" and not list(working.rglob("*.gz"))  # nothing was downloaded
    for name in FILES:
        assert (working / name).read_bytes().replace(b"\r\n", b"\n") == (ROOT / name).read_text("utf-8").encode()
    return nbformat.read(working / "out.ipynb", as_version=4).cells


PLACES = {
    "input/mnist-dataset": {"dot": True},
    "input/datasets/someone/mnist": {"gz": True, "inside": True},
    "working/data/MNIST/raw": {},  # nothing is on Kaggle, or this is Colab
}


@pytest.mark.parametrize("place", PLACES)
def test_the_data_cell_in_each_place(notebook, tmp_path, guarded, place):
    """The notebook as far as its first figure, on five images."""
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    write_small_mnist(tmp_path / place, images, **PLACES[place])
    copy = nbformat.from_dict(notebook)
    copy.cells = copy.cells[: 1 + next(i for i, cell in enumerate(copy.cells) if "vae.load_mnist(" in cell.source)]
    cells = run_on_kaggle(copy, tmp_path, guarded)
    assert "train_images (5, 784)" in cells[-1].outputs[0].text


def test_the_whole_notebook_on_the_default_dataset(notebook, tmp_path, guarded):
    """hojjatk/mnist-dataset: each file under a name with a dot, and again in a folder with the name of the file.

    With a card that fails. On Colab: no card, and MNIST where the download would put it, since there is no network.
    """
    dataset, raw = tmp_path / "input/datasets/hojjatk/mnist-dataset", tmp_path / "working/data/MNIST/raw"
    for path in (DATA / "MNIST" / "raw").glob("*.gz"):
        name = path.stem
        for copy in [raw / name] if ON_COLAB else [dataset / name / name, dataset / name.replace("-idx", ".idx")]:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(gzip.decompress(path.read_bytes()))
    cells = run_on_kaggle(notebook, tmp_path, guarded, card="" if ON_COLAB else P100)
    committed = nbformat.read(ROOT / NAME, as_version=4).cells
    run, stored = ([out for cell in some for out in cell.get("outputs", [])] for some in (cells, committed))
    figures, wanted = (sum("image/png" in output.get("data", {}) for output in outputs) for outputs in (run, stored))
    assert figures == wanted
    if QUICK == "True":  # such a run leaves the README's pictures and page alone
        assert not [name for name in ("images", "explorer/explorer.html") if (tmp_path / "working" / name).exists()]
    printed = "".join(output.get("text", "") for output in run)
    assert f"test ({500 if QUICK == 'True' else 10_000}, 784)" in printed
    fallback = "There is a GPU, but PyTorch cannot compute on it: the CPU is used."
    assert ON_COLAB or fallback in printed or ", mps, " in printed  # a Mac has a card of its own
    assert not [output for output in run if output.output_type == "error" or output.get("name") == "stderr"]
