"""Who learns the training images by heart, the model or its encoder?

    python benchmarks/overfitting.py [--epochs 18] [--seeds 0 1 2 3] [--images 5000] [--json FILE]

The 2-D model of the notebook. A test image costs more than a training image. A part of that is -log p(x), the model's
own; the rest is the gap between cost and -log p(x), nearly all of which is the shared encoder's (amortization.py).
log p(x) is a sum over a grid of codes, the cost an integral by Gauss-Hermite quadrature. All images are binarised once.
"""

import argparse
from pathlib import Path

import torch
from common import ROOT, binarized_once, machine, write_json
from likelihood import make_model, train

from vae_utils import elbo_by_quadrature, encode_dataset, load_mnist, posterior_on_grid


def cost_and_truth(model, x) -> torch.Tensor:
    """The cost and -log p(x) of every image: (2, N)."""
    q, truth = encode_dataset(model, x), posterior_on_grid(model, x, limit=7, n=561).log_evidence
    with torch.no_grad():
        return -torch.stack([elbo_by_quadrature(model, x, q), truth])


def summary(cost, truth) -> dict[str, float]:
    gap = (cost - truth).sort(descending=True).values
    means = {"cost": cost, "-log p(x)": truth, "gap": gap}
    figures = {name: part.mean().item() for name, part in means.items()}
    figures |= {f"{name}, standard error": part.std().item() / len(part) ** 0.5 for name, part in means.items()}
    return figures | {
        "median gap": gap.median().item(),
        "share of the worst tenth": (gap[: len(gap) // 10].sum() / gap.sum()).item(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--images", type=int, default=5000, help="of the training set, and as many of the test set")
    parser.add_argument("--train-images", type=int, default=60_000, help="train only on the first so many")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    mnist = load_mnist(ROOT / "data")
    images = mnist.train_images[: options.train_images]
    measured = {"training": images[: options.images], "test": mnist.test_images[: options.images]}
    report = {"epochs": options.epochs, "images": options.images, **machine(), "runs": {}}
    for seed in options.seeds:
        model = make_model("map", images, seed)
        train(model, images, "map", [options.epochs], seed=seed)
        found = {name: summary(*cost_and_truth(model, binarized_once(x))) for name, x in measured.items()}
        report["runs"][seed] = found
        for name, figures in found.items():
            print(
                f"seed {seed}, {name:8} " + ", ".join(f"{key} {value:.2f}" for key, value in figures.items()),
                flush=True,
            )
        if options.json:
            write_json(options.json, report)


if __name__ == "__main__":
    main()
