"""How many seconds of training until the test -log p(x) passes a published figure?

    python benchmarks/time_to.py [--who learned usual] [--targets 86.76] [--seeds 0 1 2] [--json FILE]

A figure is passed when the bound on -log p(x) with K = 128, over the 10,000 test images binarised once as in
likelihood.py, is at or below it. With `--num-samples 20` measuring takes a sixth of the time: that bound is the higher
one, so what passes with 20 samples passes with 128. The clock runs while a model trains; loading and measuring are
outside of it. Give the script the machine for itself.

learned, standard   `conv_vae` with the settings of likelihood.py, in bfloat16 where that is faster. Their learning rate
                    falls to 0 at the end of a run of fixed length, so the time to a figure is the length of the
                    shortest run that passes it: EPOCHS has one for each figure, with one number for each phase. A
                    shorter one can be tried with `--epochs learned 86.76 2`.
usual               the same network and ELBO, standard prior, with the loop that everyone writes: DataLoader over
                    datasets.MNIST with ToTensor, Adam, 1e-3, batches of 128, PyTorch's initial weights, float32. After
                    every epoch 2,000 test images are measured with K = 20, all of them when that comes close to
                    the figure, and it stops when the figure is passed or the time of --limit is up.
pythae              the same as `usual` with pythae's VAE and BaseTrainer, for --pythae-epochs epochs, of which the last
                    one's weights are measured. Left out when it is not installed (pip install pythae).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import add_run, binarized_once, machine, split_images
from likelihood import PHASES, make_model, measure, train
from others import has_pythae, pythae_trainer, usual_epoch, usual_loader

from vae_utils import bfloat16_is_faster, estimate_log_likelihood

TARGETS = {
    86.76: "VAE (Burda et al. 2016)",
    84.78: "IWAE with 50 samples (Burda et al. 2016)",
    82.90: "IWAE, two layers (Burda et al. 2016)",
    81.08: "ResNet VAE, standard prior (Kingma et al. 2016)",
    79.77: "the same, inverse autoregressive posterior",
}
EPOCHS = {
    "learned": {86.76: [3], 84.78: [6], 82.90: [11], 81.08: [32]},
    "standard": {86.76: [10], 84.78: [20, 1]},
}
OTHERS_TARGET = 86.76  # the only figure for `usual` and `pythae`
WHO = (*EPOCHS, "usual", "pythae")
BATCH_SIZE, USUAL_LEARNING_RATE = 128, 1e-3
# Fewer samples give more nats and the first images fewer: 81.92 for weights/standard-prior.pt, which has 81.89 in full.
QUICK = {"images": 2000, "num_samples": 20, "margin": 0.3}


def ours(who: str, epochs: list[int], images, measured, num_samples: int, seed: int) -> dict:
    """A run of likelihood.py. Fewer numbers of epochs than phases leave out the last phases."""
    bfloat16 = bfloat16_is_faster("cpu")
    model = make_model(who, images, seed)
    start = time.perf_counter()
    train(model, images, who, epochs, batch_size=BATCH_SIZE, seed=seed, bfloat16=bfloat16)
    seconds = time.perf_counter() - start
    return {"epochs": epochs, "seconds": seconds, "bfloat16": bfloat16, **measure(model, measured, num_samples, seed)}


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
    seconds, course, some = 0.0, [], measured[: QUICK["images"]]
    while True:
        start = time.perf_counter()
        loss = usual_epoch(model, loader, optimizer, binarized=True)
        seconds += time.perf_counter() - start
        quick = -estimate_log_likelihood(model, some, num_samples=QUICK["num_samples"], seed=seed).mean().item()
        course.append((round(seconds, 2), round(quick, 3)))
        print(f"epoch {len(course)}, {seconds:.1f} s, loss {loss:.2f}, quick bound {quick:.2f}", flush=True)
        if seconds >= limit or quick <= target + QUICK["margin"]:
            figures = measure(model, measured, num_samples, seed)
            if seconds >= limit or figures["negative_log_likelihood"] <= target:
                return {"epochs": [len(course)], "seconds": seconds, "bfloat16": False, "course": course, **figures}


def pythae(epochs: int, images, measured, num_samples: int, seed: int) -> dict:
    model = plain_model(images, seed)
    settings = {"per_device_train_batch_size": BATCH_SIZE, "learning_rate": USUAL_LEARNING_RATE, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        trainer = pythae_trainer(model, images, folder, binarized=True, num_epochs=epochs, **settings)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return {"epochs": [epochs], "seconds": seconds, "bfloat16": False, **measure(model, measured, num_samples, seed)}


def run(who: str, target: float, seed: int, options: argparse.Namespace, images, measured) -> dict:
    rest = images, measured, options.num_samples, seed
    if who == "usual":
        figures = usual(target, options.limit, *rest)
    elif who == "pythae":
        figures = pythae(options.pythae_epochs, *rest)
    else:
        figures = ours(who, options.table[who][target], *rest)
    passed = figures["negative_log_likelihood"] <= target
    return {"who": who, "target": target, "seed": seed, "passed": passed, "train_images": len(images), **figures}


def print_table(runs: list[dict]) -> None:
    print(f"\n{'target':>6}  {'who':9} {'median seconds':>14}  {'epochs':12} {'bounds of the seeds':28} passed by all")
    for target, who in dict.fromkeys((row["target"], row["who"]) for row in runs):
        rows = [row for row in runs if (row["target"], row["who"]) == (target, who)]
        seconds = statistics.median(row["seconds"] for row in rows)
        epochs = ", ".join(dict.fromkeys(" + ".join(map(str, row["epochs"])) for row in rows))
        bounds = ", ".join(f"{row['negative_log_likelihood']:.2f}" for row in rows)
        passed = sum(row["passed"] for row in rows)
        verdict = "yes" if passed == len(rows) else f"no, by {passed} of {len(rows)}"
        print(f"{target:6.2f}  {who:9} {seconds:14.1f}  {epochs:12} {bounds:28} {verdict}")


def parse_options() -> argparse.Namespace:
    """The options, and as `table` EPOCHS with what --epochs changes of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--who", nargs="+", choices=WHO, default=WHO)
    parser.add_argument("--targets", type=float, nargs="+", choices=TARGETS, default=[*TARGETS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", nargs="+", action="append", default=[], help="who of ours, a target, and a length")
    parser.add_argument("--limit", type=float, default=900, help="seconds of training after which `usual` gives up")
    parser.add_argument("--pythae-epochs", type=int, default=22)
    parser.add_argument("--num-samples", type=int, default=128, help="K of the bound")
    parser.add_argument("--images", type=int, default=10_000, help="measure only the first so many, to try it out")
    parser.add_argument("--train-images", type=int, default=60_000, help="train only on the first so many, likewise")
    parser.add_argument("--json", type=Path, help="add every run to the list WHO-TARGET of this file")
    options = parser.parse_args()
    options.table = table = {who: dict(lengths) for who, lengths in EPOCHS.items()}
    for who, *numbers in options.epochs:
        if who not in table or not 1 <= len(numbers) - 1 <= len(PHASES[who]) or float(numbers[0]) not in TARGETS:
            parser.error(f"--epochs needs one of {', '.join(table)}, a target, and a number of epochs for each phase")
        table[who][float(numbers[0])] = [int(number) for number in numbers[1:]]
    return options


def main():
    options = parse_options()
    contestants = [who for who in options.who if who != "pythae" or has_pythae()]
    targets = {who: [*options.table.get(who, [OTHERS_TARGET])] for who in contestants}
    pairs = [(target, who) for target in options.targets for who in contestants if target in targets[who]]
    if not pairs:
        raise SystemExit(f"nothing to run; there are targets for {targets}")
    images, measured = split_images("test")
    images = images[: options.train_images]
    measured = binarized_once(measured)[: options.images]
    rows = []
    for seed in options.seeds:  # outermost, so that a slow hour of the machine hits everyone
        for target, who in pairs:
            print(f"\n{target:.2f}, {TARGETS[target]}: {who}, seed {seed}", flush=True)
            row = run(who, target, seed, options, images, measured)
            rows.append(row)
            if options.json:
                add_run(options.json, f"{who}-{target:.2f}", row | machine())
            epochs, bound = " + ".join(map(str, row["epochs"])), row["negative_log_likelihood"]
            verdict = "passed" if row["passed"] else "not passed"
            print(f"{row['seconds']:.1f} s, epochs {epochs}, bound {bound:.2f}: {verdict}", flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
