"""Kaggle: the folder that kaggle/build.py writes, and its notebook run as Kaggle runs it.

An empty working folder, the built notebook alone, papermill as the runner, a read-only input tree, no network.
Every layout with every form of the files is in test_data.py, without a notebook.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from test_data import DATA, write_csv, write_small_mnist

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "kaggle" / "build.py"
NAME = "Variational-Autoencoder.ipynb"

# Python runs a module of this name whenever it starts, so it guards the runner and the kernel alike. Their messages
# to each other go through local sockets; every other attempt is noted, for load_mnist would survive the error.
SITECUSTOMIZE = """
import socket
from pathlib import Path

connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo


def check(host):
    if host not in ("127.0.0.1", "::1", "localhost", "", None):
        with Path(__file__).with_name("attempts.txt").open("a") as attempts:
            print(host, file=attempts)
        raise OSError(f"this run has no network, and asks for {host}")


def guarded_connect(self, address):
    check(address[0] if isinstance(address, tuple) else None)  # a tuple unless the socket is a local file
    return connect(self, address)


def guarded_getaddrinfo(host, *args, **kwargs):
    check(host)
    return getaddrinfo(host, *args, **kwargs)


socket.socket.connect, socket.getaddrinfo = guarded_connect, guarded_getaddrinfo
"""


def build(*options):
    command = [sys.executable, str(BUILD), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `kaggle kernels push -p` would be given."""
    out = tmp_path_factory.mktemp("kaggle") / "some where" / "kernel"
    result = build("--user", "some-body", "--out", out)
    assert result.returncode == 0, result.stderr
    assert str(out) in result.stdout
    return out


@pytest.fixture(scope="module")
def notebook(folder):
    return nbformat.read(folder / NAME, as_version=4)


@pytest.fixture
def startup(tmp_path):
    path = tmp_path / "startup"
    path.mkdir()
    (path / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    return path


def environment(startup):
    """Today's environment with the guard, and without a path by which the repository's own module could come in."""
    return {**os.environ, "PYTHONPATH": str(startup)}


def test_the_folder_holds_two_files_and_every_setting_is_explicit(folder):
    assert sorted(path.name for path in folder.iterdir()) == [NAME, "kernel-metadata.json"]
    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    assert metadata == {
        "id": "some-body/variational-autoencoders-on-mnist",
        "title": "Variational autoencoders on MNIST",
        "code_file": NAME,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": False,
        "enable_tpu": False,
        "enable_internet": False,
        "keywords": [],
        "dataset_sources": ["hojjatk/mnist-dataset"],
        "competition_sources": [],
        "kernel_sources": [],
        "model_sources": [],
    }
    assert metadata["id"].split("/")[1] == metadata["title"].lower().replace(" ", "-")


def test_the_notebook_is_the_committed_one_behind_folded_cells_without_outputs(notebook):
    nbformat.validate(notebook)
    committed = nbformat.read(ROOT / NAME, as_version=4)
    added = notebook.cells[: -len(committed.cells)]
    assert added and all(cell.cell_type == "code" for cell in added)
    assert all(cell.metadata["_kg_hide-input"] and cell.metadata.jupyter.source_hidden for cell in added)
    kept = notebook.cells[len(added) :]
    assert [(c.cell_type, c.source, c.metadata) for c in kept] == [
        (c.cell_type, c.source, c.metadata) for c in committed.cells
    ]
    assert any("parameters" in cell.metadata.get("tags", []) for cell in kept)
    assert not any(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert notebook.metadata.kernelspec.name == "python3"


# What a text must survive on its way through JSON, IPython and the file system.
AWKWARD = (
    "r\"\"\"A \\\\ backslash, \\n, {braces}, %percent, !bang, ?\n\"\"\"\n\n%timeit\nx = '''ü ζ\n    '''\n\tlast\\\n"
)


def test_the_first_cells_write_the_files_to_the_byte(tmp_path):
    """In a copy of the repository whose files hold everything that quoting could damage."""
    repository, working = tmp_path / "repository", tmp_path / "working"
    for name in ("kaggle", "explorer"):
        (repository / name).mkdir(parents=True)
    working.mkdir()
    shutil.copy(BUILD, repository / "kaggle")
    shutil.copy(ROOT / NAME, repository)
    texts = {"vae_utils.py": AWKWARD + (ROOT / "vae_utils.py").read_text(encoding="utf-8")}
    texts["explorer/template.html"] = AWKWARD + "<script>`${1}`</script>"
    for name, text in texts.items():
        (repository / name).write_bytes(text.encode())
    command = [sys.executable, str(repository / "kaggle" / "build.py"), "--user", "x"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    notebook = nbformat.read(repository / "kaggle" / "kernel" / NAME, as_version=4)
    notebook.cells = notebook.cells[:2]
    NotebookClient(notebook, resources={"metadata": {"path": str(working)}}).execute()
    for name, text in texts.items():
        assert (working / name).read_bytes().replace(b"\r\n", b"\n") == text.encode()


@pytest.mark.parametrize("user", ["", "some body", "a/b", "naïve", "x;y"])
def test_a_name_that_kaggle_would_not_take_is_refused_and_nothing_is_written(tmp_path, user):
    result = build("--user", user, "--out", tmp_path / "kernel")
    assert result.returncode == 2 and "letters, digits" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "kernel").exists()


def test_a_dataset_can_be_chosen_and_a_wrong_one_is_refused(tmp_path):
    assert build("--user", "x", "--dataset", "oddrationale/mnist-in-csv", "--out", tmp_path).returncode == 0
    metadata = json.loads((tmp_path / "kernel-metadata.json").read_text(encoding="utf-8"))
    assert metadata["dataset_sources"] == ["oddrationale/mnist-in-csv"]
    result = build("--user", "x", "--dataset", "mnist-in-csv", "--out", tmp_path)
    assert result.returncode == 2 and "OWNER/NAME" in result.stderr


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    result = build("--user", "x", "--out", tmp_path / "file")
    assert result.returncode == 1 and result.stderr.startswith("Cannot write to")
    assert "--out" in result.stderr and "Traceback" not in result.stderr


def test_the_guard_lets_nothing_out(startup):
    """Without this, a guard that does nothing would prove that nothing is asked of the network."""
    for call in ("urllib.request.urlopen('http://example.org')", "socket.create_connection(('192.0.2.1', 80), 1)"):
        command = [sys.executable, "-c", f"import socket, urllib.request; {call}"]
        result = subprocess.run(command, env=environment(startup), capture_output=True, text=True)
        assert "this run has no network" in result.stderr
    assert (startup / "attempts.txt").read_text().split() == ["example.org", "192.0.2.1"]


def run_on_kaggle(notebook, tmp_path, startup, *parameters, rows=None):
    """Run it in an empty working folder on the tree tmp_path/input, which is as read-only as Kaggle's; its outputs."""
    tree = tmp_path / "input"
    before = sorted(tree.rglob("*"))
    place = f"import pathlib, vae_utils\nvae_utils.KAGGLE_INPUT = pathlib.Path({str(tree)!r})\n"
    if rows:
        place += f"vae_utils.CSV_ROWS = {rows!r}\n"
    working = tmp_path / "working"
    working.mkdir()
    first = next(i for i, cell in enumerate(notebook.cells) if "write-" not in cell.id)
    notebook.cells.insert(first, nbformat.v4.new_code_cell(place))
    nbformat.write(notebook, working / "__notebook__.ipynb")
    command = [sys.executable, "-m", "papermill", "__notebook__.ipynb", "__output__.ipynb", "--no-progress-bar"]
    for path in [*before, tree]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        result = subprocess.run(
            [*command, *parameters], cwd=working, env=environment(startup), capture_output=True, text=True
        )
    finally:
        for path in [tree, *before]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert result.returncode == 0, result.stderr
    assert sorted(tree.rglob("*")) == before
    assert not (startup / "attempts.txt").exists()
    assert (working / "vae_utils.py").read_bytes() == (ROOT / "vae_utils.py").read_bytes().replace(b"\r\n", b"\n")
    assert not list(working.rglob("*.gz"))  # nothing was downloaded
    return nbformat.read(working / "__output__.ipynb", as_version=4)


def place_csv(folder, images):
    write_csv(folder, images, np.arange(len(images)) % 10)


FORMS = {
    "dotted": lambda folder, images: write_small_mnist(folder, images, dot=True),
    "gz": lambda folder, images: write_small_mnist(folder, images, gz=True),
    "csv": place_csv,
}


@pytest.mark.parametrize(
    ("layout", "form"), [("mnist", "dotted"), ("datasets/someone/mnist", "csv"), ("competitions/mnist", "gz")]
)
def test_the_data_cell_on_each_layout_and_form(notebook, tmp_path, startup, layout, form):
    """The notebook as far as its first figure, on five images."""
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    FORMS[form](tmp_path / "input" / layout, images)
    copy = nbformat.from_dict(notebook)
    copy.cells = copy.cells[: 1 + next(i for i, cell in enumerate(copy.cells) if "vae.load_mnist(" in cell.source)]
    rows = {"mnist_train.csv": 5, "mnist_test.csv": 2}
    run = run_on_kaggle(copy, tmp_path, startup, "-p", "QUICK", "True", rows=rows)
    assert "train_images  (5, 784)" in run.cells[-1].outputs[0].text


def test_the_whole_notebook_on_the_default_dataset(notebook, tmp_path, startup):
    """hojjatk/mnist-dataset: each file under a name with a dot, and again in a folder with the name of the file."""
    dataset = tmp_path / "input" / "datasets" / "hojjatk" / "mnist-dataset"
    dataset.mkdir(parents=True)
    for path in (DATA / "MNIST" / "raw").glob("*.gz"):
        name = path.stem
        content = gzip.decompress(path.read_bytes())
        (dataset / name).mkdir()
        for copy in (dataset / name / name, dataset / name.replace("-idx", ".idx")):
            copy.write_bytes(content)
    run = run_on_kaggle(nbformat.from_dict(notebook), tmp_path, startup, "-p", "QUICK", "True")
    outputs = [output for cell in run.cells if cell.cell_type == "code" for output in cell.outputs]
    committed = nbformat.read(ROOT / NAME, as_version=4)
    stored = [output for cell in committed.cells if cell.cell_type == "code" for output in cell.outputs]
    figures, wanted = (["image/png" in output.get("data", {}) for output in some] for some in (outputs, stored))
    assert sum(figures) == sum(wanted)
    assert "test_images   (10000, 784)" in "".join(output.get("text", "") for output in outputs)
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
