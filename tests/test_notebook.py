"""The notebook: it runs anywhere without a network, and what is stored in it is one clean run of today's code."""

import ast
import inspect
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import vae_utils

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


def printed(notebook):
    """All that the stored run printed, as one text."""
    return "\n".join(o.get("text", "") or o.data.get("text/plain", "") for o in outputs(notebook))


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
    (folder / "explorer").mkdir()
    for name in ("explorer.py", "template.html"):
        shutil.copy(ROOT / "explorer" / name, folder / "explorer")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    assert_clean(notebook)


def figures(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


def write_patterns(folder):
    """Ten noisy patterns as if they were ten kinds of clothing, or ten letters: 1,000 to train on and 300 to test."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, (10, 28, 28))
    for stem, count in (("train", 1000), ("t10k", 300)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.clip(patterns[labels] + random.normal(0, 30, (count, 28, 28)), 0, 255).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(header + array.tobytes())


def without_seconds(text):
    """The text without the times of the run: "12 seconds", and the last column of a table that is headed so."""
    column = r"(?m)[ |]+\d+ *\|?$" if "seconds" in text.splitlines()[0] else r"\b\d+ seconds"
    return re.sub(column, "", text)


def shown(cell):
    """What a cell put out, without the numbers, the chunks and the times of the run."""
    text = without_seconds("".join(output.get("text", "") for output in cell.outputs) or " ")
    data = [output.data for output in cell.outputs if "data" in output]
    return text, [{kind: without_seconds(value) for kind, value in each.items()} for each in data]


SUGGESTED = {
    "LATENT_DIM": "10", "HIDDEN_DIMS": "(400,)", "EPOCHS": "5", "BETAS": "(0.0, 0.5, 1.0, 2.0)", "LATENT_DIMS": "(2,)",
    "SHORT_EPOCHS": "10", "CONV_EPOCHS": "3", "NUM_SAMPLES": "20",
}  # fmt: skip


@pytest.mark.parametrize(("variant", "times", "settings"), [
    ("FashionMNIST", 2, {"QUICK": "True", "HIDDEN_DIMS": "(256, 256, 256, 256)"}),
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
    again = range(times)
    copy.cells = [nbformat.from_dict(cell | {"id": f"{cell.id}-{i}"}) for cell in code_cells(copy) for i in again]
    copy.cells.insert(0, nbformat.v4.new_code_cell(GUARD))
    run(copy, elsewhere)
    for first, last in zip(copy.cells[1::times], copy.cells[times::times], strict=True):
        assert shown(first) == shown(last), first.source
    text = "".join(shown(cell)[0] + str(shown(cell)[1]) for cell in copy.cells)
    assert f"grey {variant}" in text and "| MNIST" not in text
    assert not (elsewhere / "images").exists()  # such a run leaves the README's figures and page alone
    assert not (elsewhere / "explorer" / "explorer.html").exists()


def test_the_stored_run_is_complete_and_clean(notebook):
    nbformat.validate(notebook)
    assert_clean(notebook)
    assert len(figures(notebook)) >= 8
    kernel = notebook.metadata.kernelspec
    assert kernel.name == "python3"


def test_the_stored_run_is_the_full_one(notebook):
    assert "\nQUICK = False" in parameters_cell(notebook).source
    epochs = parameters(notebook)["EPOCHS"]
    tables = [output.data["text/plain"] for output in outputs(notebook) if "text/markdown" in output.get("data", {})]
    assert any(re.search(rf"^{epochs} +-\d", table, re.MULTILINE) for table in tables)


def parameters(notebook):
    assignments = ast.parse(parameters_cell(notebook).source).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def test_the_shown_sources_are_those_of_today(notebook):
    shown = 0
    for cell in code_cells(notebook):
        for name in re.findall(r"^show_source\(vae\.(\w+)\)", cell.source, re.MULTILINE):
            source = inspect.getsource(getattr(vae_utils, name))
            stored = [output.data for output in cell.outputs if "text/markdown" in output.get("data", {})]
            assert source in [data["text/plain"] for data in stored], f"{name} has changed: run the notebook again"
            assert f"```python\n{source}```" in [data["text/markdown"] for data in stored]
            shown += 1
    assert shown >= 6


def test_prose_and_code_agree_on_the_parameters(notebook):
    """Every setting that the prose names exists and is used, and the epochs that it speaks of are those of the run."""
    settings = parameters(notebook)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for name in re.findall(r"`([A-Z][A-Z_]+)(?: = [^`]+)?`", prose):
        assert name in settings, f"the prose speaks of {name}, which is not among the parameters"
    epochs = r"(?<![\d,])(\d+) epochs"  # not Burda's 3,280
    known = {str(value) for name, value in settings.items() if name.endswith("EPOCHS")}
    known |= set(re.findall(epochs, printed(notebook)))
    assert set(re.findall(epochs, prose)) <= known
    code = "\n".join(cell.source for cell in code_cells(notebook))
    for name in settings:
        assert len(re.findall(rf"\b{name}\b", code)) >= 2, f"{name} is set and not used"


def decimals(text):
    text = re.sub(r"\(http\S+\)|\[arXiv\S+\]|Python 3\.\d+", "", text)
    return set(re.findall(r"\d+\.\d\d+", text))


def test_every_decimal_figure_in_the_prose_stands_in_an_output(notebook):
    """Figures such as 133.91 come from the run that is stored."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert decimals(prose) <= decimals(printed(notebook))


def test_every_decimal_figure_in_the_readme_stands_in_the_notebook_or_is_a_recorded_measurement(notebook):
    recorded = set()
    for path in (ROOT / "benchmarks" / "results").glob("likelihood-test-*.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        recorded |= {f"{abs(report[key]):.2f}" for key in ("elbo", "negative_log_likelihood", "standard_error")}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"(?s)## Versions\n.*?\n## ", "", readme)  # numbers of versions are no results
    assert decimals(readme) <= decimals(printed(notebook)) | recorded


@pytest.mark.parametrize("minutes", [5, 20])
def test_the_readme_quotes_the_median_of_the_recorded_runs(minutes):
    paths = [ROOT / "benchmarks" / "results" / f"likelihood-test-{minutes}min-seed{seed}.json" for seed in range(3)]
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert len({(r["num_samples"], *r["epochs"]) for r in runs}) == 1
    assert all(r["images"] == 10_000 and r["split"] == "test" for r in runs)
    median = sorted(runs, key=lambda r: r["negative_log_likelihood"])[1]
    figures = f"{median['num_samples']} | {-median['elbo']:.2f} | **{median['negative_log_likelihood']:.2f}**"
    assert f"| {minutes} minutes, two cores | {figures} |" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_figure_has_a_text_for_those_who_cannot_see_it(notebook):
    for cell in code_cells(notebook):
        drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert drawn == ("alt" in cell.metadata), cell.source
        assert not drawn or len(cell.metadata.alt) > 40


def test_the_table_of_contents_leads_to_every_section(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(#([\w-]+)\)", prose)
    anchors = re.findall(r'<a id="([\w-]+)"></a>\n## ', prose)
    assert links == anchors and len(anchors) == len(re.findall(r"^## ", prose, re.MULTILINE))


def test_the_file_is_small_enough_to_be_shown():
    """GitHub promises previews of files below 2 MB."""
    assert NOTEBOOK.stat().st_size < 2e6


def test_the_pictures_that_the_text_shows_exist_and_the_animated_one_is_small(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose += (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = set(re.findall(r"\]\((images/[^)]+)\)", prose))
    assert {"images/learning.png", "images/explorer.png"} <= pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
    assert (ROOT / "images" / "learning.png").stat().st_size < 500_000


def test_the_notebook_can_be_read_in_25_minutes(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(notebook.cells) <= 65 and len(prose.split()) <= 4500
