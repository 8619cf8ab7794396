"""The trainings of likelihood.py, many at once on one GPU: a step of each is recorded as a CUDA graph and replayed.

    python benchmarks/likelihood_gpu.py --epochs learned 76 --epochs standard 61 6 --seeds 0 1 2
        [--split test] [--json FILE NAME] [--weights FOLDER]

A step of these networks is some thousand small kernels, which leave a large GPU idle; eighteen trainings side by side
took 0.5 ms a step each on an H100, when the batch was still drawn inside of the recording. Order of the images, noise,
schedule, optimiser and step are those of `fit` (tests/test_benchmarks.py). On a CPU it runs too, without graphs.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from common import add_image_options, add_run, binarized_once, machine, seconds, split_images
from likelihood import make_model, measure, phases
from torch import Generator, Tensor

from vae_utils import _batches, available_device, bfloat16_is_faster, make_optimizer, train_step, warmup_cosine


def train_phase(
    model, images: Tensor, *, epochs: int, seed: int, batch_size: int, learning_rate: float, objective
) -> Iterator[Tensor]:
    """What `fit` does with `binarized=True`, a step at every `next`; only the first and the last wait for the device.

    Yields the sums of log likelihood and KL over the images of this epoch so far: a tensor (2,) that goes on changing.
    """
    on_gpu = images.device.type == "cuda"
    generator = Generator(images.device)
    # A tensor, for a recorded step keeps plain numbers. The GPU's optimiser takes float32 only; the CPU's is exact.
    rate = torch.zeros((), device=images.device, dtype=torch.float32 if on_gpu else torch.float64)
    totals = torch.zeros(2, device=images.device)
    optimizer = make_optimizer(model, lr=rate, capturable=on_gpu)

    def step(x: Tensor) -> None:
        bound = train_step(model, x, objective, optimizer, generator, check=False)
        totals.add_(torch.stack([bound.log_likelihood.sum(), bound.kl.sum()]).detach())

    batches = images.split(batch_size)
    take_step = record(step, batches, model, optimizer, generator) if on_gpu else step
    generator.manual_seed(seed)  # only now, for the recording draws numbers too
    for epoch in range(epochs):
        totals.zero_()
        epoch_batches = _batches(images, batch_size, True, generator)
        for number, x in enumerate(epoch_batches, start=epoch * len(batches)):
            rate.fill_(learning_rate * warmup_cosine(number, epochs * len(batches)))
            take_step(x)
            yield totals
    if on_gpu:
        torch.cuda.current_stream().synchronize()  # the graphs and their memory go when this function ends


def record(step: Callable, batches: tuple[Tensor, ...], model, optimizer, generator: Generator) -> Callable:
    """`step` as a CUDA graph for each size of batch. What the steps before it changed is put back."""
    before = copy.deepcopy(model.state_dict())
    inputs = {len(x): x.clone() for x in (batches[0], batches[-1])}  # where a graph finds its images
    for x in inputs.values():
        for _ in range(3):  # kernels are chosen, and the optimiser makes its state
            step(x)
    graphs = {size: torch.cuda.CUDAGraph() for size in inputs}
    for size, graph in graphs.items():
        graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            step(inputs[size])
    model.load_state_dict(before)
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()

    def replay(x: Tensor) -> None:
        inputs[len(x)].copy_(x)
        graphs[len(x)].replay()

    return replay


def in_bfloat16(objective: Callable) -> Callable:
    """The objective under an autocast. The backward pass stays outside: on a GPU it might run in float16 there."""

    def inside(model, x, *, generator):
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):  # a cached copy is no part of a graph
            return objective(model, x, generator=generator)

    return inside


class Run:
    """One training through all its phases, on a stream of its own. `advance` makes a step, until it returns False."""

    def __init__(self, name: str, epochs: list[int], images: Tensor, *, seed: int, batch_size: int, bfloat16: bool):
        self.name, self.epochs, self.seed = name, epochs, seed
        self.model = make_model(name, images, seed).train()
        self.stream = torch.cuda.Stream() if images.device.type == "cuda" else None
        self.steps = self._steps(images, batch_size, bfloat16)
        self.totals = None

    def _steps(self, images: Tensor, batch_size: int, bfloat16: bool) -> Iterator[Tensor]:
        for settings in phases(self.name, self.epochs, batch_size=batch_size, seed=self.seed):
            if bfloat16:
                settings["objective"] = in_bfloat16(settings["objective"])
            yield from train_phase(self.model, images, **settings)

    def advance(self) -> bool:
        with torch.cuda.stream(self.stream):
            totals = next(self.steps, None)
        self.totals = self.totals if totals is None else totals
        return totals is not None


def train(runs: list[Run]) -> None:
    """A step of each in turn, until all are done."""
    active, rounds = list(runs), 0
    while active:
        if rounds % 64 == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()  # at first for the weights; then so that no stream's queue grows without end
        active = [run for run in active if run.advance()]
        rounds += 1
        if rounds % 2000 == 0:
            print(f"{rounds} steps, {len(active)} of {len(runs)} trainings go on", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", nargs="+", action="append", required=True, help="a model, and epochs of its phases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-samples", type=int, default=128, help="importance samples K an image")
    add_image_options(parser, split="held-out")
    parser.add_argument("--weights", type=Path, help="write the weights into this folder")
    parser.add_argument("--json", nargs=2, metavar=("FILE", "NAME"), help="add the figures to the lists NAME-MODEL")
    options = parser.parse_args()
    device = available_device()
    images, measured = split_images(options)
    images, measured = images.to(device), binarized_once(measured).to(device)
    settings = {"batch_size": options.batch_size, "bfloat16": bfloat16_is_faster(device)}
    runs = [
        Run(name, [int(number) for number in epochs], images, seed=seed, **settings)
        for name, *epochs in options.epochs
        for seed in options.seeds
    ]
    print(f"trained in {seconds(lambda: train(runs)):.0f} s")
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    for run in runs:
        log_likelihood, kl = (run.totals / len(images)).tolist()
        report = {"model": run.name, "split": options.split, "seed": run.seed, "epochs": run.epochs, **settings}
        report |= {"train_elbo": log_likelihood - kl}
        report |= measure(run.model, measured, options.num_samples, run.seed)
        report |= {"device": device_name, **machine()}
        label = f"{run.name}-{'-'.join(map(str, run.epochs))}-seed{run.seed}"
        print(f"{label:28} ELBO {report['elbo']:.2f}, -log p(x) {report['negative_log_likelihood']:.2f}", flush=True)
        if options.weights:
            options.weights.mkdir(parents=True, exist_ok=True)
            torch.save(run.model.state_dict(), options.weights / f"{label}.pt")
        if options.json:
            add_run(Path(options.json[0]), f"{options.json[1]}-{run.name}", report)


if __name__ == "__main__":
    main()
