"""How likely are unseen digits? Train `conv_vae` for some minutes, and estimate the test -log p(x) as the papers do.

    python benchmarks/likelihood.py --minutes 5 --seed 0 [--num-samples 500] [--split test] [--json FILE]

The images are binarised anew in every batch of training; the 10,000 images that are measured are binarised once, with
a fixed seed. Training has three phases: the ELBO with a quarter of the KL, in which latent units that the full KL would
switch off at once learn to be worth their price; the ELBO; and, for the last part of the time, the importance-weighted
bound of 5 samples. The clock is turned into a number of epochs for each phase by timing a short run first, so that a
run is exact to its seed and its epochs; the wall time that it really took is printed.
`--epochs 3 23 2` sets the numbers directly, one for each phase. `--checkpoint FILE` continues a run that was cut off.
`--split held-out` trains on 50,000 images and measures the other 10,000 of the training set: for every choice of a
setting. `--split test`, the default, trains on all 60,000 and measures the test set: for the final figure alone.
`--save FILE` keeps the weights, and `--load FILE` measures such weights again, with more samples for instance.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from common import machine, split_images

from vae_utils import active_units, binarize, conv_vae, encode_dataset, estimate_log_likelihood, evaluate, fit

BINARISATION_SEED = 0  # the measured images are binarised once, the same for all runs

# Each with its share of the time and the settings of a call of fit, so with a climb and decay of its learning rate.
PHASES = [
    (0.1, {"batch_size": 128, "learning_rate": 4e-3, "beta": 0.25}),
    (0.7, {"batch_size": 128, "learning_rate": 4e-3}),
    (0.2, {"batch_size": 128, "learning_rate": 1e-3, "num_samples": 5}),
]


def train(model, images, epochs: list[int], seed: int, bfloat16: bool, checkpoint: Path | None) -> list[dict]:
    history = []
    for number, (_, settings) in enumerate(PHASES):
        history += fit(
            model,
            images,
            epochs=epochs[number],
            seed=seed + 1000 * number,  # no phase shall repeat the order and the noise of another
            binarized=True,
            bfloat16=bfloat16,
            checkpoint=checkpoint and checkpoint.with_suffix(f".phase{number}"),
            **settings,
        )
    return history


def epochs_in(minutes: float, images: torch.Tensor, network: dict, bfloat16: bool) -> list[int]:
    """How many epochs of each phase fit into the time, from runs over 100 batches that follow one that warms up."""
    model = conv_vae(**network).to(images.device)
    epochs = []
    for share, settings in PHASES:
        some = images[: 100 * settings["batch_size"]]
        for _ in range(2):
            start = time.perf_counter()
            fit(model, some, epochs=1, binarized=True, bfloat16=bfloat16, progress=False, **settings)
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
    parser.add_argument("--checkpoint", type=Path, help="files that begin so keep the state after every epoch")
    parser.add_argument("--save", type=Path, help="write the weights to this file")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the batches and the noise")
    parser.add_argument("--num-samples", type=int, default=500, help="importance samples K an image")
    parser.add_argument("--images", type=int, default=10_000, help="measure only the first so many")
    parser.add_argument("--split", choices=["test", "held-out"], default="test")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--bfloat16", action="store_true", help="fast with AVX512-BF16, AMX or a GPU, slow without")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.epochs and len(options.epochs) != len(PHASES):
        parser.error(f"--epochs needs {len(PHASES)} numbers, one for each phase, and got {len(options.epochs)}")
    return options


def main():
    options = parse_options()
    images, measured = split_images(options.split)
    measured = binarize(measured, generator=torch.Generator().manual_seed(BINARISATION_SEED))
    measured = measured[: options.images].to(options.device)
    images = images.to(options.device)
    network = {"channels": options.channels}
    torch.manual_seed(options.seed)
    model = conv_vae(**network).to(options.device)
    report = {"split": options.split, "seed": options.seed, "network": network, "bfloat16": options.bfloat16}
    if options.load:
        model.load_state_dict(torch.load(options.load, weights_only=True))
        report["weights"] = options.load.name
    else:
        epochs = options.epochs or epochs_in(options.minutes, images, network, options.bfloat16)
        for number, (_, settings) in zip(epochs, PHASES, strict=True):
            print(f"{number} epochs with {settings}")
        start = time.perf_counter()
        history = train(model, images, epochs, options.seed, options.bfloat16, options.checkpoint)
        minutes = round((time.perf_counter() - start) / 60, 2)
        report |= {"epochs": epochs, "minutes": minutes, "train_elbo": history[-1]["elbo"], "phases": PHASES}
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
