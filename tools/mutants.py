"""Mutation score: of all small changes to vae_utils.py, how many turn a test red?

    pip install mutmut==3.8.1
    python tools/mutants.py [NAME ...]

mutmut, whose settings are in pyproject.toml, writes the changed functions into the folder mutants/ and finds out which
test runs which function. Its own runner begins afresh for each mutant, which takes seconds; this one collects the tests
once and forks for each mutant, so that 1,300 of them take ten minutes of one core (on Linux and macOS). A mutant is
killed by a test that fails, an error that ends the run, or 200 seconds without an end. The sections counted are all
but checks and plots. With NAMEs, only these are tried; `mutmut show NAME` tells what one changes.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from _pytest.main import pytest_runtestloop

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = ("Model", "Objective", "Training", "Checkpoint", "Evaluation", "Data")
SECONDS = 200


def generate() -> None:
    """Fill mutants/ with mutmut's mutants and statistics, by having it try a single one."""
    command = ["mutmut", "run", "--max-children", "1", "vae_utils.x_warmup_cosine__mutmut_1"]
    subprocess.run(command, cwd=ROOT, check=True)


def counted_owners() -> set[str]:
    """The functions and classes of SECTIONS."""
    _, *parts = re.split(r"(?m)^# -{4} (.*?) -+\n", (ROOT / "vae_utils.py").read_text(encoding="utf-8"))
    bodies = [body for title, body in zip(parts[::2], parts[1::2], strict=True) if title.startswith(SECTIONS)]
    return {name for body in bodies for name in re.findall(r"^(?:def|class) (\w+)", body, re.MULTILINE)}


def function_of(mutant: str) -> str:
    return mutant.rsplit("__mutmut_", 1)[0]


def owner_of(mutant: str) -> str:
    """The function or the class: mutmut writes x_function and x\u01c1Class\u01c1method."""
    name = function_of(mutant).removeprefix("vae_utils.")
    return name.split("\u01c1")[1] if "\u01c1" in name else name.removeprefix("x_")


class Fork:
    """In place of pytest's loop over all tests: for each mutant a loop over its own, the quickest first, in a fork."""

    def __init__(self, mutants: list[str], tests_of: dict[str, list[str]], seconds: dict[str, float]):
        self.mutants, self.tests_of, self.seconds = mutants, tests_of, seconds

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        verdicts = Counter()
        for number, mutant in enumerate(self.mutants, 1):
            tests = [test for test in self.tests_of.get(function_of(mutant), []) if test in items]
            tests.sort(key=self.seconds.get)
            verdict = self.verdict(session, mutant, [items[test] for test in tests])
            verdicts[verdict] += 1
            if verdict != "killed":
                print(f"{verdict}: {mutant}", flush=True)
            if number % 100 == 0 or number == len(self.mutants):
                print(f"{number} of {len(self.mutants)} mutants, {verdicts['killed'] / number:.1%} killed", flush=True)
        return True

    def verdict(self, session: pytest.Session, mutant: str, tests: list) -> str:
        if not tests:
            return "no test"
        if pid := os.fork():
            return "survived" if os.waitpid(pid, 0)[1] == 0 else "killed"
        signal.alarm(SECONDS)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os.environ["MUTANT_UNDER_TEST"] = mutant  # what mutmut's functions look at when they are called
        session.items[:], session.config.option.maxfail = tests, 1
        try:
            pytest_runtestloop(session)
            os._exit(session.testsfailed)
        finally:  # an error, or a KeyboardInterrupt out of the mutant
            os._exit(1)


def main() -> None:
    generate()
    os.chdir(ROOT / "mutants")
    stats = json.loads(Path("mutmut-stats.json").read_text(encoding="utf-8"))
    everything = json.loads(Path("vae_utils.py.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
    counted = counted_owners()
    mutants = [name for name in everything if owner_of(name) in counted]
    random.Random(0).shuffle(mutants)  # so that the first hundreds tell the score of all
    torch.set_num_threads(1)  # a fork does not take other threads along
    fork = Fork(sys.argv[1:] or mutants, stats["tests_by_mangled_function_name"], stats["duration_by_test"])
    options = ["--quiet", "--capture=no", "--tb=no", "--assert=plain", "-p", "no:cacheprovider"]
    pytest.main([*options, *stats["duration_by_test"]], plugins=[fork])


if __name__ == "__main__":
    main()
