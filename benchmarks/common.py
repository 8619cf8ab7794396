"""What the benchmark scripts share: where the module is, which images they use, what machine this is, and its files."""

import json
import platform
import re
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vae_utils import binarize, load_mnist  # noqa: E402


def processor() -> str:
    """The processor's name, where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict:
    """The machine and the versions that the figures of a report hold for."""
    return {
        "machine": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def split_images(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images to train on and images to measure.

    "held-out" divides the training set, 50,000 and 10,000: for every choice of a setting.
    "test" trains on all 60,000 and measures the test set: for final figures alone.
    """
    mnist = load_mnist(ROOT / "data")
    if split == "test":
        return mnist.train_images, mnist.test_images
    order = torch.randperm(len(mnist.train_images), generator=torch.Generator().manual_seed(0))
    return mnist.train_images[order[:50_000]], mnist.train_images[order[50_000:]]


def binarized_once(images: torch.Tensor) -> torch.Tensor:
    """The images that are measured, the same draw in every run and every script."""
    return binarize(images, generator=torch.Generator().manual_seed(0))


def ink_logits(images: torch.Tensor) -> torch.Tensor:
    """Where the 2-D decoder's output begins, as in the notebook: the log-odds of each pixel's mean."""
    return images.mean(0).clamp(1e-3, 1 - 1e-3).logit()


def write_json(path: Path, report: dict) -> None:
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def add_run(path: Path, name: str, run: dict) -> None:
    """Add a run to the list `name` of a file such as results/likelihood.json, which need not exist."""
    lists = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    lists.setdefault(name, []).append(run)
    write_json(path, lists)
