"""Checks of a release: what README and prose say is what the stored outputs show, and the stored sources are today's.

They read the files as git holds them, staged or committed, and so not a run of one's own: `pytest -m release`.
"""

import ast
import inspect
import json
import re
import statistics
import subprocess
from pathlib import Path

import nbformat
import pytest
from test_notebook import code_cells, outputs, parameters_cell

import vae_utils

pytestmark = pytest.mark.release
ROOT = Path(__file__).parent.parent


def in_git(name):
    """The bytes of a file as it is staged; as it is committed, where nothing is staged."""
    return subprocess.run(["git", "show", f":{name}"], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def notebook():
    return nbformat.reads(in_git("Variational-Autoencoder.ipynb").decode(), as_version=4)


@pytest.fixture(scope="module")
def prose(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.fixture(scope="module")
def readme():
    return in_git("README.md").decode()


def printed(notebook):
    """All that the stored run printed, as one text."""
    return "\n".join(o.get("text", "") or o.data.get("text/plain", "") for o in outputs(notebook))


def parameters(notebook):
    assignments = ast.parse(parameters_cell(notebook).source).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def decimals(text):
    text = re.sub(r"\(http\S+\)|\[arXiv\S+\]|Python 3\.\d+", "", text)
    return set(re.findall(r"\d+\.\d\d+", text))


def test_the_stored_run_is_the_full_one_and_small_enough_to_be_shown(notebook, prose):
    """GitHub promises previews of files below 2 MB; a run elsewhere differs by some kilobytes."""
    assert len(in_git("Variational-Autoencoder.ipynb")) < 1.88e6
    assert len(notebook.cells) <= 60 and len(prose.split()) <= 4800
    unfolded = [cell for cell in code_cells(notebook) if "jupyter" not in cell.metadata]
    assert sum(len(cell.source.splitlines()) for cell in unfolded) <= 400
    assert "\nQUICK = False" in parameters_cell(notebook).source
    epochs = parameters(notebook)["EPOCHS"]
    tables = [output.data["text/plain"] for output in outputs(notebook) if "text/markdown" in output.get("data", {})]
    assert any(re.search(rf"^{epochs} +\d", table, re.MULTILINE) for table in tables)


def test_the_shown_sources_are_those_of_today(notebook):
    stored = [output.data for output in outputs(notebook) if "text/markdown" in output.get("data", {})]
    shown = [data for data in stored if data["text/markdown"].startswith("```python")]
    for data in shown:
        name = re.match(r"(?:class|def) (\w+)", data["text/plain"])[1]
        source = inspect.getsource(getattr(vae_utils, name))
        assert data["text/plain"] == source, f"{name} has changed: run the notebook again"
        assert data["text/markdown"] == f"```python\n{source}```"
    assert len(shown) >= 6


def test_prose_and_code_agree_on_the_parameters(notebook, prose):
    """Every setting that the prose names exists and is used, and the epochs that it speaks of are those of the run."""
    settings = parameters(notebook)
    for name in re.findall(r"`([A-Z][A-Z_]+)(?: = [^`]+)?`", prose):
        assert name in settings or hasattr(vae_utils, name), (
            f"the prose speaks of {name}, which is not among the parameters"
        )
    epochs = r"(?<![\d,])(\d+) epochs"  # not Burda's 3,280
    known = {str(value) for name, value in settings.items() if name.endswith("EPOCHS")}
    known |= {str(count) for run in likelihoods() for count in run.get("epochs", [])}  # of the runs that it quotes
    assert set(re.findall(epochs, prose)) <= known | set(re.findall(epochs, printed(notebook)))
    code = "\n".join(cell.source for cell in code_cells(notebook))
    for name in settings:
        assert len(re.findall(rf"\b{name}\b", code)) >= 2, f"{name} is set and not used"


def recorded():
    """The figures of all runs in benchmarks/results, as they would be quoted."""
    figures = set()
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        numbers = re.findall(r"-?\d+\.\d+", path.read_text(encoding="utf-8"))
        figures |= {f"{abs(float(number)):.2f}" for number in numbers}
    return figures


@pytest.mark.parametrize("text", ["prose", "readme"])
def test_every_decimal_figure_stands_in_an_output_or_is_a_recorded_measurement(notebook, text, request):
    assert decimals(request.getfixturevalue(text)) <= decimals(printed(notebook)) | recorded()


def likelihoods():
    """The recorded runs of the larger models."""
    runs = json.loads((ROOT / "benchmarks" / "results" / "likelihood.json").read_text(encoding="utf-8"))
    return [run for name in runs for run in runs[name]]


@pytest.mark.parametrize(("name", "time"), [
    ("150s-learned", "150 s"), ("5min-learned", "5 min"), ("20min-learned", "20 min"), ("20min-standard", "20 min"),
])  # fmt: skip
def test_the_readme_quotes_the_medians_of_the_recorded_runs(name, time, readme):
    runs = json.loads((ROOT / "benchmarks" / "results" / "likelihood.json").read_text(encoding="utf-8"))[name]
    assert [run["seed"] for run in runs] == [0, 1, 2] and len({str(run["epochs"]) for run in runs}) == 1
    assert all(run["images"] == 10_000 and run["split"] == "test" for run in runs)
    elbo, cost = (statistics.median(abs(run[key]) for run in runs) for key in ("elbo", "negative_log_likelihood"))
    epochs, prior = " + ".join(map(str, runs[0]["epochs"])), name.split("-")[1]
    row = f"| {epochs} epochs ({time}) | {runs[0]['num_samples']} | {elbo:.2f} | **{cost:.2f}** |"
    assert any(row in line and f"{prior} prior" in line for line in readme.splitlines())


def test_every_figure_has_a_text_for_those_who_cannot_see_it(notebook):
    for cell in code_cells(notebook):
        drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert drawn == ("alt" in cell.metadata), cell.source
