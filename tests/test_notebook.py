"""The notebook: it runs anywhere without a network and with every setting that it suggests; the stored run is clean.

What compares figures with prose and README is in test_release.py: a run on another processor rounds otherwise.
"""

import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from test_data import write_small_mnist

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "Variational-Autoencoder.ipynb"

# Put in front of the copy that the test runs: whatever asks for the network fails, and so does whatever warns.
# IPython's own machinery warns of its own deprecations on some versions, so only warnings after start-up count.
GUARD = """
import socket, warnings

def refuse(*args, **kwargs):
    raise OSError("this run has no network")

socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
warnings.simplefilter("error")
"""


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    return tagged[0]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def assert_clean(notebook):
    """Every cell has run, in order, without an error and without a word on stderr, where warnings go."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error", output
        assert output.get("name") != "stderr", output.text


def with_settings(notebook, **settings):
    """A copy with other values in the cell of parameters."""
    copy = nbformat.from_dict(notebook)
    cell = parameters_cell(copy)
    for name, value in settings.items():
        cell.source, found = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}  ", cell.source, flags=re.MULTILINE)
        assert found == 1, name
    return copy


def run(notebook, folder):
    """Run it in a folder that holds what it needs beside the data, and see that nothing went wrong."""
    shutil.copy(ROOT / "vae_utils.py", folder)
    shutil.copytree(ROOT / "explorer" / "source", folder / "explorer" / "source")
    shutil.copy(ROOT / "explorer" / "explorer.py", folder / "explorer")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    assert_clean(notebook)


def figures(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


def write_patterns(folder):
    """Ten noisy patterns as if they were ten kinds of clothing, or ten letters: 1,000 to train on and 300 to test."""
    random = np.random.default_rng(0)
    patterns = np.tile(random.integers(0, 256, (10, 28, 28)), (100, 1, 1))
    images = np.clip(patterns + random.normal(0, 30, patterns.shape), 0, 255).astype(np.uint8)
    write_small_mnist(folder, images, test=300)


def without_seconds(text):
    """The text without the times of the run: "12 seconds", and the last column of a table that is headed so."""
    text = re.sub(r"\b\d+ seconds", "", text)
    return re.sub(r"(?m)[ |]+\d+ *\|?$", "", text) if "seconds" in text.partition("\n")[0] else text


def shown(cell):
    """What a cell put out, without the numbers, the chunks and the times of the run."""
    text = without_seconds("".join(output.get("text", "") for output in cell.outputs) or " ")
    data = [output.data for output in cell.outputs if "data" in output]
    return text, [{kind: without_seconds(value) for kind, value in each.items()} for each in data]


SUGGESTED = {
    "EPOCHS": "2", "BETAS": "(0.5, 2.0)", "SHORT_EPOCHS": "2", "SHORT_IMAGES": "700",
    "LARGE_EPOCHS": "2", "NUM_SAMPLES": "1",
}  # fmt: skip


ANSWERS = """
def my_kl(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)

def my_gaussian_cost(x, means, sigma):
    return 0.5 * ((x - means)**2 / sigma**2 + 2 * np.log(sigma) + np.log(2 * np.pi)).sum(1)

def my_elbo(model, x, generator):
    mu, logvar = model.encode(x)
    epsilon = torch.randn(mu.shape, generator=generator, device=mu.device)
    logits = model.decode(mu + (0.5 * logvar).exp() * epsilon)
    log_likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    kl = vae.kl_divergence(mu, logvar)
    return vae.Bound(log_likelihood - kl, log_likelihood, kl)

def my_growing_beta(steps):
    calls = []
    def objective(model, x, generator):
        beta = min(1.0, len(calls) / steps)
        calls.append(1)
        return vae.elbo(model, x, beta=beta, generator=generator)
    return objective

check_exercises(my_kl, my_gaussian_cost, my_elbo, my_growing_beta)
check_exercises(lambda *numbers: -my_kl(*numbers), lambda *numbers: 0, lambda *a, **b: 1 / 0, lambda steps: vae.elbo)
"""
VERDICTS = re.compile(r"\d, the [^:\n]+: (right|wrong|not answered yet)")


@pytest.mark.parametrize(("variant", "times", "settings"), [
    ("FashionMNIST", 2, {"QUICK": "True"}),
    ("KMNIST", 1, SUGGESTED),
])  # fmt: skip
def test_with_other_settings_every_cell_runs_without_a_warning_and_gives_the_same_when_it_is_run_twice(
    notebook, tmp_path, variant, times, settings
):
    """All that the notebook suggests to try. No cell may depend on how often it or another has run."""
    elsewhere = tmp_path / "some where else"
    elsewhere.mkdir()
    write_patterns(elsewhere / "data" / variant / "raw")
    copy = with_settings(notebook, VARIANT=f'"{variant}"', **settings)
    (exercises,) = [cell for cell in copy.cells if cell.id == "exercises"]
    if times == 1:
        exercises.source = ANSWERS
    again = range(times)
    copy.cells = [nbformat.from_dict(cell | {"id": f"{cell.id}-{i}"}) for cell in code_cells(copy) for i in again]
    copy.cells.insert(0, nbformat.v4.new_code_cell(GUARD))
    run(copy, elsewhere)
    for first, last in zip(copy.cells[1::times], copy.cells[times::times], strict=True):
        assert shown(first) == shown(last), first.source
    text = "".join(shown(cell)[0] + str(shown(cell)[1]) for cell in copy.cells)
    none = ["not answered yet", "not answered yet", "wrong", "not answered yet"]  # the third comes with three bugs
    assert VERDICTS.findall(text) == (4 * ["right"] + 4 * ["wrong"] if times == 1 else times * none)
    assert "train_images (1000, 784)" in text and "| MNIST" not in text
    assert ("QUICK: " in text) == ("QUICK" in settings)
    assert not (elsewhere / "images").exists()  # such a run leaves the README's figures and page alone
    assert not (elsewhere / "explorer" / "explorer.html").exists()


def test_the_stored_run_is_complete_and_clean(notebook):
    nbformat.validate(notebook)
    assert_clean(notebook)
    assert len(figures(notebook)) >= 8
    assert notebook.metadata.kernelspec.name == "python3"
