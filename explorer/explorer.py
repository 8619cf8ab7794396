"""The explorer: a trained 2-D model and its map as one HTML page that computes in the reader's browser.

`write_explorer` fills template.html, beside this file, with a model; `show_explorer` shows the page in a notebook.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from numbers import Integral
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from IPython.display import IFrame, display
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from vae_utils import (
    DIGIT_COLORS,
    LOGVAR_BEND,
    LOGVAR_BOUND,
    LOGVAR_CEILING,
    VAE,
    Decoder,
    Encoder,
    _check_images,
    _check_labels,
    _check_numbers,
    _label_positions,
    _replace_file,
    encode_dataset,
    evaluate,
)

TEMPLATE = Path(__file__).with_name("template.html")
PLACEHOLDER = "/*EXPLORER_DATA*/"
TEST_DIGITS = 200  # images that the page carries for its button "Random test digit"
NEIGHBOURS = 15  # the codes around a code that tell among which digits it lies


def write_explorer(
    model: VAE,
    images: Tensor,
    labels: Tensor,
    path: str | Path = "explorer/explorer.html",
    *,
    snapshots: Sequence[tuple[Mapping, Tensor]] = (),
    template: str | Path = TEMPLATE,
    seed: int = 0,
) -> Path:
    """Write the page of `model` with the codes of `images` (N, 784) and their `labels` (N,) to `path`.

    `snapshots` let the reader watch the model learn: pairs that a callback of `fit` has kept, each a row of the history
    with its epoch and valid_elbo, and the codes (K, 2) of the first K images after that epoch.
    The page holds everything that it needs, 2 MB and more. The weights are rounded to 16 bits, which moves pixel
    probabilities, mu and logvar by less than 0.01; `seed` chooses the images that it shows on request.
    An older page is replaced only once the new one is complete.
    Raises ValueError if the model is not an `mlp_vae` with 2 latent dimensions and finite weights, or if images, labels
    or snapshots do not match; FileNotFoundError if there is no template; OSError if the page cannot be written.
    """
    (seed,) = _check_numbers(Integral, 0, seed=seed)
    _check_images(images, model)
    _check_model(model)
    _check_snapshots(snapshots, len(images))
    before, after = _read_template(Path(template))
    page = before + json.dumps(_page_data(model, images, labels, snapshots, seed), allow_nan=False) + after
    _replace_file(path, page.encode("utf-8"), "explorer")
    return Path(path)


def show_explorer(path: str | Path, *, height: int = 900) -> None:
    """Display the page at `path`, relative to the notebook's folder, in a frame that is `height` pixels high."""
    frame = IFrame(quote(Path(path).as_posix()), "100%", height, extras=['title="The explorer"'])
    display({"text/html": frame._repr_html_(), "text/plain": f"{path}: open it in a browser"}, raw=True)


def _check_model(model: VAE) -> None:
    if model.latent_dim != 2:
        raise ValueError(f"the explorer shows a plane: model must have 2 latent dimensions, and has {model.latent_dim}")
    dense = isinstance(model.encoder, Encoder) and isinstance(model.decoder, Decoder)
    hidden = [*model.encoder.hidden, *model.decoder.hidden] if dense else []
    if not dense or not all(map(isinstance, hidden, cycle((nn.Linear, nn.SiLU)))):
        raise ValueError("the explorer computes Linear and SiLU layers only: pass a model made by mlp_vae")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError("model holds weights that are not finite: train it again, with a smaller learning rate")


def _check_snapshots(snapshots: Sequence[tuple[Mapping, Tensor]], images: int) -> None:
    for row, codes in snapshots:
        if not {"epoch", "valid_elbo"} <= set(row):
            raise ValueError("snapshots need rows with epoch and valid_elbo: give fit valid_images")
        if codes.ndim != 2 or codes.shape[1] != 2 or len(codes) > images or not codes.isfinite().all():
            raise ValueError(
                f"snapshots need finite codes of shape (K, 2) with K up to {images}, and one has {tuple(codes.shape)}"
            )


def _read_template(template: Path) -> tuple[str, str]:
    """What stands before and after the placeholder."""
    if not template.is_file():
        raise FileNotFoundError(f"no template at {template.absolute()}: pass the path of explorer/template.html")
    before, *after = template.read_text(encoding="utf-8").split(PLACEHOLDER)
    if len(after) != 1:
        raise ValueError(f"{template} must hold {PLACEHOLDER} exactly once, and holds it {len(after)} times")
    return before, after[0]


def _page_data(model: VAE, images: Tensor, labels: Tensor, snapshots: Sequence, seed: int) -> dict:
    mu = encode_dataset(model, images)[0].cpu()
    _check_labels(mu, labels)
    labels = labels.cpu()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:TEST_DIGITS]
    return {
        "encoder": [_pack_linear(layer) for layer in model.encoder.hidden[::2]],
        "mu": _pack_linear(model.encoder.mu),
        "logvar": _pack_linear(model.encoder.logvar),
        "logvarBounds": [LOGVAR_BOUND, LOGVAR_BEND, LOGVAR_CEILING],
        "decoder": [_pack_linear(layer) for layer in model.decoder.hidden[::2]],
        "logits": _pack_linear(model.decoder.logits),
        "codes": _pack(mu),
        "labels": _pack_bytes(labels),
        "images": _pack_bytes(images.cpu()[chosen] * 255),
        "imageLabels": _pack_bytes(labels[chosen]),
        "averageElbo": evaluate(model, images, seed=seed)["elbo"],
        "neighbours": NEIGHBOURS,
        "ownKind": _own_kind(mu.numpy(), labels.numpy()),
        "snapshots": [
            {
                "epoch": row["epoch"],
                "validElbo": row["valid_elbo"],
                "codes": _pack(codes),
                "middles": _middles(codes.cpu(), labels[: len(codes)]),
            }
            for row, codes in snapshots
        ],
        "colors": DIGIT_COLORS,
        "middles": _middles(mu, labels),
    }


def _middles(codes: Tensor, labels: Tensor) -> list[list]:
    """Where each digit's numeral stands among its codes: [digit, z1, z2]."""
    return [[digit, *place.tolist()] for digit, place in _label_positions(codes.numpy(), labels.numpy()).items()]


def _own_kind(codes: np.ndarray, labels: np.ndarray) -> float:
    """The share of codes whose digit is the commonest one among their nearest neighbours."""
    finder = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(codes) - 1)).fit(codes)
    commonest = [np.bincount(labels[near]).argmax() for near in finder.kneighbors(return_distance=False)]
    return float(np.mean(commonest == labels))


def _pack_linear(layer: nn.Linear) -> dict:
    return {"weight": _pack(layer.weight), "bias": _pack(layer.bias)}


def _pack(numbers: Tensor) -> dict:
    """Numbers as 16-bit integers times one scale: with these ranges several times as exact as half precision."""
    numbers = numbers.detach().cpu().double()
    scale = max(numbers.abs().max().item(), 1e-30) / 32767
    return {"scale": scale, "int16": _base64((numbers / scale).round().numpy().astype("<i2"))}


def _pack_bytes(numbers: Tensor) -> str:
    return _base64(numbers.round().numpy().astype(np.uint8))


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
