"""Where are the nats between the ELBO and log p(x) of the 2-D model: with the Gaussian, or with the shared encoder?

    python benchmarks/amortization.py [--epochs 36] [--seed 0] [--images 500] [--split held-out] [--json FILE]

log p(x) of binarised images comes from a sum over a grid of codes. Beside the encoder's q(z|x), a diagonal Gaussian is
optimised for each image by itself, from the encoder's and from the highest point of the true posterior, and the better
of the two is kept. What the ELBO loses then is the fault of the family of Gaussians (the approximation gap); what the
encoder loses beyond it is the amortisation gap (Cremer, Li and Duvenaud 2018). Both ELBOs are integrals over q by
Gauss-Hermite quadrature in float64, without noise.
"""

import argparse
import json
from pathlib import Path

import torch
from common import binarized_once, ink_logits, machine, split_images

from vae_utils import elbo_by_quadrature, eval_mode, fit, initialize, mlp_vae, posterior_on_grid

SETTINGS = {"batch_size": 128, "learning_rate": 3e-3, "binarized": True}  # the notebook's


def optimised_elbo(model, x, mu, logvar, steps: int, nodes: int):
    """The highest ELBO that a Gaussian of its own reaches for each image, from where mu and logvar stand: (B,)."""
    mu, logvar = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
    optimizer = torch.optim.Adam([mu, logvar], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best = torch.full((len(x),), -torch.inf, dtype=x.dtype)
    for _ in range(steps):
        value = elbo_by_quadrature(model, x, mu, logvar, nodes=nodes)
        best = torch.maximum(best, value.detach())
        optimizer.zero_grad()
        (-value.sum()).backward()
        optimizer.step()
        schedule.step()
    return best


def gaps(model, x, steps: int = 120, nodes: int = 8) -> dict[str, torch.Tensor]:
    """log p(x) - ELBO of the encoder's Gaussian and of the best one, each (B,)."""
    with eval_mode(model):
        grid = posterior_on_grid(model, x, n=801)
        peak = grid.density.flatten(1).argmax(1)
        mode = torch.stack([grid.points[peak % 801], grid.points[peak // 801]], dim=1)  # z2 by rows, z1 by columns
        mu, logvar = model.encode(x)
        encoder = elbo_by_quadrature(model, x, mu, logvar, nodes=20)
    # On the grid, the spread of the true posterior around its peak; a Gaussian that begins there is close already.
    offsets = grid.points - mode[..., None]  # (B, 2, n)
    marginals = torch.stack([grid.density.sum(1), grid.density.sum(2)], dim=1)
    marginals = marginals / marginals.sum(-1, keepdim=True)
    narrow = (marginals * offsets**2).sum(-1).clamp(1e-4, 1).log()
    starts = ((mu, logvar), (mode, narrow))
    best = torch.stack([optimised_elbo(model, x, *start, steps, nodes) for start in starts]).amax(0)
    return {"encoder": grid.log_evidence - encoder, "best Gaussian": grid.log_evidence - torch.maximum(best, encoder)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--split", choices=["held-out", "test"], default="held-out")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    images, measured = split_images(options.split)
    torch.manual_seed(options.seed)
    model = mlp_vae()
    initialize(model.decoder, output=ink_logits(images))
    fit(model, images, epochs=options.epochs, seed=options.seed, **SETTINGS)
    model = model.double().requires_grad_(False)
    x = binarized_once(measured[: options.images].double())
    parts = [gaps(model, part) for part in x.split(50)]
    report = {"split": options.split, "images": len(x), "epochs": options.epochs, "seed": options.seed, **machine()}
    for name in parts[0]:
        gap = torch.cat([part[name] for part in parts])
        quantiles = {"mean": gap.mean(), "standard_error": gap.std() / len(gap) ** 0.5, "median": gap.median()}
        report[name] = {key: value.item() for key, value in (quantiles | {"largest": gap.max()}).items()}
        print(f"log p(x) - ELBO, {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in report[name].items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
