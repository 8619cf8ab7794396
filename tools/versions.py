"""Run all tests in a fresh virtual environment, with the oldest versions that requirements.txt allows or the newest.

    python3.10 tools/versions.py oldest
    python3.14 tools/versions.py newest

The Python that runs this file is the one that is tried. The environment lies in a temporary folder and is removed at
the end; PyTorch's packages for Linux need about 6 GB on the way. Further words go to pytest, such as `-k "not quick"`.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements(oldest: bool) -> list[str]:
    """What requirements-dev.txt and the requirements.txt in it ask for; if `oldest`, exactly the lower bounds."""
    lines = [line for name in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / name).open()]
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith(("-", "#"))]
    # Matplotlib 3.9 calls what pyparsing 3.3, a year younger, warns of.
    return [line.replace(">=", "==") for line in wanted] + ["pyparsing<3.3"] if oldest else wanted


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ("oldest", "newest"):
        sys.exit(__doc__)
    wanted = requirements(oldest=sys.argv[1] == "oldest")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        scripts = Path(folder) / ("Scripts" if os.name == "nt" else "bin")
        python = scripts / ("python.exe" if os.name == "nt" else "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        subprocess.run([python, "-m", "pip", "freeze"], check=True)
        # The notebooks' kernels are those of this environment: its scripts come first, as after activation.
        path = os.pathsep.join([str(scripts), os.environ["PATH"]])
        tests = [python, "-m", "pytest", *sys.argv[2:]]
        return subprocess.run(tests, cwd=ROOT, env={**os.environ, "PATH": path}).returncode


if __name__ == "__main__":
    sys.exit(main())
