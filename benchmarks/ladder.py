"""From the usual loop to `fit`, one change at a time: what is each change worth in seconds?

    python benchmarks/ladder.py --rung 3 --epochs 10 [--json FILE]     how low is the bound of that rung's run?
    python benchmarks/ladder.py --time [--batches 60] [--json FILE]    seconds an epoch of every rung, in turns

The network is `conv_vae`, the images are binarised anew in every batch of 128, the seed is 0. A rung has the changes of
CHANGES up to its own. Where the learning rate is constant, a run stops at the first epoch that passes --target, and
2,000 test images with K = 20 tell when to measure all; where it falls to 0 the length of a run belongs to its settings,
so the shortest one that passes is found by trying --epochs. The seconds of a rung are its epochs times the seconds of
one, which --time measures by itself: give it the machine. The bound has K = 20, over the 10,000 test images binarised
once.
"""

import argparse
import statistics
import time
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from common import add_image_options, add_run, binarized_once, machine, seconds, split_images, write_json
from likelihood import make_model, measure, sampled_elbo
from others import usual_loader
from time_to import QUICK, plain_model

import vae_utils as vae

CHANGES = (
    "the usual loop",
    "images in memory",
    "fused Adam",
    "Kaiming's initial weights",
    "AdamW, beta2 0.99, 4e-3 with warm-up and decay",
    "the KL from the draw",
    "bfloat16, where that is faster",
    "a learned prior",
)
_, MEMORY, FUSED, WEIGHTS, SCHEDULE, SAMPLED, BFLOAT16, PRIOR = range(len(CHANGES))
BATCH_SIZE = 128


class Run:
    """A model of one rung and how it is trained."""

    def __init__(self, rung: int, images: torch.Tensor, seed: int):
        self.rung, self.images = rung, images
        self.bfloat16 = rung >= BFLOAT16 and vae.bfloat16_is_faster("cpu")
        name = "learned" if rung >= PRIOR else "standard"
        self.model = make_model(name, images, seed) if rung >= WEIGHTS else plain_model(images, seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.loader = usual_loader(len(images), BATCH_SIZE) if rung < MEMORY else None
        self.objective = sampled_elbo if rung >= SAMPLED else vae.elbo
        if rung >= SCHEDULE:
            self.optimizer = vae.make_optimizer(self.model)
        else:
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=rung >= FUSED)

    def batches(self):
        """The images of an epoch, binarised."""
        if self.rung < MEMORY:
            return (torch.bernoulli(x.view(len(x), -1)) for x, _ in self.loader)
        return vae._batches(self.images, BATCH_SIZE, True, self.generator)

    def epoch(self, number: int, epochs: int, batches: int | None = None) -> None:
        """Epoch `number` of `epochs`, counted from 0, or only so many batches of it."""
        steps = -(-len(self.images) // BATCH_SIZE)
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            for batch, x in enumerate(islice(self.batches(), batches)):
                if self.rung >= SCHEDULE:
                    factor = vae.warmup_cosine(number * steps + batch, epochs * steps)
                    self.optimizer.param_groups[0]["lr"] = 4e-3 * factor
                vae.train_step(self.model, x, self.objective, self.optimizer, self.generator)


def climb(rung: int, epochs: int, target: float, images, measured, seed: int) -> dict:
    """Train for so many epochs, or with a constant learning rate until the target is passed, and measure."""
    run, some = Run(rung, images, seed), measured[: QUICK["images"]]
    for number in range(epochs):
        start = time.perf_counter()
        run.epoch(number, epochs)
        last, quick = number == epochs - 1, None
        if rung < SCHEDULE and not last:
            bound = vae.estimate_log_likelihood(run.model, some, num_samples=QUICK["num_samples"], seed=seed)
            quick = -bound.mean().item()
        print(f"epoch {number + 1}, {time.perf_counter() - start:.0f} s, quick bound {quick}", flush=True)
        if last or (quick and quick <= target + QUICK["margin"]):
            figures = measure(run.model, measured, QUICK["num_samples"], seed)
            passed = figures["negative_log_likelihood"] <= target
            if last or passed:
                return {"epochs": number + 1, "target": target, "passed": passed, "seed": seed, **figures}


def seconds_an_epoch(rungs: list[int], images, batches: int, rounds: int) -> dict[str, dict]:
    """Every rung in turns, each `rounds` times so many batches; the first ones warm up."""
    runs = {rung: Run(rung, images, seed=0) for rung in rungs}
    times = {rung: [] for rung in rungs}
    for turn in range(rounds + 1):
        for rung, run in runs.items():
            elapsed = seconds(partial(run.epoch, 0, 10, batches)) * len(images) / (batches * BATCH_SIZE)
            if turn > 0:
                times[rung].append(round(elapsed, 2))
    return {CHANGES[rung]: {"median": statistics.median(values), "all": values} for rung, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rung", type=int, choices=range(len(CHANGES)), help="train this one")
    parser.add_argument("--epochs", type=int, default=40, help="its length, at most")
    parser.add_argument("--target", type=float, default=86.76)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", action="store_true", help="measure the seconds of an epoch of every rung")
    parser.add_argument("--rungs", type=int, nargs="+", default=[*range(len(CHANGES))], help="only of these")
    parser.add_argument("--batches", type=int, default=60, help="that are timed at once")
    parser.add_argument("--rounds", type=int, default=5)
    add_image_options(parser, split="test")
    parser.add_argument("--json", type=Path, help="add a run to the list CHANGE of this file, or write the times to it")
    options = parser.parse_args()
    images, measured = split_images(options)
    if options.time:
        times = seconds_an_epoch(options.rungs, images, options.batches, options.rounds)
        for name, row in times.items():
            print(f"{name:50} {row['median']:7.1f} s an epoch   {row['all']}")
        if options.json:
            write_json(options.json, {**machine(), "capability": torch.backends.cpu.get_cpu_capability(), **times})
    if options.rung is not None:
        settings = (options.epochs, options.target, images, binarized_once(measured), options.seed)
        report = {"rung": CHANGES[options.rung], **climb(options.rung, *settings), **machine()}
        print(report)
        if options.json:
            add_run(options.json, CHANGES[options.rung], report)


if __name__ == "__main__":
    main()
