"""The explorer: a trained 2-D model and its map as one HTML page that computes in the reader's browser.

`write_explorer` puts the files in the folder `source`, beside this one, and a model together into a page;
`show_explorer` shows the page in a notebook.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from IPython.display import display
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from vae_utils import (
    DIGIT_COLORS,
    VAE,
    Bernoulli,
    DiagonalNormal,
    StandardNormal,
    _label_positions,
    _replace_file,
    elbo_by_quadrature,
    encode_dataset,
    eval_mode,
)

SOURCE = Path(__file__).with_name("source")
PLACEHOLDER = "/*DATA*/"
IMPORT = re.compile(r'^import [^;]+ from "\./([\w.]+)";\n', re.MULTILINE)
BEFORE_DATA = '<script type="application/json" id="data">'
TEST_DIGITS = 200  # images that the page carries for its button "Random test digit"
NEIGHBOURS = 15  # the codes around a code that tell among which digits it lies


def write_explorer(
    model: VAE,
    images: Tensor,
    labels: Tensor,
    path: str | Path,
    *,
    snapshots: Sequence[tuple[Mapping, Tensor]] = (),
) -> Path:
    """Write the page of `model` with the codes of `images` (N, 784) and their `labels` (N,) to `path`.

    `snapshots` let the reader watch the model learn: pairs that a callback of `fit` has kept, each a row of the history
    with its epoch and valid_elbo, and the codes (K, 2) of the first K images after that epoch.
    The page holds everything that it needs, 2 MB and more. The weights are rounded to 16 bits, which moves pixel
    probabilities, mu and logvar by less than 0.01. An older page is replaced only once the new one is complete.
    Raises ValueError if the page could not compute what the model does, or if images, labels or snapshots do not match.
    """
    _check_model(model)
    data = json.dumps(_page_data(model, images, labels, snapshots), allow_nan=False)
    _write_page(Path(path), data, "explorer")
    return Path(path)


def update_page(path: str | Path, name: str = "explorer") -> None:
    """Write the page at `path` anew from today's sources of the page `name`, with the data that it carries."""
    data = Path(path).read_text(encoding="utf-8").split(BEFORE_DATA)[1].split("</script>")[0]
    _write_page(Path(path), data, name)


def page_source(name: str) -> str:
    """The page `name` as one file, with PLACEHOLDER for its data; styles and scripts stand where it names them."""
    html = (SOURCE / f"{name}.html").read_text(encoding="utf-8")
    link = re.compile(r'<link rel="stylesheet" href="([\w.]+)">')
    html = link.sub(lambda found: f"<style>\n{(SOURCE / found[1]).read_text(encoding='utf-8')}</style>", html)
    script = re.compile(r'(<script [^>]*?) src="([\w.]+)">')
    return script.sub(lambda found: f"{found[1]}>\n{script_source(found[2])}", html)


def script_source(name: str) -> str:
    """A script and, before it, all that it imports, as one text without the words `import` and `export`."""
    ordered: list[str] = []

    def add(name: str) -> None:
        if name not in ordered:
            for other in IMPORT.findall((SOURCE / name).read_text(encoding="utf-8")):
                add(other)
            ordered.append(name)

    add(name)
    text = "\n".join((SOURCE / name).read_text(encoding="utf-8") for name in ordered)
    return re.sub("^export ", "", IMPORT.sub("", text), flags=re.MULTILINE)


def show_explorer(path: str | Path, *, embed: bool = False) -> None:
    """Display the page at `path`, relative to the notebook's folder, in a frame, and below it where it lies.

    With `embed` the notebook holds the page itself, 2 MB and more, and shows it wherever the notebook is shown.
    """
    name = Path(path).as_posix()
    page = f'srcdoc="{escape(Path(path).read_text(encoding="utf-8"))}"' if embed else f'src="{quote(name)}"'
    frame = f'<iframe {page} title="{escape(Path(path).stem)}" width="100%" height="900" frameborder="0"></iframe>'
    note = f"<p>The page is the file <code>{escape(name)}</code>: download it and open it in a browser.</p>"
    display({"text/html": f"{frame}\n{note}", "text/plain": f"{name}: open it in a browser"}, raw=True)


def _write_page(path: Path, data: str, name: str) -> None:
    _replace_file(path, page_source(name).replace(PLACEHOLDER, data).encode("utf-8"), name)


def _check_model(model: VAE) -> None:
    if type(model) is not VAE:
        raise TypeError(f"model must be a VAE, not {type(model).__name__}")
    for name, kind in (("posterior", DiagonalNormal), ("prior", StandardNormal), ("likelihood", Bernoulli)):
        part = getattr(model, name)
        if type(part) is not kind:  # a subclass may have a density of its own
            raise ValueError(f"the explorer computes only a {kind.__name__} {name}, not a {type(part).__name__}")
    if model.latent_dim != 2:
        raise ValueError(f"the explorer shows a plane, of 2 latent dimensions, and the model has {model.latent_dim}")


def _page_data(model: VAE, images: Tensor, labels: Tensor, snapshots: Sequence) -> dict:
    networks = {name: _pack_network(getattr(model, name), name) for name in ("encoder", "decoder")}
    codes, losses = (part.cpu() for part in _codes_and_losses(model, images))
    if images.shape[1] != 784:
        raise ValueError(f"the explorer shows images of 28 x 28 pixels, and these have {images.shape[1]}")
    if labels.shape != (len(images),) or not 0 <= labels.min() <= labels.max() <= 9:
        raise ValueError(f"labels must have shape ({len(images)},) and be from 0 to 9, not {labels}")
    labels = labels.cpu()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:TEST_DIGITS]
    return networks | {
        **_pack_codes(codes, labels),
        "labels": _pack_bytes(labels),
        "colors": DIGIT_COLORS,
        "images": _pack_bytes(images.cpu()[chosen] * 255),
        "imageLabels": _pack_bytes(labels[chosen]),
        "averageLoss": losses.mean().item(),
        "lossQuantiles": [round(quantile, 2) for quantile in np.percentile(losses, range(101)).tolist()],
        "neighbourCount": NEIGHBOURS,
        "shareAmongOwnKind": _share_among_own_kind(codes.numpy(), labels.numpy()),
        "snapshots": [
            {"epoch": row["epoch"], "validElbo": row["valid_elbo"], **_pack_codes(then.cpu(), labels[: len(then)])}
            for row, then in snapshots
        ],
    }


def _codes_and_losses(model: VAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Means of q(z|x), and minus the ELBO of each image by the page's own rule of 3 x 3 points: (N, 2), (N,)."""
    q = encode_dataset(model, images)
    with eval_mode(model):
        return q.mu, -elbo_by_quadrature(model, images.to(q.mu.device), q, nodes=3)


def _share_among_own_kind(codes: np.ndarray, labels: np.ndarray) -> float:
    """The share of codes whose digit is the commonest one among their nearest neighbours."""
    finder = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(codes) - 1)).fit(codes)
    commonest = [np.bincount(labels[near]).argmax() for near in finder.kneighbors(return_distance=False)]
    return float(np.mean(commonest == labels))


def _pack_network(network: nn.Module, name: str) -> list[dict]:
    kinds = [type(layer) for layer in network] if type(network) is nn.Sequential else []
    if kinds != len(kinds) // 2 * [nn.Linear, nn.SiLU] + [nn.Linear]:
        raise ValueError(f"the {name} must be Linear layers with a SiLU between two of them, as mlp_vae makes it")
    return [{"weight": _pack(layer.weight), "bias": _pack(layer.bias)} for layer in network[::2]]


def _pack_codes(codes: Tensor, labels: Tensor) -> dict:
    """Codes (K, 2), and where each digit's numeral stands among them: [digit, z1, z2]."""
    if codes.shape != (len(labels), 2):
        raise ValueError(f"codes must have shape (K, 2) with K up to the number of images, not {tuple(codes.shape)}")
    packed, places = _pack(codes), _label_positions(codes.numpy(), labels.numpy())
    return {"codes": packed, "numerals": [[digit, *place.tolist()] for digit, place in places.items()]}


def _pack(numbers: Tensor) -> dict:
    """Numbers as 16-bit integers times one scale: with these ranges several times as exact as half precision."""
    numbers = numbers.detach().cpu().double()
    if not numbers.isfinite().all():
        raise ValueError("there are weights or codes that are not finite: train with a smaller learning rate")
    scale = max(numbers.abs().max().item(), 1e-30) / 32767
    return {"scale": scale, "int16": _base64((numbers / scale).round().numpy().astype("<i2"))}


def _pack_bytes(numbers: Tensor) -> str:
    return _base64(numbers.round().numpy().astype(np.uint8))


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
