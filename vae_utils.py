"""The variational autoencoder of Variational-Autoencoder.ipynb: data, model, objective, training, evaluation, plots,
and a page to explore the result.

The file reads from top to bottom, in the order in which the notebook uses it.

Letters      B batch, K importance samples, L latent dimensions, N images.
Images       float tensors of shape (B, 784), every pixel in [0, 1].
Bounds       in nats per image, one number per image; whoever calls takes the mean.
Signs        `elbo` and `log_...` are to be maximised, `loss` is to be minimised.
Randomness   from the `generator` or `seed` that is passed in, never from a hidden state.
Checks       a wrong argument is one TypeError or ValueError that names it. A code, a logit or a weight that is not
             finite comes out as a number that is not finite, and `fit` stops at the first such loss.

References
[1] D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114
[2] D. J. Rezende, S. Mohamed and D. Wierstra, Stochastic Backpropagation and Approximate Inference
    in Deep Generative Models, ICML 2014, arXiv:1401.4082
[3] Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016, arXiv:1509.00519
[4] I. Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, ICLR 2017
[5] I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv:1711.05101
"""

import base64
import gzip
import hashlib
import html
import inspect
import io
import json
import math
import os
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from itertools import cycle, pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torchvision import datasets
from tqdm.auto import tqdm

IMAGE_SIDE = 28
IMAGE_DIM = IMAGE_SIDE * IMAGE_SIDE  # 784 pixels
PATCH_SIDE = 4
GRID_SIDE = IMAGE_SIDE // PATCH_SIDE  # conv_vae sees a grid of 7 x 7 patches

# ---------------------------------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------------------------------

VARIANTS = ("MNIST", "FashionMNIST", "KMNIST")  # torchvision's datasets that share MNIST's files and split
KAGGLE_INPUT = Path("/kaggle/input")  # read-only; how deep in it a dataset lies differs from kernel to kernel

# The four files, and the names that each goes by: .gz or plain, with a hyphen or, as some unpack them, a dot.
IDX_NAMES = tuple(
    tuple(f"{name}-ubyte{end}" for name in (stem, stem.replace("-idx", ".idx")) for end in (".gz", ""))
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
IDX_LIMIT = 1 << 30  # values, of a byte each; MNIST's largest file holds 47 million
CSV_NAMES = (("mnist_train.csv",), ("mnist_test.csv",))  # the other form in which the split is found on Kaggle
CSV_ROWS = {"mnist_train.csv": 60_000, "mnist_test.csv": 10_000}


class Mnist(NamedTuple):
    """The official split: images are float32 (N, 784) in [0, 1], labels int64 (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def class_names(variant: str = "MNIST") -> tuple[str, ...]:
    """What the labels 0 to 9 stand for: the digits themselves, kinds of clothing, or the sounds of the characters."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    return tuple("0123456789") if variant == "MNIST" else tuple(getattr(datasets, variant).classes)


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped, into an array of the shape that its header states.

    The format (yann.lecun.com/exdb/mnist): two zero bytes, a type code (8 = unsigned byte), the number of dimensions,
    each dimension as a big-endian 32-bit integer, then the values.
    Raises ValueError, naming the file and the fault, if it is damaged, truncated, too long or not such a file.
    """
    path = Path(path)
    with path.open("rb") as plain:
        gzipped = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        try:
            return _parse_idx(gzip.GzipFile(fileobj=plain) if gzipped else plain)
        except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a sound IDX file: {error}") from error


def _parse_idx(stream) -> np.ndarray:
    magic = stream.read(4)
    if len(magic) < 4:
        raise ValueError(f"it ends after {len(magic)} bytes, inside the magic number")
    if magic[:2] != b"\0\0":
        raise ValueError(f"its magic number is 0x{magic.hex()}, and an IDX file starts with two zero bytes")
    if magic[2] != 8:
        raise ValueError(f"its values have type code 0x{magic[2]:02x}, and only unsigned bytes (0x08) are read here")
    header = stream.read(4 * magic[3])
    if magic[3] == 0 or len(header) < 4 * magic[3]:
        raise ValueError(f"its header names {magic[3]} dimensions and holds {len(header) // 4} of them")
    shape = tuple(int(size) for size in np.frombuffer(header, dtype=">u4"))
    expected = math.prod(shape)
    if expected > IDX_LIMIT:
        raise ValueError(f"its header promises {expected:,} values, and no more than {IDX_LIMIT:,} are read here")
    values = bytearray()  # grows with what is there: a header may claim more than the memory of the machine
    while len(values) <= expected and (piece := stream.read(1 << 20)):
        values += piece
    if len(values) != expected or expected == 0:
        found = "more" if len(values) > expected else f"{len(values):,}"
        raise ValueError(f"its header promises {expected:,} values of shape {shape}, and it holds {found}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def load_mnist(root: str | Path = "data", *, variant: str = "MNIST", download: bool = True) -> Mnist:
    """Load the 60,000 training and 10,000 test images of `variant` (MNIST, FashionMNIST or KMNIST) into memory.

    The four IDX files, plain or .gz, are looked for in root/variant/raw (torchvision's layout), in root itself, and
    on Kaggle anywhere below /kaggle/input, where mnist_train.csv and mnist_test.csv serve as well; there a path that
    names another variant is passed over. All are read without writing anything. Only if something is missing, and
    `download` is true, torchvision fetches it into root.
    Raises FileNotFoundError if they are neither there nor to be had, ValueError if one is damaged.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    paths = _find_in_root(root, variant) or _find_on_kaggle(variant) or _download(root, variant, download)
    arrays = [array for path in paths for array in _read_arrays(path)]
    for images, labels in (arrays[:2], arrays[2:]):
        if images.shape != (len(labels), IMAGE_SIDE, IMAGE_SIDE) or labels.shape != (len(images),) or labels.max() > 9:
            raise ValueError(
                f"{', '.join(map(str, paths))} do not belong together: wanted (N, {IMAGE_SIDE}, {IMAGE_SIDE}) images "
                f"and (N,) labels from 0 to 9, and found {images.shape} and {labels.shape} up to {labels.max()}"
            )
    tensors = [torch.from_numpy(array) for array in arrays]
    scaled = [t.flatten(1).float().div_(255) if t.ndim == 3 else t.long() for t in tensors]
    return Mnist(*scaled)


def _folders(root: str | Path, variant: str) -> list[Path]:
    return [Path(root) / variant / "raw", Path(root)]


def _find_in_root(root: str | Path, variant: str) -> list[Path] | None:
    """Paths of training images, training labels, test images and test labels; None if one of them is missing."""
    found = []
    for names in IDX_NAMES:
        candidates = [folder / name for folder in _folders(root, variant) for name in names]
        found.append(next((path for path in candidates if path.is_file()), None))
    return None if None in found else found


def _find_on_kaggle(variant: str) -> list[Path] | None:
    """The four IDX files, or the two CSV files, that lie closest together below /kaggle/input; None if there are none.

    Every variant has the same file names, so the rest of the path has to tell which one it is.
    """
    known = {name for names in IDX_NAMES + CSV_NAMES for name in names}
    named = [path for path in KAGGLE_INPUT.rglob("*") if path.name in known and path.is_file()]
    files = sorted(path for path in named if _variant_of(path) == variant)
    folders = {folder for path in files for folder in path.parents}
    for kinds in (IDX_NAMES, CSV_NAMES):
        for folder in sorted(folders, key=lambda folder: (-len(folder.parts), folder)):  # the deepest first
            below = [path for path in files if path.is_relative_to(folder)]
            found = [next((path for path in below if path.name in names), None) for names in kinds]
            if None not in found:
                return found
    return None


def _variant_of(path: Path) -> str:
    """The variant that a path below /kaggle/input speaks of; MNIST if it names no other."""
    words = str(path.relative_to(KAGGLE_INPUT)).lower()
    marks = {"fashion": "FashionMNIST", "kmnist": "KMNIST", "kuzushiji": "KMNIST"}
    return next((variant for mark, variant in marks.items() if mark in words), "MNIST")


def _read_arrays(path: Path) -> list[np.ndarray]:
    """What one file holds: an array of images or of labels if it is an IDX file, both if it is a CSV file."""
    return list(_read_csv(path)) if path.suffix == ".csv" else [read_idx(path)]


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,) of a CSV file: a header, then one image a row, its label first."""
    try:
        with path.open("rb") as lines:
            rows = sum(1 for _ in lines) - 1
        if rows != CSV_ROWS[path.name]:
            raise ValueError(f"it should hold {CSV_ROWS[path.name]:,} rows below its header, and holds {rows:,}")
        # As floats first: asked for uint8, NumPy 1.26 would take 300 for 44, and 1.5 for 1.
        table = np.loadtxt(path, dtype=np.float32, delimiter=",", skiprows=1, comments=None, ndmin=2)
        low, high = table.min(), table.max()
        if not (low >= 0 and high <= 255 and (table == table.astype(np.uint8)).all()):
            raise ValueError(f"it should hold whole numbers from 0 to 255, and these run from {low:g} to {high:g}")
        table = table.astype(np.uint8)
        return table[:, 1:].reshape(rows, IMAGE_SIDE, IMAGE_SIDE), table[:, 0]
    except ValueError as error:
        raise ValueError(f"{path} is not a sound CSV file of MNIST: {error}") from error


def _download(root: str | Path, variant: str, allowed: bool) -> list[Path]:
    if not allowed:
        raise FileNotFoundError(_missing_message(root, variant, "download=True would fetch them"))
    try:
        getattr(datasets, variant)(root, download=True)
    except (OSError, RuntimeError, HTTPException) as error:  # no network, no right to write, a full disk
        raise FileNotFoundError(_missing_message(root, variant, f"the download failed ({error})")) from error
    if (paths := _find_in_root(root, variant)) is None:
        raise FileNotFoundError(_missing_message(root, variant, "the download did not bring them"))
    return paths


def _missing_message(root: str | Path, variant: str, remedy: str) -> str:
    places = ", ".join(str(folder.absolute()) for folder in _folders(root, variant))
    message = (
        f"No {variant} here: looked in {places} for train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        f"t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz; {remedy}. "
        f"Put the four files there, pass the folder that holds them as root, or turn the network on."
    )
    if KAGGLE_INPUT.is_dir():
        message += f" Below {KAGGLE_INPUT} there is no complete {variant} either: add a dataset that holds it."
    if any("digit-recognizer" in str(path) for path in KAGGLE_INPUT.rglob("train.csv")):
        message += (
            " The competition digit-recognizer does not hold it: its train.csv is a part of the images "
            "(42,000 with labels), its test.csv has no labels, and no figure measured on them compares with others."
        )
    return message


def binarize(images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw every pixel as 0 or 1, with its grey level as the probability of a 1 ([3], section 5)."""
    return torch.bernoulli(_check_images(images), generator=generator)


def _check_images(
    images: Tensor, dtype: torch.dtype | None = None, device: torch.device | None = None, slack: float = 0.0
) -> Tensor:
    """The images themselves if they are such; `dtype` and `device` are the model's, where they matter."""
    _check_floats("images", images, dtype, device)
    if images.ndim != 2 or images.shape[1] != IMAGE_DIM or len(images) == 0:
        raise ValueError(f"images must have shape (B, {IMAGE_DIM}) with B of 1 or more, not {tuple(images.shape)}")
    _check_range("images", images, slack)
    return images


def _check_range(name: str, pixels: Tensor, slack: float = 0.0) -> None:
    low, high = (bound.item() for bound in torch.aminmax(pixels.detach()))
    if not (low >= -slack and high <= 1 + slack):  # written so that NaN fails too
        raise ValueError(f"{name} must hold values from 0 to 1, and these run from {low:g} to {high:g}")


def _check_pixels(x: Tensor, logits: Tensor) -> None:
    """Pixels and their logits, with any number of draws in front."""
    for name, tensor in (("x", x), ("logits", logits)):
        _check_floats(name, tensor)
    if x.ndim == 0 or x.numel() == 0 or logits.shape[-x.ndim :] != x.shape:
        shapes = f"{tuple(x.shape)} and {tuple(logits.shape)}"
        raise ValueError(f"x (B, {IMAGE_DIM}) and logits (..., B, {IMAGE_DIM}) must fit, and their shapes are {shapes}")
    _check_range("x", x)


def _check_alike(**tensors: Tensor) -> None:
    """Tensors that belong together number by number: stretched, one would give a wrong sum in silence."""
    for name, tensor in tensors.items():
        _check_floats(name, tensor)
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors.values())
        raise ValueError(f"{' and '.join(tensors)} must have the same shape, and have {shapes}")


def _check_codes(name: str, codes: Tensor, width: int | None = None) -> Tensor:
    """Codes (N, L) that can be looked at and counted: finite, and one or more."""
    _check_floats(name, codes)
    if codes.ndim != 2 or codes.numel() == 0 or codes.shape[1] != (width or codes.shape[1]):
        raise ValueError(f"{name} must have shape (N, {width or 'L'}) with N of 1 or more, not {tuple(codes.shape)}")
    if not torch.isfinite(codes).all():
        raise ValueError(f"{name} must be finite, and holds {(~torch.isfinite(codes)).sum()} values that are not")
    return codes


def _check_floats(
    name: str, tensor: Tensor, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = f"a tensor of {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a tensor of floating-point numbers, not {kind}")
    if dtype not in (None, tensor.dtype):
        raise TypeError(f"{name} must be of the model's {dtype}, not {tensor.dtype}: convert one with .to()")
    if device not in (None, tensor.device):
        raise ValueError(f"{name} must be on the model's device, {device}, not on {tensor.device}: move one with .to()")


def _check_labels(labels: Tensor, count: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = f"a tensor of {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of whole numbers, not {kind}")
    if labels.shape != (count,) or labels.min() < 0 or labels.max() > 9:
        found = f"{tuple(labels.shape)}" + (f" from {labels.min()} to {labels.max()}" if labels.numel() else "")
        raise ValueError(f"labels must have shape ({count},), one for each code, and lie from 0 to 9, not {found}")


def _check_counts(least: int = 1, **counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool):
            raise TypeError(f"{name} must be a whole number, not {count!r}")
        if count < least:
            raise ValueError(f"{name} must be {least} or more, not {count}")


def _check_numbers(**numbers: float) -> None:
    for name, number in numbers.items():
        if not isinstance(number, Real) or isinstance(number, bool):
            raise TypeError(f"{name} must be a number, not {number!r}")
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} must be 0 or more and finite, not {number}")


# ---------------------------------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------------------------------

# The log variance lives in (-12, 4), so standard deviations lie between 0.0025 and 7.4, and neither exp(logvar) nor
# exp(-logvar) overflows, however wild the weights become. Below, that is narrower than any code needs. Above, no code
# needs to be wider than the prior, whose log variance is 0; but an image unlike all others can be sent anywhere, and at
# 12 it alone would cost 81,000 nats a dimension: enough for one among ten thousand to decide their mean, and to throw
# the weights off in training. At 4 it costs 25.
LOGVAR_BOUND = 12.0
LOGVAR_BEND, LOGVAR_CEILING = 1.0, 4.0


def bounded_logvar(raw: Tensor) -> Tensor:
    """Squash any number smoothly into (-12, 4): near 0 hardly a change, and no dead gradient as in a clamp."""
    logvar = LOGVAR_BOUND * torch.tanh(raw / LOGVAR_BOUND)
    room = LOGVAR_CEILING - LOGVAR_BEND
    return torch.where(logvar > LOGVAR_BEND, LOGVAR_BEND + room * torch.tanh((logvar - LOGVAR_BEND) / room), logvar)


def _hidden_layers(widths: Sequence[int]) -> nn.Sequential:
    """A linear layer and a SiLU, x * sigmoid(x), for each step from one width to the next."""
    if len(widths) < 2:
        raise ValueError("hidden_dims must name the width of one layer or more, and it is empty")
    for width in widths:
        _check_counts(**{"latent_dim and every width in hidden_dims": width})
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """q(z|x) = N(mu(x), diag exp logvar(x)): from an image to the parameters of a Gaussian over codes ([1], eq. 9)."""

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int]):
        super().__init__()
        _check_counts(latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.hidden = _hidden_layers((IMAGE_DIM, *hidden_dims))
        self.mu = nn.Linear(hidden_dims[-1], latent_dim)
        self.logvar = nn.Linear(hidden_dims[-1], latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(x)  # (B, 784) -> (B, H)
        return self.mu(h), bounded_logvar(self.logvar(h))  # (B, L), (B, L)


class Decoder(nn.Module):
    """p(x|z) = Bernoulli(sigmoid(logits(z))): from a code to a logit for every pixel ([1], eq. 11)."""

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int]):
        super().__init__()
        self.hidden = _hidden_layers((latent_dim, *reversed(hidden_dims)))
        self.logits = nn.Linear(hidden_dims[0], IMAGE_DIM)

    def forward(self, z: Tensor) -> Tensor:
        return self.logits(self.hidden(z))  # (..., L) -> (..., 784)


class VAE(nn.Module):
    """An encoder and a decoder that share a latent space, with the prior p(z) = N(0, I) over it ([1], [2]).

    What comes out has the dtype of what went in, even where autocast lets the layers between compute in bfloat16.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, architecture: dict | None = None):
        super().__init__()
        for name, module in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(module, nn.Module):
                raise TypeError(f"{name} must be a torch.nn.Module, not {module!r}")
        self.encoder = encoder
        self.decoder = decoder
        self.architecture = architecture  # how `load_vae` makes it again; None if it cannot

    @property
    def latent_dim(self) -> int:
        return self.encoder.latent_dim

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x): images (B, 784) -> two tensors (B, L)."""
        weight = next(self.parameters(), x)
        mu, logvar = self.encoder(_check_images(x, weight.dtype, weight.device))
        return mu.to(x.dtype), logvar.to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Logits of p(x|z): codes (..., L) -> (..., 784). Their sigmoid is the picture."""
        weight = next(self.parameters(), z)
        _check_floats("codes", z, weight.dtype, weight.device)
        if z.ndim == 0 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"codes must have shape (..., {self.latent_dim}), not {tuple(z.shape)}")
        return self.decoder(z).to(z.dtype)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode to the mean and decode it: images (B, 784) -> pixel probabilities (B, 784)."""
        return torch.sigmoid(self.decode(self.encode(x)[0]))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n new images: z from the prior, decoded to pixel probabilities (n, 784)."""
        _check_counts(n=n)
        weight = next(self.parameters())
        z = torch.randn(n, self.latent_dim, generator=generator, device=weight.device, dtype=weight.dtype)
        return torch.sigmoid(self.decode(z))


def mlp_vae(latent_dim: int = 2, hidden_dims: Sequence[int] = (256, 256, 256)) -> VAE:
    """The model of the walk-through: fully connected, one width a layer, in the decoder in reverse order."""
    _check_counts(latent_dim=latent_dim)
    if not isinstance(hidden_dims, Sequence) or isinstance(hidden_dims, str):
        raise TypeError(f"hidden_dims must be a sequence of widths, such as (256, 256), not {hidden_dims!r}")
    encoder, decoder = Encoder(latent_dim, hidden_dims), Decoder(latent_dim, hidden_dims)
    architecture = {
        "kind": "mlp_vae",
        "latent_dim": int(latent_dim),
        "hidden_dims": [int(width) for width in hidden_dims],
    }
    return VAE(encoder, decoder, architecture)


def _check_model(model: VAE) -> Tensor:
    """Its first weight, whose dtype and device are the model's."""
    if not isinstance(model, VAE):
        raise TypeError(f"model must be a VAE, not {type(model).__name__}")
    if (weight := next(model.parameters(), None)) is None:
        raise ValueError("model must have weights, and it has none")
    return weight


def _convolutions(channels: int, depth: int) -> list[nn.Module]:
    """`depth` times a SiLU and a 3 x 3 convolution that keeps the grid as it is."""
    return [layer for _ in range(depth) for layer in (nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))]


class ConvEncoder(nn.Module):
    """q(z|x) from patches: each of the 7 x 7 becomes `channels` numbers, which convolutions mix and a layer reads."""

    def __init__(self, latent_dim: int, channels: int, hidden_dim: int, depth: int):
        super().__init__()
        _check_counts(latent_dim=latent_dim, channels=channels, hidden_dim=hidden_dim, depth=depth)
        self.latent_dim = latent_dim
        self.patches = nn.Conv2d(1, channels, kernel_size=PATCH_SIDE, stride=PATCH_SIDE)
        self.convolutions = nn.Sequential(*_convolutions(channels, depth), nn.SiLU())
        self.hidden = nn.Sequential(nn.Linear(channels * GRID_SIDE**2, hidden_dim), nn.SiLU())
        self.mu = nn.Linear(hidden_dim, latent_dim)
        self.logvar = nn.Linear(hidden_dim, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.patches(x.view(-1, 1, IMAGE_SIDE, IMAGE_SIDE))  # (B, 784) -> (B, C, 7, 7)
        places = self.convolutions(grid).permute(0, 2, 3, 1)  # (B, 7, 7, C): as it lies in memory, see conv_vae
        h = self.hidden(places.flatten(1))  # (B, H)
        return self.mu(h), bounded_logvar(self.logvar(h))  # (B, L), (B, L)


class ConvDecoder(nn.Module):
    """p(x|z) in patches: the code fills a grid of 7 x 7 places, convolutions mix it, each place becomes a patch."""

    def __init__(self, latent_dim: int, channels: int, hidden_dim: int, depth: int):
        super().__init__()
        _check_counts(latent_dim=latent_dim, channels=channels, hidden_dim=hidden_dim, depth=depth)
        self.hidden = nn.Sequential(nn.Linear(latent_dim, hidden_dim), nn.SiLU())
        self.grid = nn.Sequential(
            nn.Linear(hidden_dim, channels * GRID_SIDE**2), nn.Unflatten(1, (GRID_SIDE, GRID_SIDE, channels))
        )
        self.convolutions = nn.Sequential(*_convolutions(channels, depth), nn.SiLU())
        self.logits = nn.Conv2d(channels, PATCH_SIDE**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        places = self.grid(self.hidden(z.reshape(-1, z.shape[-1])))  # (..., L) -> (B, 7, 7, C)
        patches = self.logits(self.convolutions(places.permute(0, 3, 1, 2)))  # (B, 16, 7, 7)
        return F.pixel_shuffle(patches, PATCH_SIDE).reshape(*z.shape[:-1], IMAGE_DIM)  # (..., 784)


def conv_vae(latent_dim: int = 32, *, channels: int = 32, hidden_dim: int = 256, depth: int = 3) -> VAE:
    """The model of the benchmark, still with one Gaussian layer of latent variables and a Bernoulli decoder.

    It sees 4 x 4 patches: a grid of 7 x 7 is small enough for a CPU and large enough for the shapes of strokes.
    `depth` is the number of 3 x 3 convolutions in the decoder; the encoder, whose task is easier, has half as many.
    In memory the channels of a place lie side by side (channels last), which makes a step a seventh faster on a CPU.
    """
    settings = {"latent_dim": latent_dim, "channels": channels, "hidden_dim": hidden_dim, "depth": depth}
    _check_counts(**settings)
    encoder = ConvEncoder(latent_dim, channels, hidden_dim, (depth + 1) // 2)
    architecture = {"kind": "conv_vae", **{name: int(value) for name, value in settings.items()}}
    model = VAE(encoder, ConvDecoder(latent_dim, channels, hidden_dim, depth), architecture)
    return model.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------------------------------
# Objective
# ---------------------------------------------------------------------------------------------------------------------


class Elbo(NamedTuple):
    """value = log_likelihood - beta * kl; each (B,), in nats. With beta = 1, value is a lower bound on log p(x)."""

    value: Tensor
    log_likelihood: Tensor
    kl: Tensor


def reparameterize(mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """z = mu + sigma * epsilon with epsilon ~ N(0, I): a draw through which gradients flow ([1], section 2.4)."""
    _check_alike(mu=mu, logvar=logvar)
    epsilon = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
    return mu + torch.exp(0.5 * logvar) * epsilon


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x|z) = sum over pixels of x log p + (1 - x) log(1 - p) with p = sigmoid(logits) ([1], appendix C.1).

    x (B, 784) and logits (..., B, 784) -> (..., B). Computed from the logits, so that no logarithm of 0 can occur.
    For a grey x it is the expectation of log p over the images that `binarize` draws, not itself a log probability.
    """
    _check_pixels(x, logits)
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mu, diag exp logvar), with all its constants: (..., L) -> (...)."""
    _check_floats("z", z)
    _check_alike(mu=mu, logvar=logvar)
    if z.shape[-1:] != mu.shape[-1:]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (z, mu, logvar))
        raise ValueError(f"z, mu and logvar must agree in their last dimension, and have the shapes {shapes}")
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu) ** 2 * torch.exp(-logvar)).sum(-1)


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, diag exp logvar) || N(0, I)) = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2) >= 0 ([1], appendix B).

    (B, L) -> (B,). expm1 keeps sigma^2 - 1 exact where sigma is close to 1.
    """
    _check_alike(mu=mu, logvar=logvar)
    return 0.5 * (mu**2 + torch.expm1(logvar) - logvar).sum(-1)


def elbo(model: VAE, x: Tensor, *, beta: float = 1.0, generator: torch.Generator | None = None) -> Elbo:
    """One-sample estimate of E_q[log p(x|z)] - beta * KL(q(z|x) || p(z)), for each image ([1], eq. 10; beta: [4])."""
    _check_numbers(beta=beta)
    mu, logvar = model.encode(x)
    z = reparameterize(mu, logvar, generator=generator)
    log_likelihood = log_bernoulli(x, model.decode(z))
    kl = kl_divergence(mu, logvar)
    return Elbo(log_likelihood - beta * kl, log_likelihood, kl)


def log_importance_weights(
    model: VAE, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x) for K draws z_k ~ q(z|x): (B, 784) -> (K, B) ([3], eq. 8)."""
    z, mu, logvar = _draw(model, x, num_samples, generator)
    return _log_weights(log_bernoulli(x, model.decode(z)), z, mu, logvar)


def _draw(model: VAE, x: Tensor, num_samples: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """K draws z ~ q(z|x), (K, B, L), and the mean and log variance of q, (B, L)."""
    _check_counts(num_samples=num_samples)
    mu, logvar = model.encode(x)
    z = reparameterize(mu.expand(num_samples, -1, -1), logvar.expand(num_samples, -1, -1), generator=generator)
    return z, mu, logvar


def _log_weights(log_likelihood: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return log_likelihood + _log_prior(z) - log_normal(z, mu, logvar)


def _log_prior(z: Tensor) -> Tensor:
    return log_normal(z, torch.zeros_like(z), torch.zeros_like(z))


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log (1/K) sum_k w_k: (K, B) -> (B,). In expectation below log p(x), and closer to it as K grows ([3], eq. 8)."""
    _check_floats("log_weights", log_weights)
    if log_weights.ndim == 0 or len(log_weights) == 0:
        raise ValueError(f"log_weights must have shape (K, B) with K of 1 or more, not {tuple(log_weights.shape)}")
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def iwae(model: VAE, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Elbo:
    """The importance-weighted bound as an objective, with the two terms of the ELBO beside it ([3], eq. 8 and 14).

    value is the bound of K draws, to be maximised; log_likelihood is E_q[log p(x|z)], the mean over the K draws, and
    kl is KL(q || p) in closed form. Each (B,). With K = 1 the value is a one-sample estimate of the ELBO.
    """
    z, mu, logvar = _draw(model, x, num_samples, generator)
    log_likelihood = log_bernoulli(x, model.decode(z))  # (K, B)
    log_weights = _log_weights(log_likelihood, z, mu, logvar)
    return Elbo(importance_weighted_bound(log_weights), log_likelihood.mean(0), kl_divergence(mu, logvar))


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


def fit(
    model: VAE,
    images: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    beta: float = 1.0,
    num_samples: int = 1,
    binarized: bool = False,
    bfloat16: bool = False,
    valid_images: Tensor | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> list[dict]:
    """Maximise the ELBO of `images` (N, 784) with AdamW [5], a short warm-up and a cosine decay of the learning rate.

    num_samples   with 2 or more, maximise the importance-weighted bound of so many draws instead: see `iwae`
    binarized     train on a new 0/1 draw of every image in every batch, instead of on its grey levels
    bfloat16      let the layers compute in bfloat16: faster where the processor has instructions for it
    valid_images  held-out images, used as they are, on which `evaluate` runs after every epoch
    checkpoint    a file, written after every epoch and every minute. The same call again goes on from it, however the
                  run was cut short, to the same weights and history, to the bit; a finished run returns at once
    Returns one row an epoch: epoch, elbo, log_likelihood and kl (nats per image, running means over the epoch, with
    beta = 1 whatever beta was trained on), and the same with `valid_` in front if there are valid_images.
    The same seed, model and machine give the same history, to the bit. The images are kept on the model's device.
    Raises FloatingPointError, naming epoch and batch, before a loss that is not finite reaches the weights; ValueError
    if the checkpoint is damaged or belongs to another call, and leaves it as it is; OSError if it cannot be written.
    Whatever stops it leaves a model that can be used: Ctrl-C (or interrupting the kernel) ends the training and returns
    the rows of the finished epochs, if there are any; an error carries them as `error.history`.
    Trains on the one device that holds the model. Layers of your own that draw random numbers, such as dropout, take
    them from torch's own generator, which is neither seeded here nor kept in the checkpoint.
    """
    settings = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "beta": beta, "seed": seed}
    settings |= {"num_samples": num_samples, "binarized": bool(binarized), "bfloat16": bool(bfloat16)}
    settings = _check_settings(settings)
    weight = _check_model(model)
    for given in (images,) if valid_images is None else (images, valid_images):
        _check_images(given, weight.dtype)
    generator = torch.Generator(weight.device).manual_seed(settings["seed"])
    # The fused kernel does the same arithmetic in one pass over the weights; not every device has it. Within a few
    # thousand steps, the usual memory of 1,000 steps for the squared gradients is too long: 100 reach a higher ELBO.
    fused = weight.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.99), fused=fused)
    run = {"step": 0, "history": []}  # where the run stands between two batches; `_batches` adds its order and totals
    keep = None
    if checkpoint is not None:
        marks = _fingerprints(model, images=images, valid_images=valid_images)
        keep = _open_checkpoint(checkpoint, settings | marks, model, optimizer, generator, run)
    try:
        _climb(model, images.to(weight.device), valid_images, settings, optimizer, generator, run, keep, progress)
    except KeyboardInterrupt:
        if not run["history"]:  # nothing to show for it, so the interruption stands
            raise
    except (OSError, FloatingPointError) as stop:
        stop.history = run["history"]
        raise
    return run["history"]


def _check_settings(settings: dict) -> dict:
    """The settings of `fit` as Python's own numbers: NumPy's would not come back from a checkpoint."""
    whole, real = ("epochs", "batch_size", "num_samples"), ("learning_rate", "beta")
    _check_counts(**{name: settings[name] for name in whole})
    _check_counts(0, seed=settings["seed"])
    _check_numbers(**{name: settings[name] for name in real})
    if settings["beta"] != 1 and settings["num_samples"] > 1:
        samples = f"num_samples={settings['num_samples']}"
        raise ValueError(f"beta weighs the KL of the ELBO: with {samples} it must be 1, not {settings['beta']}")
    numbers = {name: int(settings[name]) for name in (*whole, "seed")} | {name: float(settings[name]) for name in real}
    return settings | numbers


def _climb(model, images, valid_images, settings, optimizer, generator, run, keep, progress) -> None:
    """Train from where the run stands to its end, and bring `run` up to date after every batch."""
    epochs, batches = settings["epochs"], math.ceil(len(images) / settings["batch_size"])
    model.train()
    with tqdm(total=epochs * batches, initial=run["step"], unit="batch", disable=not progress) as bar:
        for epoch, number, x in _batches(images, settings, generator, run):
            rate = settings["learning_rate"] * _warmup_cosine(run["step"], epochs * batches)
            try:
                run["totals"] += _training_step(model, x, settings, rate, optimizer, generator)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error} in epoch {epoch}, batch {number} of {batches}. {_ADVICE}") from None
            run["step"] += 1
            bar.update()
            if number % 50 == 0 or number == batches:
                seen = min(number * settings["batch_size"], len(images))
                running = (run["totals"][0] - run["totals"][1]).item() / seen
                bar.set_postfix_str(f"epoch {epoch}/{epochs}, ELBO {running:.2f}", refresh=False)
            if number == batches:
                means = run["totals"] / len(images)
                run["history"].append(_history_row(epoch, means, model, valid_images, settings["seed"]))
            if keep is not None:
                keep(number == batches)


def _batches(
    images: Tensor, settings: dict, generator: torch.Generator, run: dict
) -> Iterator[tuple[int, int, Tensor]]:
    """The batches that a run has before it, each with its epoch and its number in it, both counted from 1."""
    batch_size = settings["batch_size"]
    batches = math.ceil(len(images) / batch_size)
    for step in range(run["step"], settings["epochs"] * batches):
        epoch, number = divmod(step, batches)
        if number == 0:
            run["order"] = torch.randperm(len(images), generator=generator, device=images.device)
            run["totals"] = torch.zeros(2, device=images.device)  # log likelihood and KL, over the images seen so far
        chosen = run["order"][number * batch_size : (number + 1) * batch_size]
        x = images.index_select(0, chosen)  # whole rows at a time: three times as fast as images[chosen]
        yield epoch + 1, number + 1, torch.bernoulli(x, generator=generator) if settings["binarized"] else x


def _history_row(epoch: int, means: Tensor, model: VAE, valid_images: Tensor | None, seed: int) -> dict:
    log_likelihood, kl = means.tolist()
    row = {"epoch": epoch, "elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}
    if valid_images is not None:
        row |= {f"valid_{key}": value for key, value in evaluate(model, valid_images, seed=seed).items()}
    return row


_ADVICE = "The weights are those from before this batch; a smaller learning_rate may help."


def _training_step(
    model: VAE, x: Tensor, settings: dict, rate: float, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> Tensor:
    """One step up the objective of a batch; returns its log likelihood and KL, summed over the images."""
    beta, num_samples = settings["beta"], settings["num_samples"]
    with torch.autocast(x.device.type, torch.bfloat16, enabled=settings["bfloat16"]):
        if num_samples == 1:
            bound = elbo(model, x, beta=beta, generator=generator)
        else:
            bound = iwae(model, x, num_samples, generator=generator)
    loss = -bound.value.mean()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    return torch.stack([bound.log_likelihood.detach().sum(), bound.kl.detach().sum()])


def _warmup_cosine(step: int, steps: int, warmup: float = 0.02) -> float:
    """The factor on the learning rate: a straight climb over the first 2 % of the steps, then half a cosine to 0."""
    climb = min(1.0, (step + 1) / (warmup * steps + 1))
    return climb * 0.5 * (1 + math.cos(math.pi * step / steps))


# ---------------------------------------------------------------------------------------------------------------------
# Files: checkpoints of a run, and trained models
# ---------------------------------------------------------------------------------------------------------------------


def _fingerprints(model: VAE, **images: Tensor | None) -> dict[str, str]:
    """What a checkpoint remembers of the model's architecture, and of images that it does not hold: enough to tell."""
    marks = {"device": next(model.parameters()).device.type}
    for name, tensor in images.items():
        if tensor is not None:
            checksum = zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
            marks[name] = f"{tensor.dtype} {tuple(tensor.shape)}, checksum {checksum:08x}"
    return marks | {name: f"{value.dtype} {tuple(value.shape)}" for name, value in model.state_dict().items()}


CHECKPOINT_SECONDS = 60  # within a long epoch; there is one at the end of every epoch as well


def _open_checkpoint(path, settings, model, optimizer, generator, run) -> Callable[[bool], None]:
    """Go on from `path` if there is such a file. Returns what keeps it up to date, to be called after every batch."""
    save = partial(_save_checkpoint, path, settings, model, optimizer, generator, run)
    if not _load_checkpoint(path, settings, model, optimizer, generator, run):
        save()  # before any work: it shows a place that cannot be written, and keeps the weights of the start
    saved = time.monotonic()

    def keep(epoch_is_over: bool) -> None:
        nonlocal saved
        if epoch_is_over or time.monotonic() - saved > CHECKPOINT_SECONDS:
            save()
            saved = time.monotonic()

    return keep


def _save_checkpoint(path, settings, model, optimizer, generator, run) -> None:
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
    _write_file(path, "checkpoint of fit", {"settings": settings, "run": run, **parts})


def _load_checkpoint(path, settings, model, optimizer, generator, run) -> bool:
    """Put everything back as it was when `path` was written. False, and nothing is done, if there is no such file."""
    if not Path(path).exists():
        return False
    content = _read_file(path, "checkpoint of fit")
    there, here = content["settings"], settings
    different = [name for name in {**there, **here} if there.get(name, "nothing") != here.get(name, "nothing")]
    if different:
        faults = [
            f"{name} was {there.get(name, 'nothing')} and is now {here.get(name, 'nothing')}" for name in different
        ]
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(
            f"{path} is the checkpoint of a run with other settings: {'; '.join(faults[:3])}{more}. "
            "Nothing was changed. Call fit as then to go on with that run, or name another file to start a new one."
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    generator.set_state(content["generator"])
    device = next(model.parameters()).device
    run |= {key: value.to(device) if isinstance(value, Tensor) else value for key, value in content["run"].items()}
    return True


def _write_file(path: str | Path, kind: str, content: dict) -> None:
    """A file of torch.save, with a checksum of 32 bytes behind it that `torch.load` does not mind."""
    buffer = io.BytesIO()
    torch.save({"kind": kind, **content}, buffer)
    data = buffer.getvalue()
    _replace_file(path, kind, data + hashlib.sha256(data).digest())


def _replace_file(path: str | Path, kind: str, data: bytes) -> None:
    """Write `data` so that `path` holds, at every moment, either all of what it held before or all of this."""
    part = Path(f"{path}.part")  # in the same folder, and so on the same disk; a run that is killed may leave it behind
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the values before the name
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"the {kind} could not be written ({error.strerror}): make room or name another place. "
            "What was there before is still there, and the model in memory can be used",
            str(path),
        ) from error


def _read_file(path: str | Path, kind: str) -> dict:
    data = Path(path).read_bytes()
    sound = hashlib.sha256(data[:-32]).digest() == data[-32:]
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True) if sound else {}
    if content.get("kind") != kind:
        fault = f"a {content['kind']}" if sound else "damaged, cut short, or was written by something else"
        raise ValueError(f"{path} is no {kind} that can be read: it is {fault}. Nothing was changed")
    return content


def save_vae(model: VAE, path: str | Path) -> None:
    """Write the architecture and the weights of a model that `mlp_vae` or `conv_vae` made; `load_vae` brings it back.

    Raises OSError if it cannot be written; then a file that was there before is still there.
    """
    _check_model(model)
    with torch.device("meta"):  # shapes alone
        expected = _build(model.architecture).state_dict() if model.architecture else {}
    weights = model.state_dict()
    if {name: value.shape for name, value in weights.items()} != {name: v.shape for name, v in expected.items()}:
        raise TypeError("model must be as mlp_vae or conv_vae made it; of one of your own, keep model.state_dict()")
    _write_file(path, "trained model", {"architecture": model.architecture, "weights": weights})


def load_vae(path: str | Path) -> VAE:
    """The model that `save_vae` wrote, bit for bit, on the CPU. No code in the file is run.

    Raises ValueError if the file is damaged or something else.
    """
    content = _read_file(path, "trained model")
    with torch.device("meta"):  # neither memory nor random numbers for weights that the file replaces
        model = _build(content["architecture"])
    model.load_state_dict(content["weights"], assign=True)
    return model


def _build(architecture: dict) -> VAE:
    settings = dict(architecture)
    return {"mlp_vae": mlp_vae, "conv_vae": conv_vae}[settings.pop("kind")](**settings)


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule is in the mode in which it was found."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def encode_dataset(model: VAE, images: Tensor, *, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """mu and logvar of q(z|x) for every image: (N, 784) -> two tensors (N, L), on the model's device."""
    weight = _check_model(model)
    _check_counts(batch_size=batch_size)
    with _evaluating(model):
        parts = [model.encode(x.to(weight.device)) for x in _check_images(images, weight.dtype).split(batch_size)]
    mu, logvar = zip(*parts, strict=True)
    return torch.cat(mu), torch.cat(logvar)


def evaluate(model: VAE, images: Tensor, *, batch_size: int = 1000, seed: int = 0) -> dict[str, float]:
    """Means over all images of elbo, log_likelihood and kl, in nats per image, with one draw z ~ q(z|x) an image.

    All the noise is drawn at once, so the result does not depend on batch_size. The model's mode is left as it was.
    """
    _check_counts(0, seed=seed)
    mu, logvar = encode_dataset(model, images, batch_size=batch_size)
    generator = torch.Generator(mu.device).manual_seed(int(seed))
    z = reparameterize(mu, logvar, generator=generator)
    with _evaluating(model):
        parts = zip(images.split(batch_size), z.split(batch_size), strict=True)
        log_likelihood = torch.cat([log_bernoulli(x.to(z.device), model.decode(codes)) for x, codes in parts])
    means = {"log_likelihood": log_likelihood.mean().item(), "kl": kl_divergence(mu, logvar).mean().item()}
    return {"elbo": means["log_likelihood"] - means["kl"], **means}


def estimate_log_likelihood(
    model: VAE, images: Tensor, *, num_samples: int, seed: int = 0, batch_size: int = 1000, progress: bool = False
) -> Tensor:
    """The importance-weighted bound on log p(x) of every image with `num_samples` draws: (N, 784) -> (N,) ([3], eq. 8).

    In expectation a lower bound, so minus its mean bounds the negative log likelihood from above. The K draws stream
    through one running sum: memory does not grow with num_samples, and batch_size does not change the result.
    The sum is kept in float64 on the CPU, since thousands of additions in float32 would leave their mark.
    """
    _check_counts(num_samples=num_samples)
    _check_counts(0, seed=seed)
    mu, logvar = encode_dataset(model, images, batch_size=batch_size)
    generator = torch.Generator(mu.device).manual_seed(int(seed))
    log_sum = torch.full((len(images),), -math.inf, dtype=torch.float64)
    with _evaluating(model):
        for _ in tqdm(range(num_samples), unit="sample", disable=not progress):
            z = reparameterize(mu, logvar, generator=generator)
            parts = zip(*(t.split(batch_size) for t in (images, z, mu, logvar)), strict=True)
            log_weights = [
                _log_weights(log_bernoulli(x.to(codes.device), model.decode(codes)), codes, *q).cpu()
                for x, codes, *q in parts
            ]
            log_sum = torch.logaddexp(log_sum, torch.cat(log_weights).double())
    return (log_sum - math.log(num_samples)).to(mu.dtype)


def active_units(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent dimensions are in use: those whose mean code varies over the data by more than `threshold`.

    (N, L) -> bool (L,). A unit that ignores its image sends every mean to the same place ([3], section 5.2).
    """
    _check_numbers(threshold=threshold)
    if len(_check_codes("mu", mu)) < 2:
        raise ValueError("mu must hold the codes of 2 images or more, since one alone does not vary, and it holds 1")
    return mu.var(dim=0) > threshold


def distance_to_prior(z: Tensor, *, directions: int = 200, seed: int = 0) -> float:
    """How far codes (N, L) are from N(0, I): the sliced Wasserstein distance, in standard deviations of the prior.

    Along one direction u, the i-th smallest of the N numbers z @ u is compared with the quantile of N(0, 1) that stands
    there; the result is the root of the mean square over all ranks and over random directions. It needs points alone,
    so it holds for a plain autoencoder too, whose codes have no density.
    Source: Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures, 2015.
    """
    _check_codes("z", z)
    _check_counts(directions=directions)
    _check_counts(0, seed=seed)
    generator = torch.Generator().manual_seed(int(seed))
    u = F.normalize(torch.randn(z.shape[1], directions, generator=generator), dim=0).to(z)
    projected = (z @ u).sort(dim=0).values  # (N, directions)
    ranks = (torch.arange(len(z), device=z.device, dtype=z.dtype) + 0.5) / len(z)
    return (projected - torch.special.ndtri(ranks)[:, None]).square().mean().sqrt().item()


class PosteriorGrid(NamedTuple):
    """p(z|x) on a grid: density (N, n, n), z2 by rows and z1 by columns, both at `points` (n,); log p(x) is (N,)."""

    points: Tensor
    density: Tensor
    log_likelihood: Tensor


def posterior_on_grid(model: VAE, images: Tensor, *, limit: float = 5.0, n: int = 501) -> PosteriorGrid:
    """The true posterior and log p(x) of images (N, 784) under a model with 2 latent dimensions, by plain summation.

    The integral of p(x|z) p(z) over z becomes a sum over n x n codes in the square from -limit to limit. That is exact
    up to what lies outside (6e-7 of the prior beyond 5), as long as the spacing is not wide against the posteriors.
    """
    weight = _check_model(model)
    _check_counts(2, n=n)
    _check_numbers(limit=limit)
    if model.latent_dim != 2:
        raise ValueError(f"a grid is for 2 latent dimensions, and this model has {model.latent_dim}")
    images = _check_images(images).to(weight)
    points = torch.linspace(-limit, limit, n, device=images.device, dtype=images.dtype)
    z2, z1 = torch.meshgrid(points, points, indexing="ij")
    log_joint = images.new_empty(len(images), n * n)
    parts = zip(torch.stack([z1, z2], dim=-1).view(-1, 2).split(1000), log_joint.split(1000, dim=1), strict=True)
    with _evaluating(model):
        for z, part in parts:
            logits = model.decode(z)  # (1000, 784)
            # log_bernoulli of every image at every code: what depends on both is one matrix product
            part.copy_(images @ logits.T - F.softplus(logits).sum(-1) + _log_prior(z))
    log_likelihood = torch.logsumexp(log_joint, dim=1) + 2 * math.log(2 * limit / (n - 1))
    density = log_joint.sub_(log_likelihood[:, None]).exp_().view(-1, n, n)  # in place: a fine grid is large
    return PosteriorGrid(points, density, log_likelihood)


# ---------------------------------------------------------------------------------------------------------------------
# Plotting: each takes data and an optional `ax`, draws, and returns the Axes; none calls plt.show()
# ---------------------------------------------------------------------------------------------------------------------

# Paul Tol's "muted" scheme, made for colour-blind readers, with a dark grey as the tenth colour; one for each digit.
DIGIT_COLORS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933",
    "#DDCC77", "#CC6677", "#882255", "#AA4499", "#666666",
)  # fmt: skip


# One style for every figure, to be put into plt.rcParams; the colours of lines are Okabe and Ito's, safe for all eyes.
STYLE = {
    "figure.dpi": 110,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
BLUE, ORANGE = "#0072B2", "#D55E00"


def _axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=figsize, layout="constrained")[1] if ax is None else ax


def _tile(images: Tensor, columns: int) -> np.ndarray:
    """Images (n, 784) as one picture, row by row, each with a margin of one pixel; what the last row lacks is blank."""
    pictures = images.detach().float().cpu().view(-1, IMAGE_SIDE, IMAGE_SIDE)
    pictures = F.pad(pictures, (1, 1, 1, 1))
    rows = math.ceil(len(pictures) / columns)
    blank = pictures.new_zeros(rows * columns - len(pictures), *pictures.shape[1:])
    grid = torch.cat([pictures, blank]).view(rows, columns, *pictures.shape[1:])
    return grid.transpose(1, 2).reshape(rows * pictures.shape[1], -1).numpy()


def plot_images(images: Tensor, *, columns: int | None = None, ax: Axes | None = None) -> Axes:
    """Images (n, 784) side by side, dark ink on white, `columns` in a row (all in one row if not given)."""
    _check_images(images, slack=1e-6)  # a blend of two pictures may miss 1 by a rounding
    columns = len(images) if columns is None else columns
    _check_counts(columns=columns)
    picture = _tile(images, columns)
    ax = _axes(ax, (0.7 * columns, 0.7 * picture.shape[0] / (IMAGE_SIDE + 2)))
    ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_rows(rows: dict[str, Tensor], *, ax: Axes | None = None) -> Axes:
    """Rows of images, each (n, 784), with the name of each row at its left."""
    if not rows or len({_check_images(images).shape for images in rows.values()}) > 1:
        raise ValueError(f"there must be as many images in each row, not {[len(images) for images in rows.values()]}")
    pictures = [images.detach().cpu() for images in rows.values()]
    ax = plot_images(torch.cat(pictures), columns=len(pictures[0]), ax=ax)
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([(row + 0.5) * (IMAGE_SIDE + 2) - 0.5 for row in range(len(rows))], list(rows))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_reconstructions(images: Tensor, reconstructions: Tensor, *, ax: Axes | None = None) -> Axes:
    """Originals (n, 784) over their reconstructions (n, 784)."""
    return plot_rows({"original": images, "reconstruction": reconstructions}, ax=ax)


def plot_history(history: Sequence[dict], key: str = "elbo", *, ax: Axes | None = None) -> Axes:
    """One quantity of `fit`'s history against the epoch, on training and, where there are any, on held-out images."""
    if not history or not all(key in row for row in history):
        raise ValueError(f"history must be the rows that fit returns, each with {key!r}, not {list(history)[:1]}")
    ax = _axes(ax, (5, 3.5))
    epochs = [row["epoch"] for row in history]
    ax.plot(epochs, [row[key] for row in history], color=BLUE, marker=".", label="training images, while learning")
    if f"valid_{key}" in history[0]:
        held_out = [row[f"valid_{key}"] for row in history]
        ax.plot(epochs, held_out, color=ORANGE, marker=".", linestyle="--", label="held-out images, after the epoch")
    ax.set(xlabel="epoch", ylabel="nats per image")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right", fontsize="small")
    return ax


_OUTLINE = [patheffects.withStroke(linewidth=3, foreground="white")]  # keeps text legible on dots


def _spread(points: np.ndarray, distance: float) -> np.ndarray:
    """Push points (n, 2) apart until no two are closer than `distance`, so that their labels stay legible."""
    points = points.copy()
    for _ in range(200):
        apart = points[:, None] - points  # (n, n, 2)
        length = np.linalg.norm(apart, axis=-1, keepdims=True) + np.eye(len(points))[..., None]
        points += (apart / length * np.clip(distance - length, 0, None) / 2).sum(axis=1)
    return points


def _middles(points: np.ndarray, labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Each digit with the place of its numeral on the map: the median of its points (N, 2), clear of the others."""
    digits = np.unique(labels)
    medians = np.stack([np.median(points[labels == digit], axis=0) for digit in digits])
    return list(zip(digits.tolist(), _spread(medians, distance=0.055 * np.ptp(points)), strict=True))


def plot_codes(points: Tensor, labels: Tensor, *, ax: Axes | None = None) -> Axes:
    """Points (N, 2) in the colours of their labels (N,), with each label's numeral near the middle of its points."""
    _check_labels(labels, len(_check_codes("points", points, 2)))
    ax = _axes(ax, (7, 7))
    points, labels = points.detach().cpu().numpy(), labels.cpu().numpy()
    ax.scatter(*points.T, s=4, c=np.array(DIGIT_COLORS)[labels], alpha=0.6, linewidths=0, rasterized=True)
    for digit, middle in _middles(points, labels):
        ax.text(*middle, str(digit), size=17, weight="bold", ha="center", va="center", path_effects=_OUTLINE)
    ax.set_aspect("equal")
    return ax


def plot_latent_space(mu: Tensor, labels: Tensor, *, ax: Axes | None = None) -> Axes:
    """Mean codes (N, 2), coloured by digit, and the circles that hold 50, 90 and 99 % of the prior."""
    ax = plot_codes(_check_codes("mu", mu, 2), labels, ax=ax)
    circles = {mass: math.sqrt(-2 * math.log(1 - mass)) for mass in (0.5, 0.9, 0.99)}  # P(|z| < r) = 1 - exp(-r^2 / 2)
    for radius in circles.values():
        ax.add_patch(plt.Circle((0, 0), radius, fill=False, linewidth=1, linestyle="--", color="black"))
    ax.autoscale_view()
    for mass, radius in circles.items():
        if radius > 0.06 * np.ptp(ax.get_ylim()):  # the small circles of a large map are too close for numbers
            ax.text(0, -radius, f"{mass:.0%}", size=9, ha="center", va="center", path_effects=_OUTLINE)
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax


def plot_manifold(model: VAE, *, n: int = 20, ax: Axes | None = None) -> Axes:
    """n x n codes, spaced evenly in probability under the prior, each decoded where it lies in the plane.

    Row and column i lie at the inverse normal CDF of (i + 1/2) / n: each picture has an equal share of the prior.
    """
    _check_model(model)
    _check_counts(n=n)
    if model.latent_dim != 2:
        raise ValueError(f"the manifold is drawn for 2 latent dimensions, and this model has {model.latent_dim}")
    device = next(model.parameters()).device
    steps = torch.special.ndtri((torch.arange(n) + 0.5) / n)
    z2, z1 = torch.meshgrid(steps.flip(0), steps, indexing="ij")  # z2 grows upwards
    with _evaluating(model):
        pictures = torch.sigmoid(model.decode(torch.stack([z1, z2], dim=-1).view(-1, 2).to(device)))
    ax = plot_images(pictures, columns=n, ax=_axes(ax, (8, 8)))
    ticks = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    places = torch.special.ndtr(ticks) * n * (IMAGE_SIDE + 2) - 0.5  # the axes are spaced by the normal CDF
    ax.set_axis_on()
    ax.set_xticks(places, [f"{tick:g}" for tick in ticks])
    ax.set_yticks(places, [f"{tick:g}" for tick in ticks.flip(0)])
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax


def plot_posterior(
    grid: PosteriorGrid, index: int, mu: Tensor, logvar: Tensor, *, width: float = 4.0, ax: Axes | None = None
) -> Axes:
    """The true posterior of image `index` of the grid, and over it q(z|x) as ellipses of 1 and 2 standard deviations.

    mu, logvar (2,). The window reaches `width` standard deviations of the wider of the two in each direction.
    """
    _check_counts(0, index=index)
    _check_numbers(width=width)
    _check_alike(mu=mu, logvar=logvar)
    if index >= len(grid.density) or mu.shape != (2,):
        found = f"index {index} and mu and logvar {tuple(mu.shape)}"
        raise ValueError(f"the grid holds {len(grid.density)} images, each with mu and logvar (2,), and not {found}")
    ax = _axes(ax, (4, 4))
    points, density = grid.points.cpu(), grid.density[index].cpu()
    mu, sigma = mu.detach().cpu(), torch.exp(0.5 * logvar).detach().cpu()
    ax.contourf(points, points, density / density.max(), levels=np.linspace(0.02, 1, 12), cmap="Greys")
    for radius, line in ((1, "-"), (2, "--")):
        width_height = (2 * radius * sigma).tolist()
        ax.add_patch(Ellipse(mu.tolist(), *width_height, fill=False, color=ORANGE, linewidth=2, linestyle=line))
    share = density / density.sum()
    marginals = share.sum(0), share.sum(1)  # of z1 and of z2
    middles = [(marginal * points).sum() for marginal in marginals]
    spreads = [(m * (points - c) ** 2).sum().sqrt() for m, c in zip(marginals, middles, strict=True)]
    low, high = torch.minimum(torch.stack(middles), mu), torch.maximum(torch.stack(middles), mu)
    half = float((high - low).max() / 2 + width * torch.stack([*spreads, *sigma]).max())  # the same in both directions
    x, y = ((low + high) / 2).tolist()
    ax.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")
    ax.locator_params(nbins=5)
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax


def plot_rate_distortion(results: Sequence[dict], *, ax: Axes | None = None) -> Axes:
    """One point for each dict with beta, kl (the rate) and log_likelihood (minus the distortion), in nats per image.

    Codes of equal ELBO lie on a falling line; the dashed one goes through the best of the points.
    """
    keys = "beta", "kl", "log_likelihood"
    if not results or not all(key in row for row in results for key in keys):
        raise ValueError(f"results must be one or more dicts with {', '.join(keys)}, not {list(results)[:1]}")
    ax = _axes(ax, (6, 4))
    rates, distortions = ([sign * row[key] for row in results] for sign, key in ((1, "kl"), (-1, "log_likelihood")))
    ax.plot(rates, distortions, color=BLUE, marker="o")
    for row, rate, distortion in zip(results, rates, distortions, strict=True):
        label = rf"$\beta$ = {row['beta']:g}"
        ax.annotate(label, (rate, distortion), xytext=(7, 5), textcoords="offset points")
    best = min(rate + distortion for rate, distortion in zip(rates, distortions, strict=True))
    line = np.linspace(0, max(rates), 2)
    ax.plot(line, best - line, color=ORANGE, linestyle="--", label=f"ELBO = {-best:.1f} nats")
    ax.set(xlabel="rate: KL, nats per image", ylabel="distortion: $-$E[log p(x|z)],\nnats per image")
    ax.set_ylim(min(distortions) - 5, max(distortions) + 8)
    ax.margins(x=0.1)
    ax.legend(loc="upper right")
    return ax


def plot_kl_per_dimension(kl: Tensor, active: Tensor, *, ax: Axes | None = None) -> Axes:
    """The mean KL of each latent dimension (L,) as bars, largest first; `active` (L,) says which units are in use."""
    _check_codes("kl", kl[None] if isinstance(kl, Tensor) else kl)
    if not isinstance(active, Tensor) or active.dtype != torch.bool or active.shape != kl.shape:
        raise ValueError(f"active must be a bool for each of the {len(kl)} dimensions, as active_units gives them")
    ax = _axes(ax, (7, 3))
    order = kl.argsort(descending=True).cpu()
    kl, active = kl.detach().cpu()[order].numpy(), active.cpu()[order].numpy()
    places = np.arange(len(kl))
    for chosen, color, hatch, name in ((active, BLUE, "", "active"), (~active, ORANGE, "///", "not active")):
        label = f"{name}: {int(chosen.sum())} units"
        if chosen.any():
            ax.bar(places[chosen], kl[chosen], color=color, hatch=hatch, edgecolor="white", label=label)
    ax.set(xlabel="latent dimension, sorted", ylabel="KL, nats per image")
    ax.legend()
    return ax


def show_source(obj) -> None:
    """Display the source of a function or class of this module, as highlighted Markdown where that is understood."""
    source = textwrap.dedent(inspect.getsource(obj))
    display({"text/markdown": f"```python\n{source}```", "text/plain": source}, raw=True)


def show_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Display rows of cells under a header: a Markdown table where that is understood, aligned text elsewhere."""
    if any(len(row) != len(header) for row in rows):
        raise ValueError(
            f"every row must have {len(header)} cells, as the header has, not {[len(row) for row in rows]}"
        )
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines.insert(1, ["-" * width for width in widths])
    plain = "\n".join("  ".join(line).rstrip() for line in lines)
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    display({"text/markdown": markdown, "text/plain": plain}, raw=True)


# ---------------------------------------------------------------------------------------------------------------------
# Explorer: a trained model and its map as one HTML page that computes in the reader's browser
# ---------------------------------------------------------------------------------------------------------------------

EXPLORER_IMAGES = 200  # images that the page carries for its button "Random test digit"
EXPLORER_PLACEHOLDER = "/*EXPLORER_DATA*/"


def write_explorer(
    model: VAE,
    images: Tensor,
    labels: Tensor,
    path: str | Path = "explorer/explorer.html",
    *,
    template: str | Path = "explorer/template.html",
    seed: int = 0,
) -> Path:
    """Fill `template` with `model`, the codes of `images` (N, 784) and their `labels` (N,), and write it to `path`.

    The page holds everything that it needs, about 2 MB. The weights are rounded to 16 bits, which moves pixel
    probabilities, mu and logvar by less than 0.01; `seed` chooses the images that it shows on request.
    Folders on the way are made, and an older page is replaced only once the new one is complete.
    Raises ValueError if the model is not an `mlp_vae` with 2 latent dimensions and finite weights, or if images and
    labels do not match; FileNotFoundError if there is no template; OSError if the page cannot be written.
    """
    _check_explorable(model)
    _check_images(images)
    _check_counts(0, seed=seed)
    _check_labels(labels, len(images))
    before, after = _read_template(Path(template))
    page = before + json.dumps(_explorer_data(model, images, labels, seed)) + after
    _replace_file(path, "explorer", page.encode("utf-8"))
    return Path(path)


def _check_explorable(model: VAE) -> None:
    _check_model(model)
    if model.latent_dim != 2:
        raise ValueError(
            f"the explorer shows a plane, so it needs 2 latent dimensions, and this model has {model.latent_dim}"
        )
    parts = model.encoder, model.decoder
    layers = [layer for part in parts for layer in part.hidden] if isinstance(parts[0], Encoder) else [None]
    if not all(map(isinstance, layers, cycle((nn.Linear, nn.SiLU)))) or not isinstance(parts[1], Decoder):
        raise ValueError("the explorer computes Linear and SiLU layers only: pass a model made by mlp_vae")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError("the model holds weights that are not finite: train it again, with a smaller learning rate")


def _read_template(template: Path) -> tuple[str, str]:
    """What stands before and after the placeholder."""
    if not template.is_file():
        raise FileNotFoundError(
            f"no template at {template.absolute()}: pass the path of the repository's explorer/template.html"
        )
    before, *after = template.read_text(encoding="utf-8").split(EXPLORER_PLACEHOLDER)
    if len(after) != 1:
        raise ValueError(f"{template} must hold {EXPLORER_PLACEHOLDER} exactly once, and holds it {len(after)} times")
    return before, after[0]


def _explorer_data(model: VAE, images: Tensor, labels: Tensor, seed: int) -> dict:
    mu = encode_dataset(model, images)[0].cpu()
    labels = labels.cpu()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(int(seed)))[:EXPLORER_IMAGES]
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
        "colors": DIGIT_COLORS,
        "middles": [[digit, *place.tolist()] for digit, place in _middles(mu.numpy(), labels.numpy())],
    }


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


def show_explorer(path: str | Path, *, height: int = 900) -> None:
    """Display the page at `path` in the notebook, `height` pixels high; it is stored in the notebook's output."""
    page = html.escape(Path(path).read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="Explorer" width="100%" height="{height}"></iframe>'
    display({"text/html": frame, "text/plain": f"{path}: open it in a browser"}, raw=True)
