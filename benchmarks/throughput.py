"""How fast does `fit` train, beside the loop that everyone writes, pythae, and the bare matrix products?

    python benchmarks/throughput.py [--epochs 5] [--json FILE]

One run, one machine: every contender trains the same network, 784-400-20-400-784, on the 60,000 grey images with the
same batch size and AdamW. The contenders take turns, an epoch each, so that a slow minute of the machine hits all of
them; the table gives medians over the epochs. pythae is left out when it is not installed (pip install pythae).
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import ROOT, machine, seconds, write_json
from others import HAS_PYTHAE, pythae_trainer, usual_epoch, usual_loader

from vae_utils import fit, load_mnist, mlp_vae

HIDDEN, LATENT, LEARNING_RATE = 400, 20, 1e-3


def make_model(images):
    return mlp_vae(LATENT, (HIDDEN,)).to(images.device)


def our_fit(images, batch_size, bfloat16=False):
    """`fit`, as the notebook calls it, without the progress bar."""
    model = make_model(images)

    def epoch():
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            fit(model, images, epochs=1, batch_size=batch_size, learning_rate=LEARNING_RATE, progress=False)

    return epoch


def usual_loop(images, batch_size, fused=None):
    """The loop that everyone writes: DataLoader over datasets.MNIST with ToTensor, and AdamW as it comes."""
    loader, model = usual_loader(len(images), batch_size), make_model(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=fused)
    return lambda: usual_epoch(model, loader, optimizer, binarized=False)


def bare_products(images, batch_size):
    """The floor: only the matrix products of the forward and backward pass, on tensors made once."""
    layers = [(784, HIDDEN), (HIDDEN, LATENT), (HIDDEN, LATENT), (LATENT, HIDDEN), (HIDDEN, 784)]
    shapes = [((batch_size, i), (o, i), (batch_size, o)) for i, o in layers]  # inputs, weight, gradient
    tensors = [[torch.randn(shape, device=images.device) for shape in three] for three in shapes]

    def epoch():
        for _ in range(-(-len(images) // batch_size)):
            for number, (inputs, weight, gradient) in enumerate(tensors):
                inputs @ weight.T
                gradient.T @ inputs
                if number > 0:  # nobody needs the gradient of the images
                    gradient @ weight

    return epoch


def pythae(images, batch_size):
    """pythae's own trainer on the same network; it keeps the images in memory too."""
    settings = {"num_epochs": 1, "per_device_train_batch_size": batch_size, "learning_rate": LEARNING_RATE}
    with tempfile.TemporaryDirectory() as folder:  # an epoch alone writes nothing
        trainer = pythae_trainer(make_model(images), images, folder, binarized=False, optimizer_cls="AdamW", **settings)
        trainer.prepare_training()
    return lambda: trainer.train_step(epoch=1)


FLOOR, LOOP = "bare matrix products (the floor)", "DataLoader over datasets.MNIST(ToTensor)"
PYTHAE = "pythae's BaseTrainer"
CONTENDERS = {
    FLOOR: bare_products,
    "fit": our_fit,
    "fit in bfloat16": partial(our_fit, bfloat16=True),  # a coarser rounding than that of every other row
    LOOP: usual_loop,
    "the same with fit's fused AdamW": partial(usual_loop, fused=True),  # what is left is the way of the data
    PYTHAE: pythae,
}


def measure(images, batch_size, epochs) -> dict[str, dict]:
    runs = {name: make(images, batch_size) for name, make in CONTENDERS.items() if name != PYTHAE or HAS_PYTHAE}
    for run in runs.values():
        run()  # the first epoch warms up
    times = {name: [] for name in runs}
    for _ in range(epochs):
        for name, run in runs.items():
            times[name].append(seconds(run))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "seconds": times[name],
            "images_per_second": len(images) / median,
            "times_the_floor": median / medians[FLOOR],
            "faster_than_the_loop_by": medians[LOOP] / median,
        }
        for name, median in medians.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs of each contender")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train-images", type=int, default=60_000, help="train only on the first so many")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    images = load_mnist(ROOT / "data").train_images[: options.train_images].to(options.device)
    report = {**machine(), "batch_sizes": {}}
    for batch_size in options.batch_sizes:
        figures = report["batch_sizes"][batch_size] = measure(images, batch_size, options.epochs)
        print(f"\nbatch size {batch_size}, median of {options.epochs} epochs")
        print(f"{'':42} {'images/s':>10} {'x floor':>8} {'faster than the loop by':>24}")
        for name, row in figures.items():
            faster = f"{row['faster_than_the_loop_by']:.2f}"
            print(f"{name:42} {row['images_per_second']:>10,.0f} {row['times_the_floor']:>8.2f} {faster:>24}")
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
