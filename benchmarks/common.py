"""What the benchmark scripts share: where the module is, which images they use, what machine this is, and its files."""

import argparse
import json
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vae_utils import binarize, load_mnist  # noqa: E402


def machine() -> dict:
    """The machine and the versions that the figures of a report hold for."""
    cpuinfo = Path("/proc/cpuinfo")  # where Linux tells the processor's name
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "machine": names[0] if names else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def seconds(function: Callable) -> float:
    """How long a call takes, with all that it left the GPU to do."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def add_image_options(parser: argparse.ArgumentParser, *, split: str, images: int = 10_000) -> None:
    parser.add_argument("--split", choices=["test", "held-out"], default=split)
    parser.add_argument("--images", type=int, default=images, help="measure only the first so many")
    parser.add_argument("--train-images", type=int, default=60_000, help="train only on the first so many")


def split_images(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Images to train on and images to measure, as the three options above say.

    "held-out" divides the training set, 50,000 and 10,000: for every choice of a setting.
    "test" trains on all 60,000 and measures the test set: for final figures alone.
    """
    mnist = load_mnist(ROOT / "data")
    train, measured = mnist.train_images, mnist.test_images
    if options.split == "held-out":
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        train, measured = train[order[:50_000]], train[order[50_000:]]
    return train[: options.train_images], measured[: options.images]


def binarized_once(images: torch.Tensor, draw: int = 0) -> torch.Tensor:
    """The images that are measured, the same draw in every script, and of the first so many as of all."""
    return binarize(images, generator=torch.Generator().manual_seed(draw))


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
