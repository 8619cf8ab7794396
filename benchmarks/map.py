"""How good does the 2-D model of the notebook become in a minute and a half? Grey ELBO on images it has not seen.

    python benchmarks/map.py [--seconds 85] [--seeds 0 1 2 3 4] [--split held-out] [--json FILE]

The time is turned into a number of epochs by timing a short run first, so a run is exact to its seed and its epochs;
the wall time that it really took is printed beside it.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from common import ink_logits, machine, split_images

from vae_utils import evaluate, fit, initialize, mlp_vae

SETTINGS = {"batch_size": 128, "learning_rate": 3e-3, "binarized": True}


def train(images: torch.Tensor, epochs: int, seed: int):
    torch.manual_seed(seed)
    model = mlp_vae()
    initialize(model.decoder, output=ink_logits(images))
    start = time.perf_counter()
    fit(model, images, epochs=epochs, seed=seed, progress=False, **SETTINGS)
    return model, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=85, help="time for training")
    length.add_argument("--epochs", type=int, help="number of epochs, instead of a time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=["held-out", "test"], default="held-out")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    images, measured = split_images(options.split)
    epochs = options.epochs
    if epochs is None:
        short = images[: 200 * SETTINGS["batch_size"]]
        elapsed = min(train(short, 1, seed)[1] for seed in range(2))
        epochs = max(1, int(options.seconds / elapsed * len(short) / len(images)))
    rows = []
    for seed in options.seeds:
        model, seconds = train(images, epochs, seed)
        rows.append({"seed": seed, "epochs": epochs, "seconds": round(seconds, 1), **evaluate(model, measured)})
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()))
    if options.json:
        report = {"split": options.split, "settings": SETTINGS, **machine(), "runs": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
