"""The playground: a small VAE that trains in the reader's browser while its loss is changed, as one HTML page."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from explorer.explorer import _base64, _pack_bytes, _pack_network, _write_page
from vae_utils import DIGIT_COLORS, Generator, binarize, fit, mlp_vae

HIDDEN = (128, 64)  # as in source/training.js
EPOCHS, BATCH_SIZE, LEARNING_RATE = 32, 64, 3e-3


def write_playground(images: Tensor, valid_images: Tensor, valid_labels: Tensor, path: str | Path) -> Path:
    """Write the page to `path`: it trains on `images` (N, 784), 4,000 of them in 1.2 MB, and measures on the others.

    Images become black and white by one draw of `binarize`. The model with which the page opens is trained here, in a
    minute. Raises ValueError for images of another size, for fewer than 64 (or 200 to measure on), for a number of them
    that is not divisible by 4, and for labels that do not match.
    """
    for name, some, least in (("images", images, BATCH_SIZE), ("valid_images", valid_images, 200)):
        if some.ndim != 2 or some.shape[1] != 784 or len(some) < least or len(some) % 4:
            wanted = f"shape (N, 784), with N divisible by 4 and at least {least}"
            raise ValueError(f"{name} must have {wanted}, not {tuple(some.shape)}")
    if valid_labels.shape != (len(valid_images),) or not 0 <= valid_labels.min() <= valid_labels.max() <= 9:
        raise ValueError(f"valid_labels must have shape ({len(valid_images)},) and be from 0 to 9, not {valid_labels}")
    generator = Generator().manual_seed(0)
    images, valid_images = (binarize(some.cpu(), generator=generator) for some in (images, valid_images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp_vae(2, HIDDEN)
    fit(model, images, epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, progress=False)
    ink = images.mean(0).clamp(1e-3, 1 - 1e-3)
    data = {
        "images": _pack_bits(images),
        "held": _pack_bits(valid_images),
        "labels": _pack_bytes(valid_labels.cpu()),
        "colors": DIGIT_COLORS,
        "averageDigit": -model.likelihood.log_prob(valid_images, ink.logit().expand_as(valid_images)).mean().item(),
        "weights": {name: _pack_network(getattr(model, name), name) for name in ("encoder", "decoder")},
    }
    _write_page(Path(path), json.dumps(data, allow_nan=False), "playground")
    return Path(path)


def _pack_bits(images: Tensor) -> str:
    """Black-and-white images, a bit for each pixel, 98 bytes for each image."""
    return _base64(np.packbits(images.numpy().astype(np.uint8), axis=1))
