"""The weights in benchmarks/weights: they are the files of their card, and give the figure that it states."""

import hashlib
import re
from pathlib import Path

import pytest
import torch

import vae_utils as vae

FOLDER = Path(__file__).parent.parent / "benchmarks" / "weights"
MODELS = {
    "learned-prior.pt": lambda: vae.conv_vae(prior=vae.FlowPrior(32)),
    "standard-prior.pt": vae.conv_vae,
}


def row(title):
    """The row of the card that begins so: {file: text}."""
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    files, cells = (
        next(line for line in lines if line.startswith(f"| {name}")).split(" | ")[1:] for name in ("file", title)
    )
    return {file.strip("`| "): cell.strip("`| ") for file, cell in zip(files, cells, strict=True)}


@pytest.mark.parametrize("file", MODELS)
def test_the_file_is_the_one_of_the_card(file):
    assert hashlib.sha256((FOLDER / file).read_bytes()).hexdigest() == row("SHA-256")[file]


@pytest.mark.parametrize("file", MODELS)
def test_the_weights_give_the_figures_of_the_card_on_200_test_images(file):
    """Within three standard errors of all test images' figure, and close to that of the same 200."""
    model = MODELS[file]()
    model.load_state_dict(torch.load(FOLDER / file, weights_only=True))
    test_images = vae.load_mnist(FOLDER.parent.parent / "data").test_images
    images = vae.binarize(test_images, generator=torch.Generator().manual_seed(0))[:200]  # as in likelihood.py
    found = -vae.estimate_log_likelihood(model, images, num_samples=64)
    of_all, of_these = (
        float(re.match(r"[\d.]+", row(title)[file])[0])
        for title in ("test -log p(x), K = 128", "the same on the first 200")
    )
    assert abs(found.mean() - of_all) < 3 * found.std() / len(found) ** 0.5
    assert abs(found.mean() - of_these) < 0.4  # three draws differ by 0.2
    cost = -vae.evaluate(model, images)["elbo"]
    assert found.mean() + 1 < cost < found.mean() + 8  # the bound of 64 samples lies below the negative ELBO
