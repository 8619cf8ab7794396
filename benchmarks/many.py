"""The trainings of likelihood.py, many at once on one GPU: a step of each is recorded as a CUDA graph and replayed.

    python benchmarks/many.py --epochs learned 76 --epochs standard 61 6 --seeds 0 1 2 [--split test] [--out FOLDER]

A step of these networks is some thousand small kernels, which leave a large GPU idle; eighteen trainings side by side
take 0.5 ms a step each on an H100. Objective, optimiser, schedule and batches are those of `fit`; the order of the
images and the noise come from other draws. On a CPU the steps run one after the other, without graphs, to try it out.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from common import binarized_once, machine, split_images
from likelihood import PHASES, make_model, measure

from vae_utils import available_device


class Phase:
    """One phase of one training, as `fit` would do it. `advance` makes a step, until it returns False."""

    def __init__(
        self, model, images, stream, *, epochs: int, seed: int, batch_size: int, learning_rate: float, objective
    ):
        self.model, self.images, self.stream, self.epochs = model, images, stream, epochs
        self.learning_rate, self.objective = learning_rate, objective
        whole, rest = divmod(len(images), batch_size)
        self.sizes = whole * [batch_size] + [rest] * (rest > 0)  # of the batches of an epoch
        self.generator = torch.Generator(images.device).manual_seed(seed)
        self.order = torch.zeros(len(images), dtype=torch.long, device=images.device)
        # What a recorded step reads and changes has to lie on the device.
        self.step, self.rate = torch.zeros((), device=images.device), torch.zeros((), device=images.device)
        self.position = torch.zeros((), dtype=torch.long, device=images.device)
        self.totals = torch.zeros(2, device=images.device)  # log likelihood and KL, summed over the epoch's images
        on_gpu = images.device.type == "cuda"
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=self.rate, betas=(0.9, 0.99), fused=True, capturable=on_gpu)
        self.graphs = self._record() if on_gpu else {}
        self.done = 0

    def _record(self) -> dict:
        """A graph for each size of batch. What the steps before it changed is put back."""
        before = copy.deepcopy(self.model.state_dict())
        sizes = set(self.sizes)
        for size in sizes:
            for _ in range(3):  # kernels are chosen, and the optimiser makes its state
                self._one_step(size)
        graphs = {size: torch.cuda.CUDAGraph() for size in sizes}
        torch.cuda.synchronize()
        for size, graph in graphs.items():
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph, stream=self.stream):
                self._one_step(size)
        self.model.load_state_dict(before)
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        self.step.zero_()
        torch.cuda.synchronize()
        return graphs

    def _one_step(self, size: int) -> None:
        chosen = self.order.index_select(0, self.position + torch.arange(size, device=self.order.device))
        x = torch.bernoulli(self.images.index_select(0, chosen), generator=self.generator)
        steps = self.epochs * len(self.sizes)
        warmup = torch.clamp((self.step + 1) / (0.02 * steps + 1), max=1.0)
        self.rate.copy_(self.learning_rate * warmup * 0.5 * (1 + torch.cos(math.pi * self.step / steps)))
        for parameter in self.model.parameters():
            parameter.grad = None
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            bound = self.objective(self.model, x, generator=self.generator)
        (-bound.value.mean()).backward()
        self.optimizer.step()
        self.totals += torch.stack([bound.log_likelihood.sum(), bound.kl.sum()]).detach()
        self.step += 1
        self.position += size

    def advance(self) -> bool:
        epoch, batch = divmod(self.done, len(self.sizes))
        if epoch == self.epochs:
            return False
        with torch.cuda.stream(self.stream):
            if batch == 0:
                self.order.copy_(torch.randperm(len(self.images), device=self.images.device))
                self.position.zero_()
                self.totals.zero_()
            if self.graphs:
                self.graphs[self.sizes[batch]].replay()
            else:
                self._one_step(self.sizes[batch])
        self.done += 1
        return True

    def training_elbo(self) -> float:
        """The mean of the last epoch."""
        log_likelihood, kl = (self.totals / len(self.images)).tolist()
        return log_likelihood - kl


class Run:
    """One training through all its phases."""

    def __init__(self, prior: str, epochs: list[int], batch_size: int, seed: int, images: torch.Tensor):
        self.prior, self.epochs, self.seed, self.images = prior, epochs, seed, images
        self.stream = torch.cuda.Stream() if images.device.type == "cuda" else None
        self.model = make_model(prior, seed, images.device).train()
        self.left = [
            settings | {"epochs": epochs[number], "batch_size": batch_size, "seed": seed + 1000 * number}
            for number, (_, settings) in enumerate(PHASES[prior])
        ]
        self.phase = None

    def advance(self) -> bool:
        while self.phase is None or not self.phase.advance():
            if self.stream is not None:
                self.stream.synchronize()
            if not self.left:
                return False
            self.phase = Phase(self.model, self.images, self.stream, **self.left.pop(0))
        return True


def train(runs: list[Run]) -> None:
    active, rounds = list(runs), 0
    while active:
        active = [run for run in active if run.advance()]
        rounds += 1
        if rounds % 64 == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()  # so that no stream's queue grows without end
        if rounds % 2000 == 0:
            print(f"{rounds} steps, {len(active)} of {len(runs)} trainings go on", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", nargs="+", action="append", required=True, help="a prior, and epochs of its phases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-samples", type=int, default=128)
    parser.add_argument("--images", type=int, default=10_000, help="measure only the first so many")
    parser.add_argument("--train-images", type=int, default=60_000, help="train only on the first so many")
    parser.add_argument("--split", choices=["test", "held-out"], default="held-out")
    parser.add_argument("--out", type=Path, help="a folder for weights and figures")
    options = parser.parse_args()
    device = available_device()
    images, measured = split_images(options.split)
    measured = binarized_once(measured)[: options.images].to(device)
    images = images[: options.train_images].to(device)
    start = time.perf_counter()
    runs = [
        Run(prior, [int(number) for number in epochs], options.batch_size, seed, images)
        for prior, *epochs in options.epochs
        for seed in options.seeds
    ]
    train(runs)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    for run in runs:
        report = {"prior": run.prior, "split": options.split, "seed": run.seed, "epochs": run.epochs}
        report["batch_size"] = options.batch_size
        report |= {
            "train_elbo": run.phase.training_elbo(),
            **measure(run.model, measured, options.num_samples, run.seed),
        }
        report |= {"device": name, **machine()}
        label = f"{run.prior}-{'-'.join(map(str, run.epochs))}-seed{run.seed}"
        print(f"{label:28} ELBO {report['elbo']:.2f}, -log p(x) {report['negative_log_likelihood']:.2f}", flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            torch.save(run.model.state_dict(), options.out / f"{label}.pt")
            (options.out / f"{label}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
