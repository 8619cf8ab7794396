"""Where are the nats between the ELBO and log p(x) of the 2-D model: with the Gaussian, or with the shared encoder?

    python benchmarks/amortization.py [--epochs 36] [--seed 0] [--images 500] [--split held-out] [--json FILE]

log p(x) of binarised images comes from a sum over a grid of codes. Beside the encoder's q(z|x), a diagonal Gaussian is
optimised for each image by itself, from the encoder's and from the highest point of the true posterior, and the better
of the two is kept. What the ELBO loses then is the fault of the family of Gaussians (the approximation gap); what the
encoder loses beyond it is the amortisation gap (Cremer, Li and Duvenaud 2018). Both ELBOs are integrals over q by
Gauss-Hermite quadrature in float64, without noise.
"""

import argparse
from pathlib import Path

import torch
from common import add_image_options, binarized_once, machine, split_images, write_json
from likelihood import make_model, train

from vae_utils import Normal, best_gaussian, elbo_by_quadrature, eval_mode, posterior_on_grid


def gaps(model, x) -> dict[str, torch.Tensor]:
    """log p(x) - ELBO of the encoder's Gaussian and of the best one, each (B,)."""
    with eval_mode(model):
        log_evidence, mode = posterior_on_grid(model, x, limit=6.0, n=961)
        q = model.encode(x)
    best = best_gaussian(model, x, [q, Normal(mode, q.logvar)], steps=120, nodes=8)
    with eval_mode(model):
        elbos = [elbo_by_quadrature(model, x, found, nodes=20) for found in (q, best)]
    return {"encoder": log_evidence - elbos[0], "best Gaussian": log_evidence - elbos[1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    add_image_options(parser, split="held-out", images=500)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    images, measured = split_images(options)
    model = make_model("map", images, options.seed)
    train(model, images, "map", [options.epochs], seed=options.seed)
    model = model.double().requires_grad_(False)
    x = binarized_once(measured.double())
    parts = [gaps(model, part) for part in x.split(50)]
    report = {"split": options.split, "images": len(x), "epochs": options.epochs, "seed": options.seed, **machine()}
    for name in parts[0]:
        gap = torch.cat([part[name] for part in parts])
        quantiles = {"mean": gap.mean(), "standard_error": gap.std() / len(gap) ** 0.5, "median": gap.median()}
        report[name] = {key: value.item() for key, value in (quantiles | {"largest": gap.max()}).items()}
        print(f"log p(x) - ELBO, {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in report[name].items()))
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
