"""How likely are unseen digits? Train `conv_vae` for some minutes, and estimate the test -log p(x) as the papers do.

    python benchmarks/likelihood.py --minutes 5 --seed 0 [--num-samples 500] [--split test] [--json FILE]

The images are binarised anew in every batch of training; the 10,000 images that are measured are binarised once, with
a fixed seed. The clock is turned into a number of epochs by timing a short run first, so the training is exact to its
seed and its number of epochs; the wall time that it really took is printed. `--epochs` sets the number directly.
`--split held-out` trains on 50,000 images and measures the other 10,000 of the training set: for every choice of a
setting. `--split test`, the default, trains on all 60,000 and measures the test set: for the final figure alone.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vae_utils import (  # noqa: E402
    active_units,
    binarize,
    conv_vae,
    encode_dataset,
    estimate_log_likelihood,
    evaluate,
    fit,
    load_mnist,
)

BINARISATION_SEED = 0  # the measured images are binarised once, the same for all runs
SETTINGS = {"batch_size": 128, "learning_rate": 4e-3, "binarized": True}


def split_images(name: str, device: str):
    mnist = load_mnist(ROOT / "data")
    if name == "test":
        train, measured = mnist.train_images, mnist.test_images
    else:
        order = torch.randperm(len(mnist.train_images), generator=torch.Generator().manual_seed(0))
        train, measured = mnist.train_images[order[:50_000]], mnist.train_images[order[50_000:]]
    measured = binarize(measured, generator=torch.Generator().manual_seed(BINARISATION_SEED))
    return train.to(device), measured.to(device)


def epochs_in(minutes: float, images, device: str) -> int:
    """How many epochs fit into the time, from a run over 100 batches that follows one that warms up."""
    some = images[: 100 * SETTINGS["batch_size"]]
    for _ in range(2):
        model = conv_vae().to(device)
        start = time.perf_counter()
        fit(model, some, epochs=1, progress=False, **SETTINGS)
        elapsed = time.perf_counter() - start
    return max(1, int(minutes * 60 / (elapsed * len(images) / len(some))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=5, help="time for training")
    length.add_argument("--epochs", type=int, help="number of epochs, instead of a time")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the batches and the noise")
    parser.add_argument("--num-samples", type=int, default=500, help="importance samples K an image")
    parser.add_argument("--split", choices=["test", "held-out"], default="test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()

    train, measured = split_images(options.split, options.device)
    epochs = options.epochs or epochs_in(options.minutes, train, options.device)
    torch.manual_seed(options.seed)
    model = conv_vae().to(options.device)
    start = time.perf_counter()
    history = fit(model, train, epochs=epochs, seed=options.seed, **SETTINGS)
    minutes = (time.perf_counter() - start) / 60

    bound = evaluate(model, measured, seed=options.seed)
    estimate = estimate_log_likelihood(
        model, measured, num_samples=options.num_samples, seed=options.seed, progress=True
    ).double()
    report = {
        "split": options.split,
        "seed": options.seed,
        "epochs": epochs,
        "minutes": round(minutes, 2),
        "train_elbo": history[-1]["elbo"],
        "elbo": bound["elbo"],
        "kl": bound["kl"],
        "num_samples": options.num_samples,
        "negative_log_likelihood": -estimate.mean().item(),
        "standard_error": estimate.std().item() / len(measured) ** 0.5,
        "active_units": int(active_units(encode_dataset(model, measured)[0]).sum()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "settings": SETTINGS,
        "device": options.device,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for key, value in report.items():
        print(f"{key:25} {value:.3f}" if isinstance(value, float) else f"{key:25} {value}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
