"""How likely are unseen digits? Train for some minutes, and estimate the test -log p(x) as the papers do.

    python benchmarks/likelihood.py --model learned --minutes 5 --seed 0 [--num-samples 128] [--json FILE NAME]

learned, standard   `conv_vae` with that prior. The images are binarised anew in every batch of training; the 10,000
                    that are measured are binarised once, with a fixed seed.
map                 the 2-D model of the notebook, in float32, trained likewise; its figure is the ELBO of grey images.

Training has the phases of PHASES. The clock is turned into a number of epochs for each of them by timing a short run
first, so that a run is exact to its seed and its epochs; the wall time that it really took is printed. `--epochs 76`
sets the numbers directly, one for each phase. `--checkpoint FILE` continues a run that was cut off.
`--split held-out` trains on 50,000 images and measures the other 10,000 of the training set: for every choice of a
setting. `--split test`, the default, trains on all 60,000 and measures the test set: for the final figure alone.
`--save FILE` keeps the weights, and `--load FILE` measures such weights again, with more samples for instance.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from common import add_image_options, add_run, binarized_once, ink_logits, machine, seconds, split_images

import vae_utils as vae


def sampled_elbo(model, x, *, generator=None) -> vae.Bound:
    """The ELBO with a sampled KL for the standard prior too: it trains better than the exact one (see LOG.md)."""
    q = model.encode(x)
    z = q.sample(generator)
    log_likelihood, kl = model.log_likelihood(x, z), model.log_ratio(q.detach(), z)
    return vae.Bound(log_likelihood - kl, log_likelihood, kl)


# Each with its share of the time and the settings of a call of fit, so with a climb and decay of its learning rate.
PHASES = {
    "learned": [(1.0, {"learning_rate": 4e-3, "objective": vae.elbo})],
    "standard": [
        (0.8, {"learning_rate": 4e-3, "objective": sampled_elbo}),
        (0.2, {"learning_rate": 1e-3, "objective": partial(vae.iwae, num_samples=5)}),
    ],
    "map": [(1.0, {"learning_rate": 3e-3, "objective": vae.elbo})],
}


def make_model(name: str, images: torch.Tensor, seed: int):
    """A new model where the images are. The map's logits begin at the log-odds of each pixel's mean ink."""
    torch.manual_seed(seed)
    if name == "map":
        model = vae.mlp_vae()
        vae.initialize(model.decoder, output=ink_logits(images))
    else:
        model = vae.conv_vae(prior=vae.FlowPrior(32) if name == "learned" else None)
    return model.to(images.device)


def phases(name: str, epochs: list[int], *, batch_size: int, seed: int) -> list[dict]:
    """The settings of each call of `fit`. Fewer numbers of epochs than phases leave out the last ones."""
    # No phase shall repeat the order and the noise of another.
    return [
        settings | {"epochs": count, "batch_size": batch_size, "seed": seed + 1000 * number}
        for number, (count, (_, settings)) in enumerate(zip(epochs, PHASES[name], strict=False))
    ]


def train(model, images, name: str, epochs, *, seed: int, batch_size=128, bfloat16=False, checkpoint=None):
    """All phases, one after the other; returns the history of `fit`."""
    history = []
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        for number, settings in enumerate(phases(name, epochs, batch_size=batch_size, seed=seed)):
            file = checkpoint and checkpoint.with_suffix(f".phase{number}")
            history += vae.fit(model, images, binarized=True, checkpoint=file, **settings)
    return history


def epochs_in(minutes: float, images: torch.Tensor, name: str, batch_size: int, bfloat16: bool) -> list[int]:
    """How many epochs of each phase fit into the time, from runs over 100 batches that follow one that warms up."""
    model = make_model(name, images, seed=0)
    epochs = []
    for share, settings in PHASES[name]:
        some = images[: 100 * batch_size]
        settings = settings | {"epochs": 1, "batch_size": batch_size, "binarized": True, "progress": False}
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            vae.fit(model, some, **settings)
            elapsed = seconds(partial(vae.fit, model, some, **settings))
        epochs.append(max(1, round(share * minutes * 60 / (elapsed * len(images) / len(some)))))
    return epochs


def measure(model, images: torch.Tensor, num_samples: int, seed: int) -> dict:
    estimate = vae.estimate_log_likelihood(model, images, num_samples=num_samples, seed=seed, progress=True).double()
    return {
        **vae.evaluate(model, images, seed=seed),
        "images": len(images),
        "num_samples": num_samples,
        "negative_log_likelihood": -estimate.mean().item(),
        "standard_error": estimate.std().item() / len(images) ** 0.5,
        "active_units": int(vae.active_units(vae.encode_dataset(model, images)).sum()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=5, help="time for training")
    length.add_argument("--epochs", type=int, nargs="+", help="number of epochs of each phase, instead of a time")
    length.add_argument("--load", type=Path, help="measure the weights in this file instead of training")
    parser.add_argument("--model", choices=PHASES, default="learned")
    parser.add_argument("--batch-size", type=int, default=128, help="256 is better for 20 minutes (see LOG.md)")
    parser.add_argument("--checkpoint", type=Path, help="files that begin so keep the state after every epoch")
    parser.add_argument("--save", type=Path, help="write the weights to this file")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the batches and the noise")
    parser.add_argument("--num-samples", type=int, default=128, help="importance samples K an image")
    parser.add_argument("--draw", type=int, default=0, help="which binarised draw of the images is measured")
    add_image_options(parser, split="test")
    parser.add_argument("--float32", action="store_true", help="also where bfloat16 is faster")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", nargs=2, metavar=("FILE", "NAME"), help="add the figures to the list NAME-MODEL")
    options = parser.parse_args()
    count = len(PHASES[options.model])
    if options.epochs and len(options.epochs) != count:
        parser.error(f"--epochs needs {count} for this model, one for each phase, and got {len(options.epochs)}")
    return options


def main():
    options = parse_options()
    images, measured = split_images(options)
    grey = options.model == "map"  # measured on grey images, as in the notebook, which have an ELBO but no log p(x)
    measured = (measured if grey else binarized_once(measured, options.draw)).to(options.device)
    images = images.to(options.device)
    model = make_model(options.model, images, options.seed)
    report = {"model": options.model, "split": options.split, "draw": options.draw, "seed": options.seed}
    if options.load:
        model.load_state_dict(torch.load(options.load, weights_only=True))
        report["weights"] = options.load.name
    else:
        bfloat16 = not (grey or options.float32) and vae.bfloat16_is_faster(options.device)
        settings = {"batch_size": options.batch_size, "bfloat16": bfloat16}
        epochs = options.epochs or epochs_in(options.minutes, images, options.model, **settings)
        print(f"epochs of each phase: {epochs}, in {'bfloat16' if bfloat16 else 'float32'}")
        start = time.perf_counter()
        settings |= {"seed": options.seed, "checkpoint": options.checkpoint}
        history = train(model, images, options.model, epochs, **settings)
        minutes = round((time.perf_counter() - start) / 60, 2)
        report |= {"epochs": epochs, "batch_size": options.batch_size, "minutes": minutes, "bfloat16": bfloat16}
        report |= {"train_elbo": history[-1]["elbo"]}
    if options.save:
        torch.save(model.state_dict(), options.save)
    report |= vae.evaluate(model, measured) if grey else measure(model, measured, options.num_samples, options.seed)
    report |= {"device": options.device, **machine()}
    for key, value in report.items():
        print(f"{key:25} {value:.3f}" if isinstance(value, float) else f"{key:25} {value}")
    if options.json:
        add_run(Path(options.json[0]), f"{options.json[1]}-{options.model}", report)


if __name__ == "__main__":
    main()
