"""Try other versions, in a virtual environment of their own: all tests, or the single file as Kaggle or Colab runs it.

    python3.10 tools/try_versions.py oldest           all tests, the oldest versions that requirements.txt allows
    python3.14 tools/try_versions.py newest           all tests, the newest versions
    python3.12 tools/try_versions.py kaggle           the single file in kaggle/ with Kaggle's versions, QUICK
    python3.13 tools/try_versions.py colab --full     the same with Colab's, not QUICK

The Python that runs this file is the one that is tried. The environment lies in a temporary folder and is removed at
the end, or is the folder that `--venv FOLDER` names, made if need be, and kept; PyTorch's packages for Linux need about
6 GB on the way. Further words go to pytest, such as `-k "not quick"`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What these two install for everybody, read in August 2026; Python there is 3.12.13 and 3.13.15. SciPy and Pillow are
# those of Colab's list of June 2026: a newer SciPy warns of an option that scikit-learn 1.6.1 passes to it.
INSTALLED = {
    "kaggle": "torch==2.10.0 torchvision==0.25.0 numpy==2.0.2 matplotlib==3.10.0 scikit-learn==1.6.1 scipy==1.16.3 "
    "pillow==11.3.0 tqdm==4.67.3 ipywidgets==8.1.5 nbconvert==6.4.5 ipython==7.34.0 ipykernel==6.17.1",
    "colab": "torch==2.11.0 torchvision==0.26.0 numpy==2.1.3 matplotlib==3.10.0 scikit-learn==1.6.1 scipy==1.16.3 "
    "pillow==11.3.0 tqdm==4.67.3 ipywidgets==7.7.1 nbconvert==7.17.1 ipython==7.34.0 ipykernel==6.17.1",
}
WHOLE = "tests/test_kaggle.py::test_the_whole_notebook_on_the_default_dataset"
HEADLINES = r"(?m)^(\d+ of \d+ epochs in|standard prior|learned prior).*"  # how each training ended


def requirements(which: str) -> list[str]:
    """What is to be installed: what INSTALLED says, or the requirements, with their lower bounds for the oldest."""
    if which in INSTALLED:
        return [*INSTALLED[which].split(), "papermill", "pytest", "pytest-xdist", "hypothesis"]
    lines = [line for name in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / name).open()]
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith(("-", "#"))]
    # Matplotlib 3.9 calls what pyparsing 3.3, a year younger, warns of.
    return [line.replace(">=", "==") for line in wanted] + ["pyparsing<3.3"] if which == "oldest" else wanted


def report(out: Path, which: str, installed: str) -> None:
    """Say what a whole run, the notebook `out`, ran with, how long it took, and what README.md would quote of it."""
    names = [pin.split("==")[0] for pin in INSTALLED[which].split()]
    print("\n" + ", ".join(line for line in installed.splitlines() if line.split("==")[0] in names))
    notebook = json.loads(out.read_text(encoding="utf-8"))
    cells = {cell["id"]: cell.get("outputs", []) for cell in notebook["cells"]}
    print("".join("".join(output["text"]) for output in cells["start"]), end="")
    print(f"{notebook['metadata']['papermill']['duration'] / 60:.1f} minutes")
    tables = ["".join(output.get("data", {}).get("text/plain", "")) for output in cells["fit"] + cells["large"]]
    headlines = [match[0] for table in tables for match in re.finditer(HEADLINES, table)]
    if len(headlines) != 5:
        sys.exit(f"not the last lines of three trainings and the costs of two models, but {headlines}")
    print(*headlines, sep="\n")


def try_in(folder: Path, arguments: argparse.Namespace, further: list[str]) -> int:
    """Install into the environment `folder` and run there; 0 if all went well."""
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements(arguments.which)], check=True)
    freeze = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    print(freeze, flush=True)
    # The notebooks' kernels are those of this environment: its scripts come first, as after activation.
    environment = {**os.environ, "PATH": os.pathsep.join([str(scripts), os.environ["PATH"]])}
    if arguments.which not in INSTALLED:
        return subprocess.run([python, "-m", "pytest", *further], cwd=ROOT, env=environment).returncode
    environment |= {"RUN_AS": arguments.which, "RUN_QUICK": str(not arguments.full)}  # read by tests/test_kaggle.py
    with tempfile.TemporaryDirectory() as results:
        tests = [python, "-m", "pytest", "--basetemp", results, WHOLE, *further]
        code = subprocess.run(tests, cwd=ROOT, env=environment).returncode
        if code == 0:
            out = next(Path(results).rglob("out.ipynb"))
            # Kaggle shows the page that nbconvert makes of the run.
            subprocess.run([python, "-m", "nbconvert", "--to", "html", out], check=True, env=environment)
            report(out, arguments.which, freeze)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["oldest", "newest", *INSTALLED])
    parser.add_argument("--full", action="store_true", help="kaggle and colab: six minutes or more, instead of QUICK")
    parser.add_argument("--venv", type=Path, metavar="FOLDER", help="the environment, made if need be, and kept")
    arguments, further = parser.parse_known_args()
    if arguments.venv:
        return try_in(arguments.venv.absolute(), arguments, further)
    with tempfile.TemporaryDirectory() as folder:
        return try_in(Path(folder), arguments, further)


if __name__ == "__main__":
    sys.exit(main())
