"""The variational autoencoder of Variational-Autoencoder.ipynb: data, model, objective, training, evaluation, plots,
and a page to explore the result.

The file reads from top to bottom, in the order in which the notebook uses it.

Letters      B batch, K importance samples, L latent dimensions, N images.
Images       float tensors of shape (B, 784), every pixel in [0, 1].
Bounds       in nats per image, one number per image; whoever calls takes the mean.
Signs        `elbo` and `log_...` are to be maximised, `loss` is to be minimised.
Randomness   from the `generator` or `seed` that is passed in, never from a hidden state.

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
import html
import inspect
import json
import math
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from itertools import cycle, pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display
from matplotlib import patheffects
from matplotlib.axes import Axes
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


class Mnist(NamedTuple):
    """The official split: images are float32 (N, 784) in [0, 1], labels int64 (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


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
    values = bytearray()  # grows with what is there: a header may claim more than the memory of the machine
    while len(values) <= expected and (piece := stream.read(1 << 20)):
        values += piece
    if len(values) != expected or expected == 0:
        found = "more" if len(values) > expected else f"{len(values):,}"
        raise ValueError(f"its header promises {expected:,} values of shape {shape}, and it holds {found}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def load_mnist(root: str | Path = "data", *, variant: str = "MNIST", download: bool = True) -> Mnist:
    """Load the 60,000 training and 10,000 test images of `variant` (MNIST, FashionMNIST or KMNIST) into memory.

    The four IDX files, plain or .gz, are looked for in root/variant/raw (torchvision's layout) and in root itself,
    and read without writing anything. Only if one is missing, and `download` is true, torchvision fetches them.
    Raises FileNotFoundError if they are neither there nor to be had, ValueError if one is damaged.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    paths = _find_idx_files(root, variant)
    if None in paths and download:
        try:
            getattr(datasets, variant)(root, download=True)
        except (OSError, RuntimeError, HTTPException) as error:  # no network, no right to write, a full disk
            raise FileNotFoundError(_missing_message(root, variant, f"the download failed ({error})")) from error
        paths = _find_idx_files(root, variant)
    if None in paths:
        raise FileNotFoundError(_missing_message(root, variant, "download=True would fetch them"))
    arrays = [read_idx(path) for path in paths]
    for images, labels, image_path, label_path in (arrays[:2] + paths[:2], arrays[2:] + paths[2:]):
        if images.shape != (len(labels), IMAGE_SIDE, IMAGE_SIDE) or labels.shape != (len(images),) or labels.max() > 9:
            raise ValueError(
                f"{image_path} {images.shape} and {label_path} {labels.shape} do not belong together: "
                f"wanted (N, {IMAGE_SIDE}, {IMAGE_SIDE}) images and (N,) labels from 0 to 9"
            )
    tensors = [torch.from_numpy(array) for array in arrays]
    scaled = [t.flatten(1).float().div_(255) if t.ndim == 3 else t.long() for t in tensors]
    return Mnist(*scaled)


def _folders(root: str | Path, variant: str) -> list[Path]:
    return [Path(root) / variant / "raw", Path(root)]


def _find_idx_files(root: str | Path, variant: str) -> list[Path | None]:
    """Paths of training images, training labels, test images and test labels; None for each one that is missing."""
    found = []
    for stem, kind in (
        ("train", "images-idx3"),
        ("train", "labels-idx1"),
        ("t10k", "images-idx3"),
        ("t10k", "labels-idx1"),
    ):
        names = [f"{stem}-{k}-ubyte{end}" for k in (kind, kind.replace("-", ".")) for end in (".gz", "")]
        candidates = [folder / name for folder in _folders(root, variant) for name in names]
        found.append(next((path for path in candidates if path.is_file()), None))
    return found


def _missing_message(root: str | Path, variant: str, remedy: str) -> str:
    places = " and ".join(str(folder.absolute()) for folder in _folders(root, variant))
    return (
        f"No {variant} here: looked in {places} for train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        f"t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz; {remedy}. "
        f"Put the four files there, pass the folder that holds them as root, or turn the network on."
    )


def binarize(images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw every pixel as 0 or 1, with its grey level as the probability of a 1 ([3], section 5)."""
    return torch.bernoulli(_check_images(images), generator=generator)


def _check_images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a tensor of floating-point numbers, not {kind}")
    if images.ndim != 2 or images.shape[1] != IMAGE_DIM or len(images) == 0:
        raise ValueError(f"images must have shape (B, {IMAGE_DIM}) with B of 1 or more, not {tuple(images.shape)}")
    low, high = (bound.item() for bound in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise ValueError(f"images must hold values from 0 to 1, and these run from {low:g} to {high:g}")
    return images


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, not {count}")


# ---------------------------------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------------------------------

# The log variance lives in (-12, 12), so standard deviations lie between 0.0025 and 403: wider than any code needs,
# and narrow enough that exp(logvar) and exp(-logvar) never overflow, however wild the weights become.
LOGVAR_BOUND = 12.0


def bounded_logvar(raw: Tensor) -> Tensor:
    """Squash any number smoothly into (-12, 12): near 0 hardly a change, and no dead gradient as in a clamp."""
    return LOGVAR_BOUND * torch.tanh(raw / LOGVAR_BOUND)


def _hidden_layers(widths: Sequence[int]) -> nn.Sequential:
    """A linear layer and a SiLU, x * sigmoid(x), for each step from one width to the next."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """q(z|x) = N(mu(x), diag exp logvar(x)): from an image to the parameters of a Gaussian over codes ([1], eq. 9)."""

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int]):
        super().__init__()
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
    """An encoder and a decoder that share a latent space, with the prior p(z) = N(0, I) over it ([1], [2])."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def latent_dim(self) -> int:
        return self.encoder.latent_dim

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x): images (B, 784) -> two tensors (B, L)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Logits of p(x|z): codes (..., L) -> (..., 784). Their sigmoid is the picture."""
        return self.decoder(z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode to the mean and decode it: images (B, 784) -> pixel probabilities (B, 784)."""
        return torch.sigmoid(self.decode(self.encode(x)[0]))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n new images: z from the prior, decoded to pixel probabilities (n, 784)."""
        weight = next(self.parameters())
        z = torch.randn(n, self.latent_dim, generator=generator, device=weight.device, dtype=weight.dtype)
        return torch.sigmoid(self.decode(z))


def mlp_vae(latent_dim: int = 2, hidden_dims: Sequence[int] = (256, 256, 256)) -> VAE:
    """The model of the walk-through: fully connected, one width a layer, in the decoder in reverse order."""
    return VAE(Encoder(latent_dim, hidden_dims), Decoder(latent_dim, hidden_dims))


def _convolutions(channels: int, depth: int) -> list[nn.Module]:
    """`depth` times a SiLU and a 3 x 3 convolution that keeps the grid as it is."""
    return [layer for _ in range(depth) for layer in (nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))]


class ConvEncoder(nn.Module):
    """q(z|x) from patches: each of the 7 x 7 becomes `channels` numbers, which convolutions mix and a layer reads."""

    def __init__(self, latent_dim: int, channels: int, hidden_dim: int, depth: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.patches = nn.Conv2d(1, channels, kernel_size=PATCH_SIDE, stride=PATCH_SIDE)
        self.convolutions = nn.Sequential(*_convolutions(channels, depth), nn.SiLU(), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(channels * GRID_SIDE**2, hidden_dim), nn.SiLU())
        self.mu = nn.Linear(hidden_dim, latent_dim)
        self.logvar = nn.Linear(hidden_dim, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.patches(x.view(-1, 1, IMAGE_SIDE, IMAGE_SIDE))  # (B, 784) -> (B, C, 7, 7)
        h = self.hidden(self.convolutions(grid))  # (B, H)
        return self.mu(h), bounded_logvar(self.logvar(h))  # (B, L), (B, L)


class ConvDecoder(nn.Module):
    """p(x|z) in patches: the code fills a grid of 7 x 7 places, convolutions mix it, each place becomes a patch."""

    def __init__(self, latent_dim: int, channels: int, hidden_dim: int, depth: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(latent_dim, hidden_dim), nn.SiLU())
        self.grid = nn.Sequential(
            nn.Linear(hidden_dim, channels * GRID_SIDE**2), nn.Unflatten(1, (channels, GRID_SIDE, GRID_SIDE))
        )
        self.convolutions = nn.Sequential(*_convolutions(channels, depth), nn.SiLU())
        self.logits = nn.Conv2d(channels, PATCH_SIDE**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        grid = self.grid(self.hidden(z.reshape(-1, z.shape[-1])))  # (..., L) -> (B, C, 7, 7)
        patches = self.logits(self.convolutions(grid))  # (B, 16, 7, 7)
        return F.pixel_shuffle(patches, PATCH_SIDE).view(*z.shape[:-1], IMAGE_DIM)  # (..., 784)


def conv_vae(latent_dim: int = 32, *, channels: int = 32, hidden_dim: int = 256, depth: int = 2) -> VAE:
    """The model of the benchmark, still with one Gaussian layer of latent variables and a Bernoulli decoder.

    It sees 4 x 4 patches: a grid of 7 x 7 is small enough for a CPU and large enough for the shapes of strokes.
    `depth` is the number of 3 x 3 convolutions in the decoder; the encoder, whose task is easier, has half as many.
    """
    encoder = ConvEncoder(latent_dim, channels, hidden_dim, (depth + 1) // 2)
    return VAE(encoder, ConvDecoder(latent_dim, channels, hidden_dim, depth))


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
    epsilon = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
    return mu + torch.exp(0.5 * logvar) * epsilon


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x|z) = sum over pixels of x log p + (1 - x) log(1 - p) with p = sigmoid(logits) ([1], appendix C.1).

    x (B, 784) and logits (..., B, 784) -> (..., B). Computed from the logits, so that no logarithm of 0 can occur.
    For a grey x it is the expectation of log p over the images that `binarize` draws, not itself a log probability.
    """
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mu, diag exp logvar), with all its constants: (..., L) -> (...)."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu) ** 2 * torch.exp(-logvar)).sum(-1)


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, diag exp logvar) || N(0, I)) = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2) >= 0 ([1], appendix B).

    (B, L) -> (B,). expm1 keeps sigma^2 - 1 exact where sigma is close to 1.
    """
    return 0.5 * (mu**2 + torch.expm1(logvar) - logvar).sum(-1)


def elbo(model: VAE, x: Tensor, *, beta: float = 1.0, generator: torch.Generator | None = None) -> Elbo:
    """One-sample estimate of E_q[log p(x|z)] - beta * KL(q(z|x) || p(z)), for each image ([1], eq. 10; beta: [4])."""
    mu, logvar = model.encode(x)
    z = reparameterize(mu, logvar, generator=generator)
    log_likelihood = log_bernoulli(x, model.decode(z))
    kl = kl_divergence(mu, logvar)
    return Elbo(log_likelihood - beta * kl, log_likelihood, kl)


def log_importance_weights(
    model: VAE, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x) for K draws z_k ~ q(z|x): (B, 784) -> (K, B) ([3], eq. 8)."""
    _check_counts(num_samples=num_samples)
    mu, logvar = model.encode(x)
    z = reparameterize(mu.expand(num_samples, -1, -1), logvar.expand(num_samples, -1, -1), generator=generator)
    return _log_weights(model, x, z, mu, logvar)


def _log_weights(model: VAE, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    log_prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
    return log_bernoulli(x, model.decode(z)) + log_prior - log_normal(z, mu, logvar)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log (1/K) sum_k w_k: (K, B) -> (B,). In expectation below log p(x), and closer to it as K grows ([3], eq. 8)."""
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


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
    binarized: bool = False,
    valid_images: Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[dict]:
    """Maximise the ELBO of `images` (N, 784) with AdamW [5], a short warm-up and a cosine decay of the learning rate.

    binarized     train on a new 0/1 draw of every image in every batch, instead of on its grey levels
    valid_images  held-out images, used as they are, on which `evaluate` runs after every epoch
    Returns one row an epoch: epoch, elbo, log_likelihood and kl (nats per image, running means over the epoch, with
    beta = 1 whatever beta was trained on), and the same with `valid_` in front if there are valid_images.
    The same seed, model and machine give the same history, to the bit. The images are kept on the model's device.
    Raises FloatingPointError, naming epoch and batch, before a loss that is not finite reaches the weights.
    """
    _check_counts(epochs=epochs, batch_size=batch_size)
    device = next(model.parameters()).device
    images = _check_images(images).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    # The fused kernel does the same arithmetic in one pass over the weights; not every device has it.
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=device.type in ("cpu", "cuda"))
    batches = math.ceil(len(images) / batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_cosine(step, epochs * batches))
    history = []
    model.train()
    with tqdm(total=epochs * batches, unit="batch", disable=not progress) as bar:
        for epoch in range(1, epochs + 1):
            totals = torch.zeros(2, device=device)  # log likelihood and KL, summed over the images seen so far
            order = torch.randperm(len(images), generator=generator, device=device)
            for number, chosen in enumerate(order.split(batch_size), start=1):
                x = torch.bernoulli(images[chosen], generator=generator) if binarized else images[chosen]
                try:
                    totals += _training_step(model, x, optimizer, beta, generator)
                except FloatingPointError as error:
                    raise FloatingPointError(
                        f"{error} in epoch {epoch}, batch {number} of {batches}. {_ADVICE}"
                    ) from None
                scheduler.step()
                bar.update()
                if number % 50 == 0 or number == batches:
                    running = (totals[0] - totals[1]).item() / min(number * batch_size, len(images))
                    bar.set_postfix_str(f"epoch {epoch}/{epochs}, ELBO {running:.2f}", refresh=False)
            log_likelihood, kl = (totals / len(images)).tolist()
            row = {"epoch": epoch, "elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}
            if valid_images is not None:
                row |= {f"valid_{key}": value for key, value in evaluate(model, valid_images, seed=seed).items()}
            history.append(row)
    return history


_ADVICE = "The weights are those from before this batch; a smaller learning_rate may help."


def _training_step(
    model: VAE, x: Tensor, optimizer: torch.optim.Optimizer, beta: float, generator: torch.Generator
) -> Tensor:
    """One step up the ELBO of a batch; returns its log likelihood and KL, summed over the images."""
    bound = elbo(model, x, beta=beta, generator=generator)
    loss = -bound.value.mean()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return torch.stack([bound.log_likelihood.detach().sum(), bound.kl.detach().sum()])


def _warmup_cosine(step: int, steps: int, warmup: float = 0.02) -> float:
    """The factor on the learning rate: a straight climb over the first 2 % of the steps, then half a cosine to 0."""
    climb = min(1.0, (step + 1) / (warmup * steps + 1))
    return climb * 0.5 * (1 + math.cos(math.pi * step / steps))


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
    device = next(model.parameters()).device
    with _evaluating(model):
        parts = [model.encode(x.to(device)) for x in _check_images(images).split(batch_size)]
    mu, logvar = zip(*parts, strict=True)
    return torch.cat(mu), torch.cat(logvar)


def evaluate(model: VAE, images: Tensor, *, batch_size: int = 1000, seed: int = 0) -> dict[str, float]:
    """Means over all images of elbo, log_likelihood and kl, in nats per image, with one draw z ~ q(z|x) an image.

    All the noise is drawn at once, so the result does not depend on batch_size. The model's mode is left as it was.
    """
    mu, logvar = encode_dataset(model, images, batch_size=batch_size)
    generator = torch.Generator(mu.device).manual_seed(seed)
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
    mu, logvar = encode_dataset(model, images, batch_size=batch_size)
    generator = torch.Generator(mu.device).manual_seed(seed)
    log_sum = torch.full((len(images),), -math.inf, dtype=torch.float64)
    with _evaluating(model):
        for _ in tqdm(range(num_samples), unit="sample", disable=not progress):
            z = reparameterize(mu, logvar, generator=generator)
            parts = zip(*(t.split(batch_size) for t in (images, z, mu, logvar)), strict=True)
            log_weights = [_log_weights(model, x.to(z.device), *codes).cpu() for x, *codes in parts]
            log_sum = torch.logaddexp(log_sum, torch.cat(log_weights).double())
    return (log_sum - math.log(num_samples)).to(mu.dtype)


def active_units(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent dimensions are in use: those whose mean code varies over the data by more than `threshold`.

    (N, L) -> bool (L,). A unit that ignores its image sends every mean to the same place ([3], section 5.2).
    """
    return mu.var(dim=0) > threshold


# ---------------------------------------------------------------------------------------------------------------------
# Plotting: each takes data and an optional `ax`, draws, and returns the Axes; none calls plt.show()
# ---------------------------------------------------------------------------------------------------------------------

# Paul Tol's "muted" scheme, made for colour-blind readers, with a dark grey as the tenth colour; one for each digit.
DIGIT_COLORS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933",
    "#DDCC77", "#CC6677", "#882255", "#AA4499", "#666666",
)  # fmt: skip


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
    columns = columns or len(images)
    picture = _tile(images, columns)
    ax = _axes(ax, (0.7 * columns, 0.7 * picture.shape[0] / (IMAGE_SIDE + 2)))
    ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_reconstructions(images: Tensor, reconstructions: Tensor, *, ax: Axes | None = None) -> Axes:
    """Originals (n, 784) over their reconstructions (n, 784)."""
    ax = plot_images(torch.cat([images.cpu(), reconstructions.cpu()]), columns=len(images), ax=ax)
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([IMAGE_SIDE / 2, 1.5 * IMAGE_SIDE + 2], ["original", "reconstruction"])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_history(history: Sequence[dict], key: str = "elbo", *, ax: Axes | None = None) -> Axes:
    """One quantity of `fit`'s history against the epoch, on training and, where there are any, on held-out images."""
    ax = _axes(ax, (5, 3.5))
    epochs = [row["epoch"] for row in history]
    ax.plot(epochs, [row[key] for row in history], color="#0072B2", marker=".", label="training images, while learning")
    if f"valid_{key}" in history[0]:
        held_out = [row[f"valid_{key}"] for row in history]
        ax.plot(epochs, held_out, color="#D55E00", marker=".", linestyle="--", label="held-out images, after the epoch")
    ax.set(xlabel="epoch", ylabel="nats per image")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def _spread(points: np.ndarray, distance: float) -> np.ndarray:
    """Push points (n, 2) apart until no two are closer than `distance`, so that their labels stay legible."""
    points = points.copy()
    for _ in range(200):
        apart = points[:, None] - points  # (n, n, 2)
        length = np.linalg.norm(apart, axis=-1, keepdims=True) + np.eye(len(points))[..., None]
        points += (apart / length * np.clip(distance - length, 0, None) / 2).sum(axis=1)
    return points


def _middles(mu: np.ndarray, labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Each digit with the place of its numeral on the map: the median of its codes (N, 2), clear of the others."""
    digits = np.unique(labels)
    medians = np.stack([np.median(mu[labels == digit], axis=0) for digit in digits])
    return list(zip(digits.tolist(), _spread(medians, distance=0.4), strict=True))


def plot_latent_space(mu: Tensor, labels: Tensor, *, ax: Axes | None = None) -> Axes:
    """Mean codes (N, 2), coloured by digit, and the circles that hold 50, 90 and 99 % of the prior."""
    if mu.shape[1] != 2:
        raise ValueError(f"a map of the latent space needs codes of shape (N, 2), not {tuple(mu.shape)}")
    ax = _axes(ax, (7, 7))
    mu, labels = mu.detach().cpu().numpy(), labels.cpu().numpy()
    colors = np.array(DIGIT_COLORS)[labels]
    ax.scatter(*mu.T, s=4, c=colors, alpha=0.6, linewidths=0, rasterized=True)
    outline = [patheffects.withStroke(linewidth=3, foreground="white")]
    for digit, middle in _middles(mu, labels):
        ax.text(*middle, str(digit), size=17, weight="bold", ha="center", va="center", path_effects=outline)
    for mass in (0.5, 0.9, 0.99):  # in two dimensions P(|z| < r) = 1 - exp(-r^2 / 2)
        radius = math.sqrt(-2 * math.log(1 - mass))
        ax.add_patch(plt.Circle((0, 0), radius, fill=False, linewidth=1, linestyle="--", color="black"))
        ax.text(0, -radius, f"{mass:.0%}", size=9, ha="center", va="center", path_effects=outline)
    ax.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    return ax


def plot_manifold(model: VAE, *, n: int = 20, ax: Axes | None = None) -> Axes:
    """n x n codes, spaced evenly in probability under the prior, each decoded where it lies in the plane.

    Row and column i lie at the inverse normal CDF of (i + 1/2) / n: each picture has an equal share of the prior.
    """
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


def show_source(obj) -> None:
    """Display the source of a function or class of this module, as highlighted Markdown where that is understood."""
    source = textwrap.dedent(inspect.getsource(obj))
    display({"text/markdown": f"```python\n{source}```", "text/plain": source}, raw=True)


def show_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Display rows of cells under a header: a Markdown table where that is understood, aligned text elsewhere."""
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
    whole = labels.shape == images.shape[:1] and not labels.is_floating_point()
    if not whole or labels.min() < 0 or labels.max() >= len(DIGIT_COLORS):
        raise ValueError(f"labels must be {len(images)} digits from 0 to 9, one for each image")
    before, after = _read_template(Path(template))
    page = before + json.dumps(_explorer_data(model, images, labels, seed)) + after
    return _write_whole(Path(path), page)


def _check_explorable(model: VAE) -> None:
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
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:EXPLORER_IMAGES]
    return {
        "encoder": [_pack_linear(layer) for layer in model.encoder.hidden[::2]],
        "mu": _pack_linear(model.encoder.mu),
        "logvar": _pack_linear(model.encoder.logvar),
        "logvarBound": LOGVAR_BOUND,
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


def _write_whole(path: Path, text: str) -> Path:
    """Write `text` beside `path` first and rename it, so that no reader ever meets half a file."""
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(f"cannot write {path.absolute()} ({error}): choose another path or free this one") from error
    return path


def show_explorer(path: str | Path, *, height: int = 900) -> None:
    """Display the page at `path` in the notebook, `height` pixels high; it is stored in the notebook's output."""
    page = html.escape(Path(path).read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="Explorer" width="100%" height="{height}"></iframe>'
    display({"text/html": frame, "text/plain": f"{path}: open it in a browser"}, raw=True)
