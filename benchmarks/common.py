"""What the benchmark scripts share: where the module is, how the training set is split, and what machine this is."""

import platform
import re
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vae_utils import load_mnist  # noqa: E402


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
