"""The variational autoencoder of Variational-Autoencoder.ipynb, in the order in which one would explain it:
model, objective, training, evaluation, data, checks, plots.

Letters      B batch, K importance samples, L latent dimensions, N images; H hidden units, C channels.
Images       float tensors of shape (B, 784), every pixel in [0, 1].
Bounds       in nats, one number for each image; `fit` and `evaluate` return means over the images.
Signs        higher is better, except for `loss`.
Randomness   from the `generator` or `seed` that is passed in; without a generator, from PyTorch's global one.

References
[1] D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114
[2] D. J. Rezende et al., Stochastic Backpropagation and Approximate Inference in Deep Generative Models, ICML 2014
[3] Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016, arXiv:1509.00519
[4] I. Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, ICLR 2017
[5] I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv:1711.05101
[6] N. Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures, JMIV 51, 2015
"""

import gzip
import hashlib
import inspect
import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from itertools import pairwise
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
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torchvision import datasets
from torchvision.utils import make_grid
from tqdm.auto import tqdm

IMAGE_SIDE = 28
IMAGE_DIM = IMAGE_SIDE * IMAGE_SIDE  # 784 pixels
GRID_SIDE = 7  # of conv_vae's coarse grid

# ---------------------------------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------------------------------

# With these bounds exp(logvar) cannot overflow, and one outlier cannot dominate the mean KL of thousands: a log
# variance of 4 costs 25 nats per dimension, one of 12 would cost 81,000. The prior's own is 0.
LOGVAR_BOUND = 12.0
LOGVAR_BEND, LOGVAR_CEILING = 1.0, 4.0


def bounded_logvar(raw: Tensor) -> Tensor:
    """Squash any number smoothly into (-12, 4): nearly the identity around 0, and no dead gradient as in a clamp."""
    logvar = LOGVAR_BOUND * torch.tanh(raw / LOGVAR_BOUND)
    room = LOGVAR_CEILING - LOGVAR_BEND
    return torch.where(logvar > LOGVAR_BEND, LOGVAR_BEND + room * torch.tanh((logvar - LOGVAR_BEND) / room), logvar)


def _hidden_layers(widths: Sequence[int]) -> nn.Sequential:
    """A linear layer and a SiLU, x * sigmoid(x), for each step from one width to the next."""
    return nn.Sequential(*(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())))


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
    """An encoder and a decoder that share a latent space, with the prior p(z) = N(0, I) over it ([1], [2]).

    Put in your own: an encoder from (B, 784) to mu and logvar, (B, L) each, that has an attribute `latent_dim`, and a
    decoder from (..., L) to logits (..., 784).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def latent_dim(self) -> int:
        return self.encoder.latent_dim

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw one code for each image, decode: images (B, 784) -> logits (B, 784), mu and logvar (B, L)."""
        mu, logvar = self.encode(x)
        z = reparameterize(mu, logvar, generator=generator)
        return self.decode(z), mu, logvar

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x): images (B, 784) -> two tensors (B, L)."""
        mu, logvar = self.encoder(x)
        return mu.to(x.dtype), logvar.to(x.dtype)  # float32 again where autocast made it bfloat16

    def decode(self, z: Tensor) -> Tensor:
        """Logits of p(x|z): codes (..., L) -> (..., 784). Their sigmoid gives the pixel probabilities."""
        return self.decoder(z).to(z.dtype)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode the mean code of each image: (B, 784) -> pixel probabilities (B, 784)."""
        return torch.sigmoid(self.decode(self.encode(x)[0]))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n new images: codes from the prior, decoded to pixel probabilities (n, 784)."""
        weight = next(self.parameters())
        z = torch.randn(n, self.latent_dim, generator=generator, device=weight.device, dtype=weight.dtype)
        return torch.sigmoid(self.decode(z))


def mlp_vae(latent_dim: int = 2, hidden_dims: Sequence[int] = (256, 256, 256)) -> VAE:
    """The model of the walk-through: fully connected, with the encoder's widths in reverse order in the decoder."""
    return VAE(Encoder(latent_dim, hidden_dims), Decoder(latent_dim, hidden_dims))


def _convolutions(channels: int, depth: int) -> list[nn.Module]:
    """A SiLU, and `depth` times a 3 x 3 convolution that keeps the size of the grid and a SiLU."""
    layers = (layer for _ in range(depth) for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU()))
    return [nn.SiLU(), *layers]


class ConvEncoder(nn.Module):
    """q(z|x) by convolutions on grids of 14 x 14 and 7 x 7, and a dense layer."""

    def __init__(self, latent_dim: int, channels: int, hidden_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, channels // 2, 4, stride=2, padding=1),  # (B, 1, 28, 28) -> (B, C / 2, 14, 14)
            *_convolutions(channels // 2, depth=1),
            nn.Conv2d(channels // 2, channels, 4, stride=2, padding=1),  # -> (B, C, 7, 7)
            *_convolutions(channels, depth=3),
        )
        self.hidden = nn.Sequential(nn.Linear(channels * GRID_SIDE**2, hidden_dim), nn.SiLU())
        self.mu = nn.Linear(hidden_dim, latent_dim)
        self.logvar = nn.Linear(hidden_dim, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.convolutions(x.view(-1, 1, IMAGE_SIDE, IMAGE_SIDE))  # (B, 784) -> (B, C, 7, 7)
        h = self.hidden(grid.permute(0, 2, 3, 1).flatten(1))  # (B, H); channels are last in memory, see conv_vae
        return self.mu(h), bounded_logvar(self.logvar(h))  # (B, L), (B, L)


class ConvDecoder(nn.Module):
    """p(x|z) by two dense layers and the grids in reverse; groups of 4 channels become blocks of 2 x 2 places."""

    def __init__(self, latent_dim: int, channels: int, hidden_dim: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(latent_dim, hidden_dim), nn.SiLU())
        self.grid = nn.Linear(hidden_dim, channels * GRID_SIDE**2)
        self.convolutions = nn.Sequential(
            *_convolutions(channels, depth=3),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.PixelShuffle(2),  # (B, 2 C, 7, 7) -> (B, C / 2, 14, 14)
            *_convolutions(channels // 2, depth=2),
            nn.Conv2d(channels // 2, 4, 3, padding=1),
            nn.PixelShuffle(2),  # (B, 4, 14, 14) -> (B, 1, 28, 28)
        )

    def forward(self, z: Tensor) -> Tensor:
        grid = self.grid(self.hidden(z.reshape(-1, z.shape[-1])))  # (..., L) -> (B, 49 C)
        grid = grid.unflatten(1, (GRID_SIDE, GRID_SIDE, -1)).permute(0, 3, 1, 2)  # (B, C, 7, 7)
        return self.convolutions(grid).reshape(*z.shape[:-1], IMAGE_DIM)  # (..., 784)


def conv_vae(latent_dim: int = 32, *, channels: int = 32, hidden_dim: int = 256) -> VAE:
    """The model of the benchmark: convolutions, but still one Gaussian layer and a Bernoulli decoder."""
    model = VAE(ConvEncoder(latent_dim, channels, hidden_dim), ConvDecoder(latent_dim, channels, hidden_dim))
    return model.to(memory_format=torch.channels_last)  # a step on a CPU is faster so


def available_device() -> torch.device:
    """CUDA or Apple's MPS if a small operation really runs there, else the CPU.

    Kaggle's P100 is an example: `torch.cuda.is_available()` says True, and its PyTorch has no kernels for that card.
    """
    for name, backend in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
        with suppress(RuntimeError):
            if backend.is_available():
                torch.ones(1, device=name).exp().item()
                return torch.device(name)
    return torch.device("cpu")


# ---------------------------------------------------------------------------------------------------------------------
# Objective
# ---------------------------------------------------------------------------------------------------------------------


class Elbo(NamedTuple):
    """Each (B,), in nats. value is the objective: log_likelihood - beta * kl, or the bound of `iwae`."""

    value: Tensor
    log_likelihood: Tensor
    kl: Tensor


def reparameterize(mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """z = mu + sigma * epsilon with epsilon ~ N(0, I): a draw through which gradients flow ([1], section 2.4)."""
    _check_same_shape(mu, logvar)
    epsilon = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
    return mu + torch.exp(0.5 * logvar) * epsilon


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x|z) = sum over pixels of x log p + (1 - x) log(1 - p) with p = sigmoid(logits) ([1], appendix C.1).

    x (B, 784) and logits (..., B, 784) -> (..., B). Computed from the logits, so that no logarithm of 0 can occur.
    For a grey x it is the expectation of log p(x|z) over the images that `binarize` draws, not a log probability.
    """
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mu, diag exp logvar), with all its constants: (..., L) -> (...)."""
    _check_same_shape(mu, logvar)
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu) ** 2 * torch.exp(-logvar)).sum(-1)


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, diag exp logvar) || N(0, I)) = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2) >= 0 ([1], appendix B).

    (B, L) -> (B,). expm1 keeps sigma^2 - 1 accurate where sigma is close to 1.
    """
    _check_same_shape(mu, logvar)
    return 0.5 * (mu**2 + torch.expm1(logvar) - logvar).sum(-1)


def elbo(model: VAE, x: Tensor, *, beta: float = 1.0, generator: torch.Generator | None = None) -> Elbo:
    """One-sample estimate of E_q[log p(x|z)] - beta * KL(q(z|x) || p(z)) <= log p(x) ([1], eq. 10; beta: [4])."""
    logits, mu, logvar = model(x, generator=generator)
    log_likelihood = log_bernoulli(x, logits)
    kl = kl_divergence(mu, logvar)
    return Elbo(log_likelihood - beta * kl, log_likelihood, kl)


def log_prior(z: Tensor) -> Tensor:
    """log p(z) = log N(z; 0, I): (..., L) -> (...)."""
    return log_normal(z, torch.zeros_like(z), torch.zeros_like(z))


def log_importance_weights(
    model: VAE, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x) for K draws z_k ~ q(z|x): (B, 784) -> (K, B) ([3], eq. 8)."""
    mu, logvar = model.encode(x)
    z = reparameterize(mu.expand(num_samples, -1, -1), logvar.expand(num_samples, -1, -1), generator=generator)
    return log_bernoulli(x, model.decode(z)) + log_prior(z) - log_normal(z, mu, logvar)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log (1/K) sum_k w_k: (K, B) -> (B,). In expectation below log p(x), and closer to it as K grows ([3], eq. 8)."""
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def iwae(model: VAE, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Elbo:
    """The importance-weighted bound as an objective, with the two terms of the ELBO beside it ([3], eq. 8).

    value is the bound of K draws, log_likelihood the mean of log p(x|z) over them, and kl is KL(q || p) in closed form.
    With K = 1, value is an estimate of the ELBO, with a sampled KL.
    """
    mu, logvar = model.encode(x)
    z = reparameterize(mu.expand(num_samples, -1, -1), logvar.expand(num_samples, -1, -1), generator=generator)
    log_likelihood = log_bernoulli(x, model.decode(z))  # (K, B)
    log_weights = log_likelihood + log_prior(z) - log_normal(z, mu, logvar)
    return Elbo(importance_weighted_bound(log_weights), log_likelihood.mean(0), kl_divergence(mu, logvar))


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


def train_step(
    model: VAE,
    x: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    beta: float = 1.0,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Elbo:
    """One optimiser step that raises the ELBO of a batch x (B, 784), or `iwae`'s bound if num_samples is 2 or more.

    beta weighs the KL of the ELBO. Returns the bound from before the step, detached. If its mean is not finite,
    raises FloatingPointError and leaves the weights alone.
    """
    if num_samples == 1:
        bound = elbo(model, x, beta=beta, generator=generator)
    else:
        bound = iwae(model, x, num_samples, generator=generator)
    loss = -bound.value.mean()
    if not torch.isfinite(loss):  # the only place where a step waits for the device
        raise FloatingPointError(f"the loss is {loss.item()}, the weights are unchanged: lower the learning rate")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return Elbo(*(term.detach() for term in bound))


def warmup_cosine(step: int, steps: int, warmup: float = 0.02) -> float:
    """The factor on the learning rate: a linear warm-up over a share of the steps, times a half cosine down to 0."""
    return min(1.0, (step + 1) / (warmup * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


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
    callback: Callable[[dict], object] | None = None,
    progress: bool = True,
) -> list[dict]:
    """Maximise the ELBO of `images` (N, 784) with AdamW [5], a warm-up and a cosine decay of the learning rate.

    num_samples   with 2 or more, maximise the importance-weighted bound of that many draws instead: see `iwae`
    binarized     train on a new 0/1 draw of every image in every batch, instead of on its grey levels
    bfloat16      compute the layers in bfloat16: faster on hardware that supports it
    valid_images  held-out images, used as they are, on which `evaluate` runs after every epoch
    checkpoint    a file, written after every epoch; the same call continues from it, to the same weights bit for bit
    callback      called with the new row after every epoch, with the model in evaluation mode

    Returns one row per epoch: epoch, elbo, log_likelihood and kl (nats per image, means over the epoch, with beta = 1
    whatever beta is trained on), and the same with `valid_` in front if there are valid_images. The same seed, model
    and machine give the same history. Layers that draw random numbers of their own, such as dropout, are not seeded.

    Ctrl-C ends the training and returns the finished rows, if there are any; an error carries them as `error.history`.
    Raises FloatingPointError before a loss that is not finite reaches the weights; ValueError if the checkpoint is
    damaged or belongs to another call, and leaves it as it is; OSError if it cannot be written.
    """
    epochs, batch_size = _check_numbers(Integral, 1, epochs=epochs, batch_size=batch_size)
    (num_samples,) = _check_numbers(Integral, 1, num_samples=num_samples)
    (seed,) = _check_numbers(Integral, 0, seed=seed)
    learning_rate, beta = _check_numbers(Real, 0, learning_rate=learning_rate, beta=beta)
    if beta != 1 and num_samples > 1:
        raise ValueError(f"beta must be 1 with num_samples={num_samples}, since it weighs the ELBO's KL, not {beta}")
    _check_images(images, model)
    if valid_images is not None:
        _check_images(valid_images, model, "valid_images")

    device = next(model.parameters()).device
    images = images.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    # The fused kernel makes one pass over the weights. Within a few thousand steps, a memory of 100 steps for the
    # squared gradients reaches a higher ELBO than the usual 1,000.
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), fused=fused)
    history = []
    if checkpoint is not None:
        settings = {"epochs": epochs, "batch_size": batch_size, "num_samples": num_samples, "seed": seed}
        settings |= {"learning_rate": learning_rate, "beta": beta, "binarized": bool(binarized)}
        settings |= {"bfloat16": bool(bfloat16), "device": device.type}
        settings |= {"images": _fingerprint(images), "valid_images": _fingerprint(valid_images)}
        settings |= {name: str(tuple(weight.shape)) for name, weight in model.state_dict().items()}
        history = _load_checkpoint(checkpoint, settings, model, optimizer, generator)

    batches = math.ceil(len(images) / batch_size)
    bar = tqdm(total=epochs * batches, initial=len(history) * batches, unit="batch", disable=not progress)
    model.train()
    try:
        for epoch in range(len(history) + 1, epochs + 1):
            order = torch.randperm(len(images), generator=generator, device=device)
            totals = images.new_zeros(2)  # log likelihood and KL, summed over the images
            for batch, index in enumerate(order.split(batch_size)):
                x = images.index_select(0, index)  # copies whole rows: three times as fast as images[index]
                x = torch.bernoulli(x, generator=generator) if binarized else x
                factor = warmup_cosine((epoch - 1) * batches + batch, epochs * batches)
                optimizer.param_groups[0]["lr"] = learning_rate * factor
                # The backward pass keeps the types of the forward pass, so that it may run in here as well.
                with torch.autocast(device.type, torch.bfloat16, enabled=bool(bfloat16)):
                    bound = train_step(model, x, optimizer, beta=beta, num_samples=num_samples, generator=generator)
                totals += torch.stack([bound.log_likelihood.sum(), bound.kl.sum()])
                bar.update()
            log_likelihood, kl = (totals / len(images)).tolist()
            row = {"epoch": epoch, "elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}
            if valid_images is not None:
                row |= {f"valid_{name}": mean for name, mean in evaluate(model, valid_images, seed=seed).items()}
            history.append(row)
            bar.set_postfix_str(f"epoch {epoch}/{epochs}, ELBO {row['elbo']:.2f}")
            if checkpoint is not None:
                _save_checkpoint(checkpoint, settings, history, model, optimizer, generator)
            if callback is not None:
                with eval_mode(model):
                    callback(dict(row))
    except KeyboardInterrupt:
        if not history:  # there is nothing to return
            raise
    except Exception as error:
        error.history = history
        raise
    finally:
        bar.close()
    return history


def _fingerprint(images: Tensor | None) -> str:
    """What a checkpoint stores in place of the images: enough to notice when it is used with others."""
    if images is None:
        return "nothing"
    checksum = zlib.crc32(images.detach().cpu().contiguous().view(torch.uint8).numpy())
    return f"{images.dtype} {tuple(images.shape)} with checksum {checksum:08x}"


def _save_checkpoint(path, settings, history, model, optimizer, generator) -> None:
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
    buffer = io.BytesIO()
    torch.save({"settings": settings, "history": history, **parts}, buffer)
    data = buffer.getvalue()
    # torch.load does not notice flipped bits, so a checksum follows the data; torch.load ignores it.
    _replace_file(path, data + hashlib.sha256(data).digest(), "checkpoint")


def _load_checkpoint(path, settings, model, optimizer, generator) -> list[dict]:
    """Put everything back as it was when `path` was written, and return the history."""
    if not Path(path).exists():  # write a first one before any work: then an unwritable place shows at once
        _save_checkpoint(path, settings, [], model, optimizer, generator)
        return []
    data = Path(path).read_bytes()
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise ValueError(f"{path} is not a checkpoint of fit, or it is damaged. Name another file to start a new run")
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    saved = content["settings"]
    names = [name for name in {**saved, **settings} if saved.get(name) != settings.get(name)]
    if names:
        pairs = [(name, saved.get(name, "nothing"), settings.get(name, "nothing")) for name in names[:3]]
        changes = "; ".join(f"{name} was {then} and is now {now}" for name, then, now in pairs)
        more = f" (and {len(names) - 3} more)" if len(names) > 3 else ""
        raise ValueError(f"{path} is of another run: {changes}{more}. Name another file to start a new run")
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    generator.set_state(content["generator"])
    return content["history"]


def _replace_file(path: str | Path, data: bytes, kind: str) -> None:
    """Write atomically: `path` holds the old bytes or the new ones, never a part of them."""
    part = Path(f"{path}.part")  # in the same folder, and so on the same disk
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the bytes reach the disk before the name does
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        message = f"the {kind} could not be written ({error.strerror}); an older one is left as it was"
        raise OSError(error.errno, message, str(path)) from error


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule is back in the mode in which it was found."""
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
    (batch_size,) = _check_numbers(Integral, 1, batch_size=batch_size)
    _check_images(images, model)
    device = next(model.parameters()).device
    with eval_mode(model):
        parts = [torch.stack(model.encode(x.to(device))) for x in images.split(batch_size)]  # each (2, B, L)
    mu, logvar = torch.cat(parts, dim=1)
    return mu, logvar


def _log_bernoulli_in_batches(model: VAE, images: Tensor, z: Tensor, batch_size: int) -> Tensor:
    """log p(x|z) of every image (N, 784) at its own code (N, L): (N,)."""
    parts = zip(images.split(batch_size), z.split(batch_size), strict=True)
    with eval_mode(model):
        return torch.cat([log_bernoulli(x.to(z.device), model.decode(codes)) for x, codes in parts])


def evaluate(model: VAE, images: Tensor, *, batch_size: int = 1000, seed: int = 0) -> dict[str, float]:
    """Means over all images of elbo, log_likelihood and kl, in nats per image, with one draw z ~ q(z|x) per image.

    All the noise is drawn at once, so the result does not depend on batch_size. The model's mode is left as it was.
    """
    (batch_size,) = _check_numbers(Integral, 1, batch_size=batch_size)
    (seed,) = _check_numbers(Integral, 0, seed=seed)
    mu, logvar = encode_dataset(model, images, batch_size=batch_size)
    z = reparameterize(mu, logvar, generator=torch.Generator(mu.device).manual_seed(seed))
    log_likelihood = _log_bernoulli_in_batches(model, images, z, batch_size).mean().item()
    kl = kl_divergence(mu, logvar).mean().item()
    return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}


def estimate_log_likelihood(
    model: VAE, images: Tensor, *, num_samples: int, seed: int = 0, batch_size: int = 1000, progress: bool = False
) -> Tensor:
    """The importance-weighted bound on log p(x) of every image with `num_samples` draws: (N, 784) -> (N,) ([3], eq. 8).

    In expectation a lower bound, so minus its mean bounds the negative log likelihood from above. One draw per image is
    held at a time, so memory does not grow with num_samples; the result does not depend on batch_size. For grey images
    it is no log likelihood, as `log_bernoulli` says.
    """
    num_samples, batch_size = _check_numbers(Integral, 1, num_samples=num_samples, batch_size=batch_size)
    (seed,) = _check_numbers(Integral, 0, seed=seed)
    mu, logvar = encode_dataset(model, images, batch_size=batch_size)
    generator = torch.Generator(mu.device).manual_seed(seed)
    log_sum = torch.full((len(images),), -math.inf, dtype=torch.float64)  # in float32, rounding would add up
    for _ in tqdm(range(num_samples), unit="sample", disable=not progress):
        z = reparameterize(mu, logvar, generator=generator)
        log_likelihood = _log_bernoulli_in_batches(model, images, z, batch_size)
        log_weights = log_likelihood + log_prior(z) - log_normal(z, mu, logvar)
        log_sum = torch.logaddexp(log_sum, log_weights.cpu())
    return (log_sum - math.log(num_samples)).to(mu.dtype)


def active_units(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent dimensions are in use: those whose mean code varies over the data by more than `threshold`.

    (N, L) -> bool (L,). A unit that ignores its image sends every mean to the same place ([3], section 5.2).
    """
    return mu.var(dim=0) > threshold


def sliced_wasserstein_to_prior(z: Tensor, *, directions: int = 200, seed: int = 0) -> float:
    """The sliced 2-Wasserstein distance of codes (N, L) from N(0, I), in standard deviations of the prior ([6]).

    Along one direction u, the i-th smallest of the N numbers z @ u is compared with the i-th of N quantiles of N(0, 1);
    the result is the root of the mean square over ranks and random directions. It needs no density, only points.
    """
    generator = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(z.shape[1], directions, generator=generator), dim=0).to(z)
    projected = (z @ u).sort(dim=0).values  # (N, directions)
    ranks = (torch.arange(len(z), device=z.device, dtype=z.dtype) + 0.5) / len(z)
    return (projected - torch.special.ndtri(ranks)[:, None]).square().mean().sqrt().item()


class PosteriorGrid(NamedTuple):
    """p(z|x) as density (N, n, n), z2 by rows and z1 by columns, both at points (n,); log p(x) as log_evidence (N,)."""

    points: Tensor
    density: Tensor
    log_evidence: Tensor


def posterior_on_grid(model: VAE, images: Tensor, *, limit: float = 5.0, n: int = 501) -> PosteriorGrid:
    """The true posterior and log p(x) of images (N, 784) under a model with 2 latent dimensions, by plain summation.

    The integral of p(x|z) p(z) over z becomes a sum over n x n codes in the square from -limit to limit. What lies
    outside is lost (1e-6 of the prior outside 5), and the spacing must be small against the width of the posteriors.
    """
    (n,) = _check_numbers(Integral, 2, n=n)
    (limit,) = _check_numbers(Real, 0, limit=limit)
    _check_images(images, model)
    if model.latent_dim != 2:
        raise ValueError(f"a grid is for 2 latent dimensions, and this model has {model.latent_dim}")
    images = images.to(next(model.parameters()).device)
    points = torch.linspace(-limit, limit, n, device=images.device, dtype=images.dtype)
    z2, z1 = torch.meshgrid(points, points, indexing="ij")
    parts = []
    with eval_mode(model):
        for z in torch.stack([z1, z2], dim=-1).view(-1, 2).split(1000):
            logits = model.decode(z)  # (1000, 784)
            # log_bernoulli of every image at every code: what depends on both is one matrix product
            parts.append(images @ logits.T - F.softplus(logits).sum(-1) + log_prior(z))
    log_joint = torch.cat(parts, dim=1)  # (N, n * n)
    log_evidence = torch.logsumexp(log_joint, dim=1) + 2 * math.log(2 * limit / (n - 1))
    density = log_joint.sub_(log_evidence[:, None]).exp_().view(-1, n, n)  # in place: a fine grid is large
    return PosteriorGrid(points, density, log_evidence)


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
IDX_LIMIT = 1 << 26  # values, of a byte each; MNIST's largest file holds 47 million
CSV_ROWS = {"mnist_train.csv": 60_000, "mnist_test.csv": 10_000}  # the other form in which Kaggle has MNIST's split


class Mnist(NamedTuple):
    """The official split: images are float32 (N, 784) in [0, 1], labels int64 (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_mnist(root: str | Path = "data", *, variant: str = "MNIST", download: bool = True) -> Mnist:
    """Load the 60,000 training and 10,000 test images of `variant` (MNIST, FashionMNIST or KMNIST) into memory.

    The four IDX files, plain or .gz, are looked for in root/variant/raw (torchvision's layout), in root itself, and
    on Kaggle anywhere below /kaggle/input, where mnist_train.csv and mnist_test.csv serve as well; there a path that
    names another variant is passed over. Nothing is written, unless something is missing and `download` is true: then
    torchvision fetches it into root.
    Raises FileNotFoundError if they cannot be found or fetched, ValueError if one is damaged.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    paths = _find_in_root(root, variant) or _find_on_kaggle(variant) or _download(root, variant, download)
    arrays = [array for path in paths for array in (_read_csv(path) if path.suffix == ".csv" else [read_idx(path)])]
    for images, labels in (arrays[:2], arrays[2:]):
        if images.shape != (len(labels), IMAGE_SIDE, IMAGE_SIDE) or labels.shape != (len(images),) or labels.max() > 9:
            raise ValueError(
                f"{', '.join(map(str, paths))} do not belong together: wanted (N, {IMAGE_SIDE}, {IMAGE_SIDE}) images "
                f"and (N,) labels from 0 to 9, and found {images.shape} and {labels.shape} up to {labels.max()}"
            )
    tensors = [torch.from_numpy(array) for array in arrays]
    return Mnist(*(t.flatten(1).float().div_(255) if t.ndim == 3 else t.long() for t in tensors))


def class_names(variant: str = "MNIST") -> tuple[str, ...]:
    """What the labels 0 to 9 stand for: the digits themselves, kinds of clothing, or the sounds of the characters."""
    return tuple("0123456789") if variant == "MNIST" else tuple(getattr(datasets, variant).classes)


def _find_in_root(root: str | Path, variant: str) -> list[Path] | None:
    raw = Path(root, variant, "raw")
    return _complete(sorted(raw.glob("*")), IDX_NAMES) or _complete(sorted(Path(root).glob("*")), IDX_NAMES)


def _complete(paths: Iterable[Path], kinds: Iterable[Sequence[str]]) -> list[Path] | None:
    """For each kind of file the first path that has one of its names; None if a kind is missing."""
    files = [path for path in paths if path.is_file()]
    found = [next((path for path in files if path.name in names), None) for names in kinds]
    return None if None in found else found


def _find_on_kaggle(variant: str) -> list[Path] | None:
    """The IDX files, or else the CSV files, that lie closest together below /kaggle/input; None if there are none.

    Every variant has the same file names, so the rest of the path has to tell which one it is.
    """
    paths = sorted(path for path in KAGGLE_INPUT.rglob("*-ubyte*") if _variant_of(path) == variant)
    tables = sorted(path for path in KAGGLE_INPUT.rglob("mnist_*.csv") if _variant_of(path) == variant)
    for files, kinds in ((paths, IDX_NAMES), (tables, [[name] for name in CSV_ROWS])):
        folders = {folder for path in files for folder in path.parents}
        for folder in sorted(folders, key=lambda folder: (-len(folder.parts), folder)):  # the deepest first
            if found := _complete([path for path in files if path.is_relative_to(folder)], kinds):
                return found
    return None


def _variant_of(path: Path) -> str:
    """The variant that a path below /kaggle/input names; MNIST if it names no other."""
    words = str(path.relative_to(KAGGLE_INPUT)).lower()
    others = {"fashion": "FashionMNIST", "kmnist": "KMNIST", "kuzushiji": "KMNIST"}
    return next((variant for word, variant in others.items() if word in words), "MNIST")


def _download(root: str | Path, variant: str, allowed: bool) -> list[Path]:
    problem = "download=True would fetch them"
    if allowed:
        problem = "the download did not bring them"
        try:
            getattr(datasets, variant)(root, download=True)
        except (OSError, RuntimeError, HTTPException) as error:  # no network, no right to write, a full disk
            problem = f"the download failed ({error})"
        if paths := _find_in_root(root, variant):
            return paths
    message = (
        f"No {variant} here: neither {Path(root, variant, 'raw').absolute()} nor {Path(root).absolute()} holds "
        f"train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, or the "
        f"same with .gz; {problem}. Put the four files there, pass their folder as root, or turn the network on."
    )
    if KAGGLE_INPUT.is_dir():
        message += f" {KAGGLE_INPUT} has no complete {variant} either: add a dataset that holds it (the competition "
        message += "digit-recognizer does not: it has labels for 42,000 images only)."
    raise FileNotFoundError(message)


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped, into an array of the shape that its header states.

    Format: see data/README.md. Raises ValueError, naming the file and the fault, if it is not valid.
    """
    with Path(path).open("rb") as plain:
        file = gzip.GzipFile(fileobj=plain) if plain.peek(2)[:2] == b"\x1f\x8b" else plain
        try:
            zeros, type_code, ndim = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or type_code != 8 or ndim == 0:  # 8: unsigned bytes
                raise ValueError("it does not start like an IDX file of unsigned bytes")
            shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
            expected = math.prod(shape)
            if not 0 < expected <= IDX_LIMIT:
                raise ValueError(f"its header declares {expected:,} values, and the limit is {IDX_LIMIT:,}")
            values = file.read(expected + 1)
            if len(values) != expected:
                found = "more" if len(values) > expected else f"{len(values):,}"
                raise ValueError(f"its header declares {expected:,} values of shape {shape}, and it holds {found}")
            return np.frombuffer(bytearray(values), dtype=np.uint8).reshape(shape)  # writable, as from_numpy wants it
        except (ValueError, EOFError, struct.error, gzip.BadGzipFile, zlib.error) as error:
            fault = "it ends inside its header" if isinstance(error, struct.error) else error
            raise ValueError(f"{path} is not a valid IDX file: {fault}") from error


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,) of a CSV file: a header, then one image a row, its label first."""
    try:
        with path.open("rb") as lines:
            rows = sum(1 for _ in lines) - 1
        if rows != CSV_ROWS[path.name]:
            raise ValueError(f"it should hold {CSV_ROWS[path.name]:,} rows below its header, and holds {rows:,}")
        # As floats first: asked for uint8, NumPy 1.26 would wrap 300 to 44 and cut 1.5 to 1.
        table = np.loadtxt(path, dtype=np.float32, delimiter=",", skiprows=1, comments=None)
        low, high = table.min(), table.max()
        if not (low >= 0 and high <= 255 and (table == table.astype(np.uint8)).all()):
            raise ValueError(f"it should hold whole numbers from 0 to 255, and these run from {low:g} to {high:g}")
        table = table.astype(np.uint8)
        return table[:, 1:].reshape(rows, IMAGE_SIDE, IMAGE_SIDE), table[:, 0]
    except ValueError as error:
        raise ValueError(f"{path} is not a valid CSV file of MNIST: {error}") from error


def binarize(images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw every pixel as 0 or 1, with its grey level as the probability of a 1 ([3], section 5)."""
    _check_images(images)
    return torch.bernoulli(images, generator=generator)


# ---------------------------------------------------------------------------------------------------------------------
# Checks, called where data and settings enter; the maths itself checks only the shapes that broadcasting would hide
# ---------------------------------------------------------------------------------------------------------------------


def _check_images(images: Tensor, model: VAE | None = None, name: str = "images") -> None:
    """Raise unless these are images (N, 784) with pixels in [0, 1] and, where a model is given, of its dtype."""
    if model is not None and not isinstance(model, VAE):
        raise TypeError(f"model must be a VAE, not {type(model).__name__}")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name} must be a tensor of floating-point numbers, not {kind}")
    if model is not None and images.dtype != (dtype := next(model.parameters()).dtype):
        raise TypeError(f"{name} must be of the model's {dtype}, not {images.dtype}: convert them with .to()")
    if images.ndim != 2 or images.shape[1] != IMAGE_DIM or len(images) == 0:
        raise ValueError(f"{name} must have shape (N, {IMAGE_DIM}) with N of 1 or more, not {tuple(images.shape)}")
    low, high = (bound.item() for bound in torch.aminmax(images.detach()))
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise ValueError(f"{name} must hold values from 0 to 1, not from {low:g} to {high:g}: divide bytes by 255")


def _check_labels(points: Tensor, labels: Tensor) -> None:
    """Raise unless these are finite points (N, 2) of a map, with a label from 0 to 9 for each."""
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0 or not points.isfinite().all():
        raise ValueError(f"points must have shape (N, 2) and be finite, not {tuple(points.shape)}: {points}")
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of whole numbers, not {kind}")
    if labels.shape != (len(points),) or labels.min() < 0 or labels.max() > 9:
        found = f"{tuple(labels.shape)} from {labels.min()} to {labels.max()}" if labels.numel() else "none"
        raise ValueError(f"labels must have shape ({len(points)},) and lie from 0 to 9, not {found}")


def _check_numbers(kind: type, least: int, **numbers: float) -> list:
    """The numbers as Python's int or float (NumPy's work as well); raise unless they are `kind` and `least` or more."""
    for name, number in numbers.items():
        if not isinstance(number, kind) or isinstance(number, bool):
            raise TypeError(f"{name} must be a {'whole ' if kind is Integral else ''}number, not {number!r}")
        if not least <= number < math.inf:
            raise ValueError(f"{name} must be {least} or more and finite, not {number}")
    return [int(number) if kind is Integral else float(number) for number in numbers.values()]


def _check_same_shape(mu: Tensor, logvar: Tensor) -> None:
    """Raise unless mu and logvar have one shape: broadcasting would give a wrong number without an error."""
    if mu.shape != logvar.shape:
        raise ValueError(f"mu and logvar must have the same shape, not {tuple(mu.shape)} and {tuple(logvar.shape)}")


# ---------------------------------------------------------------------------------------------------------------------
# Plots, which draw on an optional `ax`, return it and never call plt.show(); and what a notebook displays
# ---------------------------------------------------------------------------------------------------------------------

# After Paul Tol's "muted" scheme for colour-blind readers, its light colours darker: each stands out 3 to 1 from white.
DIGIT_COLORS = (
    "#332288", "#882255", "#1FA08D", "#117733", "#C08A00",
    "#CC6677", "#626A00", "#1C91EA", "#AA4499", "#333333",
)  # fmt: skip
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, for lines

# One style for every figure, to be put into plt.rcParams.
STYLE = {"figure.dpi": 72, "font.size": 11, "axes.titlesize": 11, "legend.frameon": False}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False}

CELL = IMAGE_SIDE + 2  # pixels from one image to the next, with a gap of 2


def _axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=figsize, layout="constrained")[1] if ax is None else ax


def plot_images(images: Tensor, *, columns: int | None = None, ax: Axes | None = None) -> Axes:
    """Images (n, 784) side by side, dark ink on white, `columns` in a row (all in one row if not given)."""
    columns = columns or len(images)
    tiles = images.detach().float().cpu().view(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
    picture = make_grid(tiles, nrow=columns, padding=2)[0].numpy()
    ax = _axes(ax, (0.7 * columns, 0.7 * picture.shape[0] / CELL))
    ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_rows(rows: dict[str, Tensor], *, ax: Axes | None = None) -> Axes:
    """Rows of images, each (n, 784), with the name of each row on its left."""
    if len({len(images) for images in rows.values()}) != 1:
        raise ValueError(f"rows must have as many images each, not {[len(images) for images in rows.values()]}")
    ax = plot_images(torch.cat(list(rows.values())), columns=len(next(iter(rows.values()))), ax=ax)
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([(row + 0.5) * CELL + 0.5 for row in range(len(rows))], list(rows))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_history(history: Sequence[dict], key: str = "elbo", *, ax: Axes | None = None) -> Axes:
    """One quantity of `fit`'s history against the epoch, on training and, where there are any, on held-out images."""
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


def _label_positions(points: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """Where on the map each label is written: at the median of its points (N, 2), but clear of the other labels."""
    digits = np.unique(labels)
    places = np.stack([np.median(points[labels == digit], axis=0) for digit in digits])
    distance = 0.055 * np.ptp(points)
    for _ in range(200):  # push apart whatever is closer than `distance`
        apart = places[:, None] - places  # (n, n, 2)
        length = np.maximum(np.linalg.norm(apart, axis=-1, keepdims=True), 1e-9)
        places += (apart / length * np.clip(distance - length, 0, None) / 2).sum(axis=1)
    return dict(zip(digits.tolist(), places, strict=True))


def plot_codes(points: Tensor, labels: Tensor, *, ax: Axes | None = None) -> Axes:
    """Points (N, 2) in the colours of their labels (N,), with each label's numeral near the middle of its points."""
    _check_labels(points, labels)
    ax = _axes(ax, (7, 7))
    points, labels = points.detach().cpu().numpy(), labels.cpu().numpy()
    ax.scatter(*points.T, s=4, c=np.array(DIGIT_COLORS)[labels], alpha=0.6, linewidths=0, rasterized=True)
    for digit, place in _label_positions(points, labels).items():
        ax.text(*place, str(digit), size=17, weight="bold", ha="center", va="center", path_effects=_OUTLINE)
    ax.set_aspect("equal")
    return ax


def plot_latent_space(mu: Tensor, labels: Tensor, *, ax: Axes | None = None) -> Axes:
    """Mean codes (N, 2), coloured by digit, and the circles that hold 50, 90 and 99 % of the prior."""
    ax = plot_codes(mu, labels, ax=ax)
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
    """Decode n x n codes of equal prior mass, at the inverse normal CDF of (i + 1/2) / n ([1], appendix A)."""
    if model.latent_dim != 2:
        raise ValueError(f"the manifold is drawn for 2 latent dimensions, and this model has {model.latent_dim}")
    steps = torch.special.ndtri((torch.arange(n) + 0.5) / n)
    z2, z1 = torch.meshgrid(steps.flip(0), steps, indexing="ij")  # z2 grows upwards
    with eval_mode(model):
        z = torch.stack([z1, z2], dim=-1).view(-1, 2).to(next(model.parameters()))
        ax = plot_images(torch.sigmoid(model.decode(z)), columns=n, ax=_axes(ax, (8, 8)))
    ticks = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    places = (torch.special.ndtr(ticks) * n * CELL + 0.5).tolist()  # the axes are spaced by the normal CDF
    ax.set_axis_on()
    ax.set_xticks(places, [f"{tick:g}" for tick in ticks])
    ax.set_yticks(places, [f"{tick:g}" for tick in ticks.flip(0)])
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax


def show_source(obj) -> None:
    """Display the source of a function or class of this module, as highlighted Markdown where that is understood."""
    source = inspect.getsource(obj)
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
