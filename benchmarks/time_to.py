"""How many seconds of training until the test -log p(x) passes a published figure?

    python benchmarks/time_to.py [--who learned usual] [--targets 86.76] [--seeds 0 1 2] [--json FILE]

A figure is passed when the bound on -log p(x) with K = 128, over the 10,000 test images binarised once as in
likelihood.py, is at or below it. With `--num-samples 20` measuring takes a sixth of the time: that bound is the higher
one, so what passes with 20 samples passes with 128. The clock runs while a model trains; loading and measuring are
outside of it. Give the script the machine for itself.

learned, standard   `conv_vae` with the settings of likelihood.py, in bfloat16 where that is faster. Their learning rate
                    falls to 0 at the end of a run of fixed length, so the time to a figure is the length of the
                    shortest run that passes it: EPOCHS has one for each figure, with one number for each phase. A
                    shorter one can be tried with `--who learned --targets 86.76 --epochs 2`.
usual               the same network and ELBO, standard prior, with the loop that everyone writes: DataLoader over
                    datasets.MNIST with ToTensor, Adam, 1e-3, batches of 128, PyTorch's initial weights, float32. After
                    every epoch 2,000 test images are measured with K = 20, all of them when that comes close to
                    the figure, and it stops when the figure is passed or the time of --limit is up.
pythae              the same as `usual` with pythae's VAE and BaseTrainer, for as many epochs as in EPOCHS; the last
                    one's weights are measured. Left out when it is not installed (pip install pythae).
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from common import add_image_options, add_run, binarized_once, machine, seconds, split_images
from likelihood import make_model, measure, train
from others import HAS_PYTHAE, pythae_trainer, usual_epoch, usual_loader

from vae_utils import bfloat16_is_faster, estimate_log_likelihood

EPOCHS = {
    86.76: {"learned": [3], "standard": [10], "usual": None, "pythae": [22]},  # VAE (Burda et al. 2016)
    84.78: {"learned": [6], "standard": [20, 1]},  # IWAE with 50 samples (Burda et al. 2016)
    82.90: {"learned": [11]},  # IWAE, two layers (Burda et al. 2016)
    81.08: {"learned": [32]},  # ResNet VAE, standard prior (Kingma et al. 2016)
}
WHO = [*EPOCHS[86.76]]
BATCH_SIZE, USUAL_LEARNING_RATE = 128, 1e-3
# Fewer samples give more nats and the first images fewer: 81.92 for weights/standard-prior.pt, which has 81.89 in full.
QUICK = {"images": 2000, "num_samples": 20, "margin": 0.3}


def ours(who: str, epochs: list[int], images, measured, num_samples: int, seed: int) -> dict:
    """A run of likelihood.py. Fewer numbers of epochs than phases leave out the last phases."""
    bfloat16 = bfloat16_is_faster("cpu")
    model, settings = make_model(who, images, seed), {"batch_size": BATCH_SIZE, "seed": seed, "bfloat16": bfloat16}
    elapsed = seconds(lambda: train(model, images, who, epochs, **settings))
    return {"epochs": epochs, "seconds": elapsed, "bfloat16": bfloat16, **measure(model, measured, num_samples, seed)}


def plain_model(images, seed: int):
    """`conv_vae` with the standard prior and PyTorch's own initial weights."""
    model = make_model("standard", images, seed)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def usual(target: float, limit: float, images, measured, num_samples: int, seed: int) -> dict:
    """Epochs until the target is passed or `limit` seconds are over. `course` has seconds and quick bound of each."""
    model, loader = plain_model(images, seed), usual_loader(len(images), BATCH_SIZE)
    optimizer = torch.optim.Adam(model.parameters(), lr=USUAL_LEARNING_RATE)
    elapsed, course, some = 0.0, [], measured[: QUICK["images"]]
    while True:
        elapsed += seconds(lambda: usual_epoch(model, loader, optimizer, binarized=True))
        quick = -estimate_log_likelihood(model, some, num_samples=QUICK["num_samples"], seed=seed).mean().item()
        course.append((round(elapsed, 2), round(quick, 3)))
        print(f"epoch {len(course)}, {elapsed:.1f} s, quick bound {quick:.2f}", flush=True)
        if elapsed >= limit or quick <= target + QUICK["margin"]:
            figures = measure(model, measured, num_samples, seed)
            if elapsed >= limit or figures["negative_log_likelihood"] <= target:
                return {"epochs": [len(course)], "seconds": elapsed, "bfloat16": False, "course": course, **figures}


def pythae(epochs: list[int], images, measured, num_samples: int, seed: int) -> dict:
    model = plain_model(images, seed)
    settings = {"per_device_train_batch_size": BATCH_SIZE, "learning_rate": USUAL_LEARNING_RATE, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        trainer = pythae_trainer(model, images, folder, binarized=True, num_epochs=epochs[0], **settings)
        elapsed = seconds(trainer.train)
    return {"epochs": epochs, "seconds": elapsed, "bfloat16": False, **measure(model, measured, num_samples, seed)}


def run(who: str, target: float, seed: int, options: argparse.Namespace, images, measured) -> dict:
    epochs, rest = options.epochs or EPOCHS[target][who], (images, measured, options.num_samples, seed)
    if who == "usual":
        figures = usual(target, options.limit, *rest)
    elif who == "pythae":
        figures = pythae(epochs, *rest)
    else:
        figures = ours(who, epochs, *rest)
    passed = figures["negative_log_likelihood"] <= target
    return {"who": who, "target": target, "seed": seed, "passed": passed, "train_images": len(images), **figures}


HEADER = f"{'target':>6}  {'who':9} {'median seconds':>14}  {'epochs':12} {'bounds of the seeds':28} passed by all"


def summary(rows: list[dict]) -> str:
    """The runs of one contestant and figure, one for each seed, as a line below HEADER."""
    target, who = rows[0]["target"], rows[0]["who"]
    median = statistics.median(row["seconds"] for row in rows)
    epochs = ", ".join(dict.fromkeys(" + ".join(map(str, row["epochs"])) for row in rows))
    bounds = ", ".join(f"{row['negative_log_likelihood']:.2f}" for row in rows)
    passed = sum(row["passed"] for row in rows)
    verdict = "yes" if passed == len(rows) else f"no, by {passed} of {len(rows)}"
    return f"{target:6.2f}  {who:9} {median:14.1f}  {epochs:12} {bounds:28} {verdict}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--who", nargs="+", choices=WHO, default=WHO)
    parser.add_argument("--targets", type=float, nargs="+", choices=EPOCHS, default=[*EPOCHS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs="+", help="in place of the numbers in EPOCHS")
    parser.add_argument("--limit", type=float, default=900, help="seconds of training after which `usual` gives up")
    parser.add_argument("--num-samples", type=int, default=128, help="importance samples K an image")
    add_image_options(parser, split="test")
    parser.add_argument("--json", type=Path, help="add every run to the list WHO-TARGET of this file")
    options = parser.parse_args()
    contestants = [who for who in options.who if who != "pythae" or HAS_PYTHAE]
    pairs = [(target, who) for target in options.targets for who in EPOCHS[target] if who in contestants]
    if not pairs:
        parser.error("nothing to run: EPOCHS has no such pair, or pythae is not installed (pip install pythae)")
    images, measured = split_images(options)
    measured = binarized_once(measured)
    runs = {pair: [] for pair in pairs}
    for seed in options.seeds:  # outermost, so that a slow hour of the machine hits everyone
        for target, who in pairs:
            row = run(who, target, seed, options, images, measured)
            runs[target, who].append(row)
            if options.json:
                add_run(options.json, f"{who}-{target:.2f}", row | machine())
            print(f"seed {seed}\n{HEADER}\n{summary([row])}", flush=True)
    print("\n".join(["all seeds", HEADER, *map(summary, runs.values())]))


if __name__ == "__main__":
    main()
