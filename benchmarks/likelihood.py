"""How likely are unseen digits? Train `conv_vae` for some minutes, and estimate the test -log p(x) as the papers do.

    python benchmarks/likelihood.py --prior learned --minutes 5 --seed 0 [--num-samples 128] [--json FILE]

The images are binarised anew in every batch of training; the 10,000 images that are measured are binarised once, with
a fixed seed. Training has the phases of PHASES. The clock is turned into a number of epochs for each of them by timing
a short run first, so that a run is exact to its seed and its epochs; the wall time that it really took is printed.
`--epochs 76` sets the numbers directly, one for each phase. `--checkpoint FILE` continues a run that was cut off.
`--split held-out` trains on 50,000 images and measures the other 10,000 of the training set: for every choice of a
setting. `--split test`, the default, trains on all 60,000 and measures the test set: for the final figure alone.
`--save FILE` keeps the weights, and `--load FILE` measures such weights again, with more samples for instance.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from common import binarized_once, machine, split_images

from vae_utils import (
    Bound,
    FlowPrior,
    active_units,
    bfloat16_is_faster,
    conv_vae,
    elbo,
    encode_dataset,
    estimate_log_likelihood,
    evaluate,
    fit,
    iwae,
    reparameterize,
)

LATENT_DIM = 32
PRIORS = {"standard": lambda: None, "learned": lambda: FlowPrior(LATENT_DIM)}


def sampled_elbo(model, x, *, generator=None) -> Bound:
    """The ELBO with a sampled KL for the standard prior too: it trains better than the exact one (see LOG.md)."""
    mu, logvar = model.encode(x)
    z = reparameterize(mu, logvar, generator=generator)
    log_likelihood, kl = model.log_likelihood(x, z), model.log_ratio(z, mu.detach(), logvar.detach())
    return Bound(log_likelihood - kl, log_likelihood, kl)


# Each with its share of the time and the settings of a call of fit, so with a climb and decay of its learning rate.
PHASES = {
    "learned": [(1.0, {"learning_rate": 4e-3, "objective": elbo})],
    "standard": [
        (0.8, {"learning_rate": 4e-3, "objective": sampled_elbo}),
        (0.2, {"learning_rate": 1e-3, "objective": partial(iwae, num_samples=5)}),
    ],
}


def make_model(prior: str, seed: int, device: str):
    torch.manual_seed(seed)
    return conv_vae(LATENT_DIM, prior=PRIORS[prior]()).to(device)


def train(model, images, prior: str, epochs: list[int], *, batch_size: int, seed: int, bfloat16: bool, checkpoint):
    """All phases, or the first ones if there are fewer numbers of epochs; returns the history of `fit`."""
    history = []
    for number, (count, (_, settings)) in enumerate(zip(epochs, PHASES[prior], strict=False)):
        # No phase shall repeat the order and the noise of another.
        settings = settings | {"epochs": count, "seed": seed + 1000 * number}
        file = checkpoint and checkpoint.with_suffix(f".phase{number}")
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            history += fit(model, images, batch_size=batch_size, binarized=True, checkpoint=file, **settings)
    return history


def epochs_in(minutes: float, images: torch.Tensor, prior: str, batch_size: int, bfloat16: bool) -> list[int]:
    """How many epochs of each phase fit into the time, from runs over 100 batches that follow one that warms up."""
    model = make_model(prior, 0, images.device)
    epochs = []
    for share, settings in PHASES[prior]:
        some = images[: 100 * batch_size]
        for _ in range(2):
            start = time.perf_counter()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
                fit(model, some, epochs=1, batch_size=batch_size, binarized=True, progress=False, **settings)
            elapsed = time.perf_counter() - start
        epochs.append(max(1, round(share * minutes * 60 / (elapsed * len(images) / len(some)))))
    return epochs


def measure(model, images: torch.Tensor, num_samples: int, seed: int) -> dict:
    estimate = estimate_log_likelihood(model, images, num_samples=num_samples, seed=seed, progress=True).double()
    return {
        **evaluate(model, images, seed=seed),
        "images": len(images),
        "num_samples": num_samples,
        "negative_log_likelihood": -estimate.mean().item(),
        "standard_error": estimate.std().item() / len(images) ** 0.5,
        "active_units": int(active_units(encode_dataset(model, images)[0]).sum()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=5, help="time for training")
    length.add_argument("--epochs", type=int, nargs="+", help="number of epochs of each phase, instead of a time")
    length.add_argument("--load", type=Path, help="measure the weights in this file instead of training")
    parser.add_argument("--prior", choices=PRIORS, default="learned")
    parser.add_argument("--batch-size", type=int, default=128, help="256 is better for 20 minutes (see LOG.md)")
    parser.add_argument("--checkpoint", type=Path, help="files that begin so keep the state after every epoch")
    parser.add_argument("--save", type=Path, help="write the weights to this file")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the batches and the noise")
    parser.add_argument("--num-samples", type=int, default=128, help="importance samples K an image")
    parser.add_argument("--images", type=int, default=10_000, help="measure only the first so many")
    parser.add_argument("--split", choices=["test", "held-out"], default="test")
    parser.add_argument("--float32", action="store_true", help="also where bfloat16 is faster")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    phases = len(PHASES[options.prior])
    if options.epochs and len(options.epochs) != phases:
        parser.error(f"--epochs needs {phases} for this prior, one for each phase, and got {len(options.epochs)}")
    return options


def main():
    options = parse_options()
    images, measured = split_images(options.split)
    measured = binarized_once(measured)[: options.images].to(options.device)
    images = images.to(options.device)
    model = make_model(options.prior, options.seed, options.device)
    report = {"prior": options.prior, "split": options.split, "seed": options.seed}
    if options.load:
        model.load_state_dict(torch.load(options.load, weights_only=True))
        report["weights"] = options.load.name
    else:
        bfloat16 = not options.float32 and bfloat16_is_faster(options.device)
        size = options.batch_size
        epochs = options.epochs or epochs_in(options.minutes, images, options.prior, size, bfloat16)
        print(f"epochs of each phase: {epochs}, in {'bfloat16' if bfloat16 else 'float32'}")
        start = time.perf_counter()
        settings = {"batch_size": size, "seed": options.seed, "bfloat16": bfloat16, "checkpoint": options.checkpoint}
        history = train(model, images, options.prior, epochs, **settings)
        minutes = round((time.perf_counter() - start) / 60, 2)
        report |= {"epochs": epochs, "batch_size": size, "minutes": minutes, "bfloat16": bfloat16}
        report |= {"train_elbo": history[-1]["elbo"]}
    if options.save:
        torch.save(model.state_dict(), options.save)
    report |= measure(model, measured, options.num_samples, options.seed)
    report |= {"device": options.device, **machine()}
    for key, value in report.items():
        print(f"{key:25} {value:.3f}" if isinstance(value, float) else f"{key:25} {value}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
