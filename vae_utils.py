"""The variational autoencoder of Variational-Autoencoder.ipynb, in the order in which one would explain it:
model, objective, training, checkpoint, evaluation, data, checks, plots.

Letters     B batch, D pixels of an image, L latent dimensions, K importance samples, N images.
Images      float tensors of shape (B, D), flat, with pixels in the range of the likelihood: [0, 1] for Bernoulli.
Bounds      in nats, one number for each image, and higher is better; `fit` and `evaluate` return means over the images.
Randomness  from the `generator` or `seed` that is passed in; without a generator, from PyTorch's global one.

References
[1] D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114
[2] D. J. Rezende et al., Stochastic Backpropagation and Approximate Inference in Deep Generative Models, ICML 2014
[3] Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016, arXiv:1509.00519
[4] I. Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, ICLR 2017
[5] I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv:1711.05101
[6] L. Dinh, J. Sohl-Dickstein and S. Bengio, Density Estimation Using Real NVP, ICLR 2017, arXiv:1605.08803
[7] K. He et al., Delving Deep into Rectifiers, ICCV 2015, arXiv:1502.01852
[8] G. Roeder, Y. Wu and D. Duvenaud, Sticking the Landing, NeurIPS 2017, arXiv:1703.09194
"""

import gzip
import hashlib
import io
import math
import os
import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from operator import index
from pathlib import Path
from timeit import repeat
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import patheffects
from matplotlib.axes import Axes
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid
from tqdm.auto import tqdm

# ---- Model ----------------------------------------------------------------------------------------------------------


class VAE(nn.Module):
    """A variational autoencoder of five parts, each a module that you may replace ([1], [2]).

    encoder      what is known of x: images (B, D) -> (B, P), the numbers that the posterior wants
    posterior    q(z|x): numbers (..., P) -> a q, P being its `input_dim`; by default `DiagonalNormal`, whose q is a
                 `Normal`. A q has `mean` (..., L), the code that stands for an image, `sample(generator)` -> (..., L)
                 and `log_prob(z)` -> (...); it may have `detach()`, the same q with its own numbers held fixed
    decoder      codes (B, L) -> (B, M), the parameters of p(x|z); M is D for the likelihoods of this module
    prior        p(z): `log_prob(z)`, (..., L) -> (...), and `sample(n, generator)` -> (n, L); N(0, I) by default
    likelihood   p(x|z): `log_prob(x, parameters)` -> (...), and `mean(parameters)` -> (..., D); Bernoulli by default
    """

    def __init__(self, encoder, decoder, latent_dim: int, *, posterior=None, prior=None, likelihood=None):
        super().__init__()
        self.encoder, self.decoder, self.latent_dim = encoder, decoder, latent_dim
        self.posterior = DiagonalNormal(latent_dim) if posterior is None else posterior
        self.prior = StandardNormal(latent_dim) if prior is None else prior
        self.likelihood = Bernoulli() if likelihood is None else likelihood
        _check_parts(self)

    def encode(self, x: Tensor):
        """q(z|x) of images (B, D). By default a `Normal`, so that `mu, logvar = model.encode(x)`, each (B, L)."""
        return self.posterior(self.posterior_numbers(x))

    def posterior_numbers(self, x: Tensor) -> Tensor:
        """What the encoder tells the posterior: images (B, D) -> (B, P)."""
        numbers, wanted = self.encoder(x).to(x.dtype), self.posterior.input_dim  # autocast may have made it bfloat16
        if numbers.shape[-1] != wanted:
            raise ValueError(f"the encoder gives {numbers.shape[-1]} numbers, and the posterior wants {wanted}")
        return numbers

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x|z): codes (..., L) -> (..., M)."""
        return self.decoder(z.reshape(-1, z.shape[-1])).to(z.dtype).view(*z.shape[:-1], -1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z): images (B, D) and codes (..., B, L) -> (..., B)."""
        return self.likelihood.log_prob(x, self.decode(z))

    def log_ratio(self, q, z: Tensor) -> Tensor:
        """log q(z|x) - log p(z), whose mean over draws z from q is the KL: (..., B, L) -> (..., B)."""
        return q.log_prob(z) - self.prior.log_prob(z)

    def kl(self, q, z: Tensor) -> Tensor:
        """KL(q(z|x) || p(z)): exact for a `Normal` and N(0, I), else its estimate `log_ratio` from the draw z.

        If q can `detach`, the encoder's gradient of that estimate flows through z alone, which is as right on average
        and usually less noisy ([8]). The prior's gradient is whole.
        """
        if type(q) is Normal and type(self.prior) is StandardNormal:  # a subclass may have a density of its own
            return kl_divergence(*q)
        return self.log_ratio(q.detach() if hasattr(q, "detach") else q, z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode the mean code of each image to the mean of p(x|z): (B, D) -> (B, D)."""
        return self.likelihood.mean(self.decode(self.encode(x).mean))

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n new images: codes from the prior, decoded to the mean of p(x|z): (n, D)."""
        return self.likelihood.mean(self.decode(self.prior.sample(n, generator)))

    def forward(self, *_):
        raise NotImplementedError("a VAE is not called: use encode, decode, reconstruct, sample or elbo(model, x)")


class Normal(NamedTuple):
    """q(z|x) = N(mu, diag exp logvar), mu and logvar each (..., L)."""

    mu: Tensor
    logvar: Tensor

    @property
    def mean(self) -> Tensor:
        return self.mu

    def sample(self, generator: Generator | None = None) -> Tensor:
        return reparameterize(self.mu, self.logvar, generator=generator)

    def log_prob(self, z: Tensor) -> Tensor:
        return log_normal(z, self.mu, self.logvar)

    def detach(self) -> "Normal":
        return Normal(self.mu.detach(), self.logvar.detach())


class DiagonalNormal(nn.Module):
    """The posterior whose q is a `Normal`: L means beside L raw log variances, from the encoder."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim, self.input_dim = latent_dim, 2 * latent_dim

    def forward(self, numbers: Tensor) -> Normal:
        mu, raw = numbers.chunk(2, dim=-1)
        return Normal(mu, 8 * torch.tanh(raw / 8) - 4)  # smoothly between -12 and 4: no variance overflows


class StandardNormal(nn.Module):
    """The prior p(z) = N(0, I), with nothing to learn."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)  # moves with the model

    def log_prob(self, z: Tensor) -> Tensor:
        return log_normal(z, torch.zeros_like(z), torch.zeros_like(z))

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        return torch.randn(n, self.latent_dim, generator=generator, device=self.zeros.device, dtype=self.zeros.dtype)


class Flow(nn.Module):
    """Affine couplings: a map of codes to noise that can be undone, and its log determinant ([6], section 3).

    A coupling scales and shifts the second half of the code by what a small network makes of the first half, and of a
    context if there is one; its log determinant is the sum of the log scales. Then the halves change places.
    """

    def __init__(self, latent_dim: int, *, context_dim: int = 0, couplings: int = 8, hidden_dim: int = 128):
        super().__init__()
        self.latent_dim = latent_dim
        self.sizes = first, second = latent_dim // 2, latent_dim - latent_dim // 2
        widths = first + context_dim, hidden_dim, hidden_dim, 2 * second
        self.networks = nn.ModuleList(_dense(*widths) for _ in range(couplings))
        for network in self.networks:  # all scales 1 and shifts 0: the flow begins as the identity
            nn.init.zeros_(network[-1].weight)
            nn.init.zeros_(network[-1].bias)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise f(z) and log |det df/dz|: codes (..., B, L), context (B, C) -> (..., B, L) and (..., B)."""
        log_det = 0
        for network in self.networks:
            first, second = z.split(self.sizes, dim=-1)
            log_scale, shift = self._scale_and_shift(network, first, context)
            z = torch.cat([second * torch.exp(log_scale) + shift, first], dim=-1)
            log_det = log_det + log_scale.sum(-1)
        return z, log_det

    def inverse(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """The codes z of which f(z) is this noise: (..., B, L) -> (..., B, L)."""
        z = noise
        for network in reversed(self.networks):
            second, first = z.split(self.sizes[::-1], dim=-1)
            log_scale, shift = self._scale_and_shift(network, first, context)
            z = torch.cat([first, (second - shift) * torch.exp(-log_scale)], dim=-1)
        return z

    def _scale_and_shift(self, network: nn.Module, first: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if context is not None:
            first = torch.cat([first, context.expand(*first.shape[:-1], -1)], dim=-1)
        with torch.autocast(first.device.type, enabled=False):  # a density needs more digits than bfloat16 has
            raw, shift = network(first).chunk(2, dim=-1)
        return 2 * torch.tanh(raw / 2), shift  # scales between exp(-2) and exp(2)


class FlowPrior(Flow):
    """A learned prior: N(0, I) bent by a flow, with an exact density and exact draws. It begins as N(0, I)."""

    def __init__(self, latent_dim: int, *, couplings: int = 8, hidden_dim: int = 128):
        super().__init__(latent_dim, couplings=couplings, hidden_dim=hidden_dim)
        self.base = StandardNormal(latent_dim)

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(f(z); 0, I) + log |det df/dz|: (..., L) -> (...)."""
        noise, log_det = self(z)
        return self.base.log_prob(noise) + log_det

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        return self.inverse(self.base.sample(n, generator))


class Bernoulli(nn.Module):
    """The likelihood of binary pixels, independent given z, with the decoder's logits ([1], appendix C.1).

    log p(x|z) = sum of x log p + (1 - x) log(1 - p) with p = sigmoid(logits), without ever taking the logarithm of 0.
    For a grey x it is the expectation of log p(x|z) over the images that `binarize` draws, not a log probability.
    """

    support = (0.0, 1.0)  # the range of pixels that `fit` and `evaluate` accept
    first_output = -1.9  # where a new decoder begins: the log-odds of 0.13, which is MNIST's mean ink

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        """x (B, D) and logits (..., B, D) -> (..., B)."""
        return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)

    def mean(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)


class Gaussian(nn.Module):
    """The likelihood of real pixels, N(x; means, sigma^2 I): means from the decoder, one sigma, learned or given."""

    def __init__(self, sigma: float | None = None):
        super().__init__()
        log_sigma = 0.0 if sigma is None else math.log(sigma)
        self.log_sigma = nn.Parameter(torch.tensor(log_sigma), requires_grad=sigma is None)

    def log_prob(self, x: Tensor, means: Tensor) -> Tensor:
        """x (B, D) and means (..., B, D) -> (..., B)."""
        return log_normal(x.expand_as(means), means, 2 * self.log_sigma.expand_as(means))

    def mean(self, means: Tensor) -> Tensor:
        return means


def _dense(*widths: int) -> nn.Sequential:
    """A linear layer from each width to the next, with a SiLU, x * sigmoid(x), after each but the last."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


def initialize(network: nn.Module, output: float | Tensor | None = None) -> nn.Module:
    """Draw Kaiming's weights [7], which keep a signal's size through many layers, and biases of 0.

    `output` is the bias of the last layer of a nn.Sequential. Of any other network it is not known: ValueError.
    """
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        elif name.endswith("bias"):
            nn.init.zeros_(weight)
    if output is not None:
        _output_bias(network).copy_(torch.as_tensor(output))
    return network


def _output_bias(network: nn.Module) -> Tensor:
    layer = network
    while isinstance(layer, nn.Sequential):
        layer = next((part for part in reversed(layer) if [*part.parameters()]), nn.Identity())
    if [*layer.children()] or getattr(layer, "bias", None) is None:
        kind = type(network).__name__
        raise ValueError(f"no bias of this {kind} is known as its output's: leave output out, and set it yourself")
    return layer.bias.data


def _vae(encoder: nn.Module, decoder: nn.Module, latent_dim: int, **parts) -> VAE:
    """The VAE of two new networks, the decoder's output as its likelihood wants it at first."""
    model = VAE(initialize(encoder), decoder, latent_dim, **parts)
    initialize(decoder, output=getattr(model.likelihood, "first_output", 0.0))
    return model


def mlp_vae(
    latent_dim: int = 2, hidden_dims: Sequence[int] = (256, 256, 256), *, image_dim=784, posterior=None, **parts
) -> VAE:
    """Fully connected, with the encoder's widths in reverse in the decoder; parts are `VAE`'s prior and likelihood."""
    posterior = posterior or DiagonalNormal(latent_dim)
    encoder = _dense(image_dim, *hidden_dims, posterior.input_dim)
    decoder = _dense(latent_dim, *reversed(hidden_dims), image_dim)
    return _vae(encoder, decoder, latent_dim, posterior=posterior, **parts)


def _convolutions(channels: int, depth: int) -> list[nn.Module]:
    """A SiLU, then `depth` times a 3 x 3 convolution, which keeps the height and width, and another SiLU."""
    layers = (layer for _ in range(depth) for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU()))
    return [nn.SiLU(), *layers]


def conv_vae(
    latent_dim: int = 32, *, channels=32, hidden_dim=256, image_side=28, colors=1, posterior=None, **parts
) -> VAE:
    """Convolutions at a half and a quarter of image_side, a multiple of 4, and dense layers; parts as in `mlp_vae`.

    With 3 colors an image is flat too: (B, 3 * side * side), one colour after the other.
    """
    if image_side % 4:
        raise ValueError(f"image_side must be a multiple of 4, not {image_side}")
    side, half, posterior = image_side // 4, channels // 2, posterior or DiagonalNormal(latent_dim)
    encoder = nn.Sequential(
        nn.Unflatten(1, (colors, image_side, image_side)),
        nn.Conv2d(colors, half, 4, stride=2, padding=1),  # -> (B, half, 14, 14), for 28 x 28 pixels
        nn.SiLU(),
        nn.Conv2d(half, channels, 4, stride=2, padding=1),  # -> (B, channels, 7, 7)
        *_convolutions(channels, depth=2),
        nn.Flatten(),
        *_dense(channels * side**2, hidden_dim, posterior.input_dim),
    )
    decoder = nn.Sequential(
        *_dense(latent_dim, hidden_dim, channels * side**2),
        nn.Unflatten(1, (channels, side, side)),
        *_convolutions(channels, depth=1),
        nn.Conv2d(channels, 4 * channels, 3, padding=1),
        nn.PixelShuffle(2),  # groups of 4 channels become blocks of 2 x 2 places: -> (B, channels, 14, 14)
        *_convolutions(channels, depth=2),
        nn.Conv2d(channels, 4 * colors, 3, padding=1),
        nn.PixelShuffle(2),  # -> (B, colors, 28, 28)
        nn.Flatten(),
    )
    model = _vae(encoder, decoder, latent_dim, posterior=posterior, **parts)
    return model.to(memory_format=torch.channels_last)  # faster on a CPU


# ---- Objective ------------------------------------------------------------------------------------------------------


class Bound(NamedTuple):
    """What an objective returns, each (B,), in nats: value is maximised, and its two terms are reported."""

    value: Tensor
    log_likelihood: Tensor
    kl: Tensor


def reparameterize(mu: Tensor, logvar: Tensor, *, generator: Generator | None = None) -> Tensor:
    """z = mu + sigma * epsilon with epsilon ~ N(0, I): a draw through which gradients flow ([1], section 2.4)."""
    _check_same_shape(mu, logvar)
    epsilon = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
    return mu + torch.exp(0.5 * logvar) * epsilon


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mu, diag exp logvar), with all its constants: (..., L) -> (...)."""
    _check_same_shape(mu, logvar)
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu) ** 2 * torch.exp(-logvar)).sum(-1)


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, diag exp logvar) || N(0, I)) = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2) >= 0 ([1], appendix B).

    (..., L) -> (...). expm1 keeps sigma^2 - 1 accurate where sigma is close to 1.
    """
    _check_same_shape(mu, logvar)
    return 0.5 * (mu**2 + torch.expm1(logvar) - logvar).sum(-1)


def elbo(model: VAE, x: Tensor, *, beta: float = 1.0, generator: Generator | None = None) -> Bound:
    """One-sample estimate of E_q[log p(x|z)] - beta * KL(q(z|x) || p(z)) ([1], eq. 10; beta: [4]).

    On average it is at most log p(x) if beta is 1 or more.
    """
    q = model.encode(x)
    z = q.sample(generator)
    log_likelihood, kl = model.log_likelihood(x, z), model.kl(q, z)
    return Bound(log_likelihood - beta * kl, log_likelihood, kl)


def iwae(model: VAE, x: Tensor, *, num_samples: int, generator: Generator | None = None) -> Bound:
    """The importance-weighted bound log (1/K) sum_k w_k with w_k = p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q ([3], eq. 8).

    On average at most log p(x), and closer to it as K grows; with K = 1 it is the ELBO, its KL sampled. Beside it stand
    the means over the draws of log p(x|z) and of log q - log p.
    """
    numbers = model.posterior_numbers(x).expand(_count("num_samples", num_samples), -1, -1)
    q = model.posterior(numbers)
    z = q.sample(generator)  # (K, B, L)
    log_likelihood, kl = model.log_likelihood(x, z), model.log_ratio(q, z)  # each (K, B)
    value = torch.logsumexp(log_likelihood - kl, dim=0) - math.log(num_samples)
    return Bound(value, log_likelihood.mean(0), kl.mean(0))


# ---- Training -------------------------------------------------------------------------------------------------------


def available_device() -> torch.device:
    """CUDA or Apple's MPS if a small operation really runs there, as it does not on Kaggle's P100, else the CPU."""
    for name, backend in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
        with suppress(RuntimeError):
            if backend.is_available():
                torch.ones(1, device=name).exp().item()
                return torch.device(name)
    return torch.device("cpu")


def bfloat16_is_faster(device: torch.device | str) -> bool:
    """Whether a matrix product in bfloat16 takes less than 0.8 of its time in float32: a trial of milliseconds."""

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(512, 512, device=device, dtype=dtype)
        return min(repeat(lambda: (a @ a)[0, 0].item(), number=1, repeat=6))  # .item() waits for the device

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def make_optimizer(model: nn.Module, **settings) -> torch.optim.AdamW:
    """AdamW [5] with a memory of 100 squared gradients: 0.99 learns faster in a few thousand steps than 0.999."""
    fused = _device(model).type in ("cpu", "cuda")
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), fused=fused, **settings)


def warmup_cosine(step: int, steps: int, warmup: float = 0.02) -> float:
    """The factor on the learning rate: a linear warm-up over a share of the steps, times a half cosine down to 0."""
    return min(1.0, (step + 1) / (warmup * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train_step(model: VAE, x: Tensor, objective, optimizer, generator: Generator, *, check: bool = True) -> Bound:
    """One step of the optimizer to a higher mean objective of the images (B, D): the Bound from before the step.

    `check` waits for the device and raises FloatingPointError for a loss that is not finite, before any weight changes.
    """
    bound = _check_bound(objective(model, x, generator=generator), len(x))
    loss = -bound.value.mean()
    if check and not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()}, the weights unchanged: lower learning_rate")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    torch.clear_autocast_cache()  # an autocast around the loop would go on with copies of the old weights
    return bound


def _batches(images: Tensor, batch_size: int, binarized: bool, generator: Generator) -> Iterator[Tensor]:
    """The images of one epoch, in random order."""
    order = torch.randperm(len(images), generator=generator, device=images.device)
    for chosen in order.split(batch_size):
        x = images.index_select(0, chosen)  # copies whole rows: three times as fast as images[chosen]
        yield binarize(x, generator=generator) if binarized else x


@contextmanager
def _history_in_errors(history: list[dict], epochs: int) -> Iterator[None]:
    """Give every error, and Ctrl-C, the finished rows as its attribute `history`."""
    try:
        yield
    except KeyboardInterrupt:
        done = f"stopped after {len(history)} of {epochs} epochs; the model keeps what it has learnt"
        stopped = KeyboardInterrupt(done)
        stopped.history = history
        raise stopped from None  # without the frames of whatever was interrupted
    except Exception as error:
        error.history = history
        raise


def fit(
    model: VAE,
    images: Tensor,
    *,
    epochs: int,
    objective: Callable[..., Bound] = elbo,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    binarized: bool = False,
    valid_images: Tensor | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    callback: Callable[[dict], object] | None = None,
    progress: bool = True,
) -> list[dict]:
    """Maximise an objective over `images` (N, D) with AdamW [5], a warm-up and a cosine decay of the learning rate.

    objective     a function (model, x, *, generator) -> Bound: `elbo`, `partial(elbo, beta=4.0)`, or your own
    binarized     train on a new 0/1 draw of every image in every batch, instead of on its grey levels
    valid_images  held-out images, as they are, for `evaluate` with this objective and batch_size after every epoch
    checkpoint    a file, written after every epoch; the same call continues from it, to the same weights bit for bit
    callback      called with the new row after every epoch, with the model in evaluation mode

    Returns a row for each epoch, of means over its images in nats: epoch, log_likelihood, kl and elbo, their difference
    whatever the objective is; with valid_images also valid_log_likelihood and so on. Every error, and Ctrl-C, has the
    finished rows as its attribute `history`. In torch.autocast the layers compute in bfloat16 (`bfloat16_is_faster`).
    Raises FloatingPointError as `train_step` does, ValueError for a checkpoint that is damaged or of another call.
    """
    epochs, batch_size = _count("epochs", epochs), _count("batch_size", batch_size)
    if not 0 < learning_rate < math.inf:  # NaN fails too
        raise ValueError(f"learning_rate must be positive and finite, not {learning_rate}")
    _check_images(images, model, training=True)
    if valid_images is not None:
        _check_images(valid_images, model, "valid_images", training=True)
    call = {"epochs": epochs, "batch_size": batch_size, "objective": objective, "learning_rate": learning_rate}
    call |= {"binarized": bool(binarized), "seed": seed, "images": images, "valid_images": valid_images}
    images, generator = images.to(_device(model)), Generator(_device(model)).manual_seed(seed)
    optimizer, batches = make_optimizer(model), math.ceil(len(images) / batch_size)
    saved = None if checkpoint is None else Checkpoint(checkpoint, call, model, optimizer, generator)
    history = saved.load() if saved else []
    bar = tqdm(total=epochs * batches, initial=len(history) * batches, unit="batch", disable=not progress)
    model.train()
    with bar, _history_in_errors(history, epochs):
        for epoch in range(len(history) + 1, epochs + 1):
            totals = images.new_zeros(2)  # log likelihood and KL, summed over the images
            for batch, x in enumerate(_batches(images, batch_size, binarized, generator)):
                factor = warmup_cosine((epoch - 1) * batches + batch, epochs * batches)
                optimizer.param_groups[0]["lr"] = float(learning_rate * factor)  # a checkpoint takes no numpy numbers
                bound = train_step(model, x, objective, optimizer, generator)
                totals += torch.stack([bound.log_likelihood.sum(), bound.kl.sum()]).detach()
                bar.update()
            log_likelihood, kl = (totals / len(images)).tolist()
            row = {"epoch": epoch, "elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}
            if valid_images is not None:
                means = evaluate(model, valid_images, objective=objective, batch_size=batch_size, seed=seed)
                row |= {f"valid_{name}": mean for name, mean in means.items()}
            history.append(row)
            bar.set_postfix_str(f"epoch {epoch}/{epochs}, ELBO {row['elbo']:.2f}")
            if saved:
                saved.save(history)
            if callback is not None:
                with eval_mode(model):
                    callback(dict(row))
    return history


# ---- Checkpoint -----------------------------------------------------------------------------------------------------


def _as_text(value: object) -> str:
    """What a checkpoint keeps of a setting: short, and different if the setting is."""
    if isinstance(value, Tensor):
        checksum = zlib.crc32(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return f"{value.dtype} {tuple(value.shape)} with checksum {checksum:08x}"
    if isinstance(value, partial):
        given = {**dict(enumerate(value.args)), **value.keywords}
        return f"{_as_text(value.func)} with { {name: _as_text(setting) for name, setting in given.items()} }"
    return getattr(value, "__qualname__", str(value))


def _replace_file(path: Path, data: bytes, kind: str) -> None:
    """Write atomically: `path` holds the old bytes or the new ones, never a part of them."""
    part = path.with_name(path.name + ".part")  # in the same folder, because os.replace cannot cross disks
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


class Checkpoint:
    """A file from which the same call of `fit` goes on, and which refuses any other call."""

    def __init__(self, path: str | Path, call: dict, model: VAE, optimizer, generator: Generator):
        self.path, self.model, self.optimizer, self.generator = Path(path), model, optimizer, generator
        device = _device(model).type
        settings = {
            **call,
            **{part: type(getattr(model, part)).__qualname__ for part in ("posterior", "prior", "likelihood")},
            **{"device": device, "autocast": torch.is_autocast_enabled(device)},
            **{name: tuple(weight.shape) for name, weight in model.state_dict().items()},
            **{name: weight for name, weight in model.named_parameters() if not weight.requires_grad},
        }
        self.settings = {name: _as_text(value) for name, value in settings.items()}

    def save(self, history: list[dict]) -> None:
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        states |= {"generator": self.generator.get_state(), "settings": self.settings, "history": history}
        torch.save(states, buffer := io.BytesIO())
        data = buffer.getvalue()  # a checksum follows it, since torch.load would not notice flipped bits
        _replace_file(self.path, data + hashlib.sha256(data).digest(), "checkpoint")

    def load(self) -> list[dict]:
        """Put everything back as it was when the file was written, and return the history."""
        if not self.path.exists():  # a first file, before any work: an unwritable place shows at once
            self.save([])
        data = self.path.read_bytes()
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise ValueError(f"{self.path} is no checkpoint of fit, or it is damaged. Name a new file")
        states = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for name in {**states["settings"], **self.settings}:
            then, now = (settings.get(name, "nothing") for settings in (states["settings"], self.settings))
            if then != now:
                raise ValueError(f"{self.path} is of another run: {name} was {then} and is now {now}. Name a new file")
        self.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])
        self.generator.set_state(states["generator"])
        return states["history"]


# ---- Evaluation -----------------------------------------------------------------------------------------------------


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients or autocast; afterwards every submodule is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(_device(model).type, enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def encode_dataset(model: VAE, images: Tensor, *, batch_size: int = 1000):
    """The q(z|x) of all images (N, D), on the model's device: by default `mu, logvar = encode_dataset(...)`, (N, L)."""
    batch_size = _count("batch_size", batch_size)
    _check_images(images, model)
    with eval_mode(model):
        numbers = [model.posterior_numbers(x.to(_device(model))) for x in images.split(batch_size)]
        return model.posterior(torch.cat(numbers))


def _log_likelihood_in_batches(model: VAE, images: Tensor, z: Tensor, batch_size: int) -> Tensor:
    """log p(x|z) of every image (N, D) at its own code (N, L): (N,)."""
    parts = zip(images.split(index(batch_size)), z.split(index(batch_size)), strict=True)
    return torch.cat([model.log_likelihood(x.to(z.device), codes) for x, codes in parts])


def evaluate(
    model: VAE, images: Tensor, *, objective: Callable[..., Bound] = elbo, batch_size: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Means over all images of an objective's log_likelihood and kl, and elbo, their difference, in nats per image.

    For `elbo`, one draw z ~ q(z|x) per image, all at once: the result does not depend on batch_size. Another objective
    draws for each batch; of `iwae` these are the terms, not the bound. The model's mode is left as it was.
    """
    generator = Generator(_device(model)).manual_seed(seed)
    with eval_mode(model):
        if objective is elbo:
            q = encode_dataset(model, images, batch_size=batch_size)
            z = q.sample(generator)
            log_likelihood, kl = _log_likelihood_in_batches(model, images, z, batch_size), model.kl(q, z)
        else:
            _check_images(images, model)
            batches = (x.to(_device(model)) for x in images.split(_count("batch_size", batch_size)))
            bounds = [_check_bound(objective(model, x, generator=generator), len(x)) for x in batches]
            _, log_likelihood, kl = map(torch.cat, zip(*bounds, strict=True))
    log_likelihood, kl = log_likelihood.mean().item(), kl.mean().item()
    return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}


def estimate_log_likelihood(
    model: VAE, images: Tensor, *, num_samples: int, seed: int = 0, batch_size: int = 1000, progress: bool = False
) -> Tensor:
    """The importance-weighted bound on log p(x) of every image with `num_samples` draws: (N, D) -> (N,) ([3], eq. 8).

    A lower bound in expectation. One draw per image is held at a time, so memory does not grow with num_samples; the
    result does not depend on batch_size. For grey images under `Bernoulli` it is not a log likelihood.
    """
    num_samples = _count("num_samples", num_samples)
    q = encode_dataset(model, images, batch_size=batch_size)
    generator = Generator(_device(model)).manual_seed(seed)
    log_sum = torch.full((len(images),), -math.inf, dtype=torch.float64)  # in float32, rounding would add up
    with eval_mode(model):
        for _ in tqdm(range(num_samples), unit="sample", disable=not progress):
            z = q.sample(generator)
            log_likelihood = _log_likelihood_in_batches(model, images, z, batch_size)
            log_sum = torch.logaddexp(log_sum, (log_likelihood - model.log_ratio(q, z)).cpu())
    return (log_sum - math.log(num_samples)).to(images.dtype)


def active_units(q: Normal, threshold: float = 0.01) -> Tensor:
    """Which latent dimensions of a `Normal` of N images are in use: bool (L,) ([3], section 5.2)."""
    _check_normal(q, "active_units")
    return q.mu.var(dim=0) > threshold  # a unit that ignores its image sends every mean to the same place


def elbo_by_quadrature(model: VAE, x: Tensor, q: Normal, *, nodes: int = 8, batch_size: int = 100) -> Tensor:
    """The ELBO of any `Normal` q of the images x (B, D), with sums in place of draws: (B,).

    Gauss-Hermite quadrature: the average over epsilon becomes a weighted sum over a grid of nodes^L fixed ones. With
    gradients, so that q can be fitted to each image. batch_size * nodes^L codes are decoded at once.
    """
    _check_normal(q, "elbo_by_quadrature")
    if len(x) != len(q.mu):
        raise ValueError(f"x has {len(x)} images, and q is of {len(q.mu)}")
    batch_size = _count("batch_size", batch_size)
    points, weights = (torch.from_numpy(part).to(q.mu) for part in np.polynomial.hermite_e.hermegauss(nodes))
    dims = q.mu.shape[-1]
    epsilon = torch.cartesian_prod(*dims * [points]).view(-1, 1, dims)  # (nodes^L, 1, L)
    weights = torch.cartesian_prod(*dims * [weights / weights.sum()]).view(-1, 1, dims).prod(-1)  # (nodes^L, 1)
    bounds = []
    for images, *numbers in zip(*(part.split(batch_size) for part in (x, *q)), strict=True):
        own = Normal(*numbers)
        z = own.mu + torch.exp(0.5 * own.logvar) * epsilon
        bounds.append((weights * (model.log_likelihood(images, z) - model.kl(own, z))).sum(0))
    return torch.cat(bounds)


def best_gaussian(model: VAE, x: Tensor, starts: Sequence[Normal], *, steps: int = 80, nodes: int = 4) -> Normal:
    """The `Normal` of highest ELBO for each image of x (B, D) by itself, of the starts and of where an ascent from each
    of them ends. The ascent's ELBO is a sum over nodes^L codes; for the choice it is `elbo_by_quadrature`'s own.
    """
    found = list(starts)
    for start in starts:
        _check_normal(start, "best_gaussian")
        numbers = torch.stack(start).detach().requires_grad_()  # (2, B, L)
        optimizer = torch.optim.Adam([numbers], lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            (-elbo_by_quadrature(model, x, Normal(*numbers), nodes=nodes).sum()).backward(inputs=[numbers])
            optimizer.step()
        found.append(Normal(*numbers.detach()))
    with torch.no_grad():
        best = torch.stack([elbo_by_quadrature(model, x, q) for q in found]).argmax(0)  # (B,)
    images = torch.arange(len(x), device=best.device)
    return Normal(*(torch.stack(part)[best, images] for part in zip(*found, strict=True)))


class PosteriorGrid(NamedTuple):
    """Of each image log p(x) as log_evidence (N,), and the place where p(z|x) is highest as mode (N, 2)."""

    log_evidence: Tensor
    mode: Tensor


def posterior_on_grid(model: VAE, images: Tensor, *, limit: float = 5.0, n: int = 501) -> PosteriorGrid:
    """log p(x) of images (N, D) under a model with 2 latent dimensions by plain summation, and the posteriors' modes.

    The integral of p(x|z) p(z) over z becomes a sum over n x n codes in the square from -limit to limit. The grid must
    be finer than the posteriors are wide. Warns of posteriors that reach the border, for what lies outside is lost.
    """
    _check_images(images, model)
    if model.latent_dim != 2:
        raise ValueError(f"a grid is for 2 latent dimensions, and this model has {model.latent_dim}")
    images = images.to(_device(model))
    axis = torch.linspace(-limit, limit, n, device=images.device, dtype=images.dtype)
    total = at_border = highest = torch.full((len(images),), -math.inf, device=images.device, dtype=torch.float64)
    mode = images.new_zeros(len(images), 2)
    with eval_mode(model):
        for z in _grid(axis, axis).split(1000):  # not all at once: a fine grid is large
            log_joint = (_log_likelihood_of_pairs(model, images, z) + model.prior.log_prob(z)).double()  # (N, 1000)
            total = torch.logaddexp(total, log_joint.logsumexp(1))
            at_border = torch.logaddexp(at_border, log_joint.where(z.abs().amax(1) == limit, -math.inf).logsumexp(1))
            top, place = log_joint.max(1)
            mode = torch.where((top > highest)[:, None], z[place], mode)
            highest = torch.maximum(highest, top)
    outside = ((at_border - total).exp() > 1e-4).sum().item()
    if outside:
        message = f"{outside} of {len(images)} posteriors reach the border at {limit:g}, so their log p(x) is too low"
        warnings.warn(f"{message}: pass a larger limit", stacklevel=2)
    log_evidence = total + 2 * math.log(2 * limit / (n - 1))
    return PosteriorGrid(log_evidence.to(images.dtype), mode)


def _grid(z1: Tensor, z2: Tensor) -> Tensor:
    """All codes (z1, z2) of two axes, z2 by rows and z1 by columns: (m,), (n,) -> (n * m, 2)."""
    return torch.cartesian_prod(z2, z1).flip(1)


def _log_likelihood_of_pairs(model: VAE, images: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) of every image at every code: (N, D), (C, L) -> (N, C)."""
    parameters = model.decode(z)
    if type(model.likelihood) is Bernoulli:  # linear in x: one matrix product instead of N * C * D logarithms
        return images @ parameters.T - F.softplus(parameters).sum(-1)
    return torch.stack([model.likelihood.log_prob(x.expand(len(z), -1), parameters) for x in images])


# ---- Data -----------------------------------------------------------------------------------------------------------

VARIANTS = ("MNIST", "FashionMNIST", "KMNIST")  # torchvision's datasets that share MNIST's files and split
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
IDX_LIMIT = 1 << 26  # values, of a byte each; MNIST's largest file holds 47 million


class Mnist(NamedTuple):
    """The official split: images are float32 (N, 784) in [0, 1], labels int64 (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_mnist(root: str | Path = "data", *, variant: str = "MNIST", download: bool = True) -> Mnist:
    """Load the 60,000 training and 10,000 test images of `variant` (MNIST, FashionMNIST or KMNIST) into memory.

    The four IDX files, plain or .gz, may lie anywhere below root/variant, else below root, but in no folder that is
    named after another variant. Nothing is written, unless they are missing and `download` is true: then torchvision
    fetches them into root. Raises FileNotFoundError if they cannot be had, ValueError if one is damaged.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    root, problem = Path(root), "download=True would fetch them"
    paths = _find(root / variant, variant) or _find(root, variant)
    if download and not paths:
        problem = "the download did not bring them"
        try:
            getattr(datasets, variant)(root, download=True)
        except Exception as error:  # no network, no right to write, a full disk
            problem = f"the download failed ({' '.join(str(error).split())})"
        paths = _find(root / variant, variant)
    if not paths:
        known = {"MNIST": "hojjatk/mnist-dataset", "FashionMNIST": "zalando-research/fashionmnist"}
        raise FileNotFoundError(
            f"No {variant} below {root.absolute()}: {problem}. Put {', '.join(FILES)} there, each with -ubyte or "
            "-ubyte.gz at its end, or pass another folder as root: with the network on, any that can be written to. "
            f"On Kaggle, choose Add Input and attach {known.get(variant, 'a dataset of these files')}."
        )
    return Mnist(*_read_pair(*paths[:2]), *_read_pair(*paths[2:]))


def _find(root: Path, variant: str) -> list[Path]:
    """FILES from the deepest folder that holds all four, at whatever depth below it; empty if none does."""
    # Files of all variants have the same names, so the folders must tell, by the first of these words in their path.
    variant_of = {"fashion": "FashionMNIST", "kmnist": "KMNIST", "kuzushiji": "KMNIST", "mnist": "MNIST"}
    found = defaultdict(dict)  # folder -> name as in FILES -> path
    for path in sorted(root.rglob("*-ubyte*")):
        words = str(path.relative_to(root)).lower()
        named = [variant_of[word] for word in variant_of if word in words] or [variant]
        if path.is_file() and named[0] == variant:
            name = path.name.split("-ubyte")[0].replace(".idx", "-idx")  # some datasets have a dot there
            for folder in path.parents:
                found[folder].setdefault(name, path)
    complete = [folder for folder, files in found.items() if files.keys() >= set(FILES)]
    deepest = max(complete, key=lambda folder: len(folder.parts), default=None)
    return [found[deepest][name] for name in FILES] if complete else []


def _read_pair(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 784) in [0, 1] and their labels (N,)."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or labels.max() > 9:
        found = f"{images.shape} and {labels.shape} up to {labels.max()}, not (N, 28, 28) and (N,) up to 9"
        raise ValueError(f"{images_path} and {labels_path} do not belong together: they hold {found}")
    return torch.from_numpy(images).flatten(1).float().div_(255), torch.from_numpy(labels).long()


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped (format: data/README.md). ValueError says what is wrong."""
    with Path(path).open("rb") as plain:
        file = gzip.GzipFile(fileobj=plain) if plain.peek(2)[:2] == b"\x1f\x8b" else plain
        try:
            magic, ndim = struct.unpack(">3sB", file.read(4))
            shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
            size = math.prod(shape)
            if magic != b"\0\0\x08" or ndim == 0 or not 0 < size <= IDX_LIMIT:  # 8: unsigned bytes
                raise ValueError(f"its header declares the type {magic} and the shape {shape}")
            values = bytearray(file.read(size + 1))  # one more, which reshape refuses: a file that is too long
            return np.frombuffer(values, dtype=np.uint8).reshape(shape)  # a bytearray is writable, as torch wants it
        except (ValueError, EOFError, struct.error, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a valid IDX file of unsigned bytes: {error}") from error


def images_from(source, *, side: int = 28, colors: int = 1, invert: bool = False) -> Tensor:
    """Pictures of your own as a tensor (N, colors * side * side) in [0, 1], and one printed line of what was done.

    source is a file that PIL reads, or a folder of such, at any depth, in sorted order; or an array, tensor, list,
    Dataset or loader of pictures: (H, W), (H, W, 3 or 1), (3 or 1, H, W), (side * side,) or PIL's. Numbers are from 0
    to 1, or whole and to 255, or all of them 0 and 1. Labels are left out; what is transparent becomes white.
    FileNotFoundError for no such place, TypeError and ValueError for what are no pictures.
    """
    images, sizes, left_out, highest = [], set(), [], 0
    for picture in _pictures_in(source, left_out):  # one by one: many would fill the memory
        size = picture.size[::-1] if isinstance(picture, Image.Image) else None
        if size:
            picture = np.asarray(picture.reduce(max(1, min(size) // (16 * side))))
        pixels = _channels_first(picture, side)
        highest = max(highest, picture.max() if np.issubdtype(picture.dtype, np.integer) else 255)
        sizes.add(size or tuple(pixels.shape[1:]))
        if colors == 1:
            pixels = pixels.mean(0, keepdim=True)
        pixels = F.interpolate(pixels[None], size=(side, side), mode="bilinear", antialias=True)
        images.append(pixels.expand(1, colors, side, side).flatten(1))
    if not images:
        raise ValueError(f"{source} holds no picture that can be read; tried: {', '.join(left_out[:3]) or 'no file'}")
    images = torch.cat(images) * (255 if highest <= 1 else 1)  # 0 and 1 alone, which only all of them together tell
    images = images.clamp(0, 1)  # rounding makes white 1.0000001, which `fit` would refuse
    shown = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:3]) + ", ..." * (len(sizes) > 3)
    kind = ("in colour" if colors == 3 else "grey") + ", inverted" * invert
    dropped = f"; could not read {len(left_out)}: {', '.join(left_out[:3])}" if left_out else ""
    print(f"pictures: {len(images)}, {shown} -> {side} x {side}, {kind}{dropped}")
    return 1 - images if invert else images


def _pictures_in(source, left_out: list[str]) -> Iterator[np.ndarray | Image.Image]:
    """Each picture of a source of `images_from`; the names of the files that are none go to the list."""
    if isinstance(source, Dataset | list | tuple):
        yield from DataLoader(source, batch_size=None, collate_fn=_picture)
    elif isinstance(source, DataLoader):
        for batch in source:
            yield from _picture(batch)
    elif not isinstance(source, str | Path):
        yield from [_picture(source)] if isinstance(source, Image.Image) else _picture(source)
    elif not Path(source).exists():
        raise FileNotFoundError(f"there is no folder and no file {Path(source).absolute()}")
    else:
        paths = Path(source).rglob("*") if Path(source).is_dir() else [Path(source)]
        for path in sorted(path for path in paths if path.is_file()):
            left_out.append(path.name)
            if path.suffix.lower() in Image.registered_extensions():
                with suppress(OSError, SyntaxError, ValueError):  # PIL's errors for damaged files
                    picture = _on_white(path)
                    left_out.pop()
                    yield picture


def _picture(value) -> np.ndarray | Image.Image:
    """A picture, or an array of several, without the label that may follow."""
    value = value[0] if isinstance(value, list | tuple) else value
    if isinstance(value, Image.Image):
        return _on_white(value)
    if np.ndim(array := np.asarray(value)) == 0:
        raise TypeError(f"pictures must be files, arrays, tensors or PIL's, and this is a {type(value).__name__}")
    return array


def _on_white(source) -> Image.Image:
    """A picture, its file or its array, upright and in RGB, with white behind what is transparent."""
    if isinstance(source, str | Path):
        with Image.open(source) as picture:
            return _on_white(picture)
    if isinstance(source, Image.Image):
        source = ImageOps.exif_transpose(source)
        if source.mode[0] in "IF":  # numbers of more than 8 bits, which PIL would cut off at 255
            source = np.asarray(source, dtype=np.float32) / (65535 if source.mode[0] == "I" else 1)
    picture = source if isinstance(source, Image.Image) else to_pil_image(_channels_first(_picture(source)))
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.convert("RGBA"))
    return white


def _channels_first(picture: np.ndarray, side: int = 28) -> Tensor:
    """A picture of any shape that `images_from` takes -> float32 (1 or 3, H, W) from 0 to 1."""
    white = 255 if np.issubdtype(picture.dtype, np.integer) else 1
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)) / white
    if pixels.shape == (side * side,):
        pixels = pixels.view(1, side, side)
    elif pixels.shape[2:] in ((1,), (3,)):
        pixels = pixels.permute(2, 0, 1)
    elif pixels.ndim == 2 and not min(pixels.shape) <= 4 < max(pixels.shape):  # else a row of a picture in colour
        pixels = pixels[None]
    if pixels.ndim != 3 or len(pixels) not in (1, 3) or not 0 <= pixels.min() <= pixels.max() <= 1:
        found = f"{picture.shape} from {picture.min():g} to {picture.max():g}"
        raise ValueError(f"pictures must be (H, W), (H, W, 3) or ({side**2},), 0 to 1 or whole 0 to 255, not {found}")
    return pixels


def digit_from(picture) -> Tensor:
    """The photo of one digit, a file, PIL's or an array, as MNIST shows it: (1, 784), 1 for ink; else ValueError."""
    photo = _on_white(picture)
    photo.thumbnail((200, 200))
    ink = _one_digit(_ink_on_paper(np.asarray(photo).mean(-1) / 255))
    (box,) = ndimage.find_objects((ink > 0.5).astype(int))
    ink = torch.from_numpy(ink[box]).float()
    # MNIST's digits are 20 pixels long and centred by mass: here in quarters, since rounding would shift the strokes.
    height, width = (max(1, round(80 * length / max(ink.shape))) for length in ink.shape)
    ink = F.interpolate(ink[None, None], size=(height, width), mode="bilinear", antialias=True)
    row, column = ndimage.center_of_mass(ink[0, 0].numpy())
    top = min(max(round(57.5 - row), 0), 112 - height)  # 57.5: the middle of pixel 14, counted from 0
    left = min(max(round(57.5 - column), 0), 112 - width)
    ink = F.pad(ink, (left, 112 - width - left, top, 112 - height - top))
    return F.avg_pool2d(ink, 4).view(1, 784)


def _ink_on_paper(grey: np.ndarray) -> np.ndarray:
    """How much darker than its paper each pixel is, in a shadow or not: (H, W) -> (H, W), 0 for paper."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, length) for length in grey.shape), indexing="ij")
    edge = np.maximum(abs(x), abs(y)) > 0.95
    grey = grey if np.median(grey[edge]) > 0.5 else 1 - grey  # white on black
    terms = np.stack([x**0, x, y, x * y, x**2, y**2], axis=-1)  # a shadow is smooth: a parabola, fitted at the edge
    paper = terms @ np.linalg.lstsq(terms[edge], grey[edge], rcond=None)[0]
    return np.maximum(1 - grey / np.maximum(paper, 0.05), 0)


def _one_digit(ink: np.ndarray) -> np.ndarray:
    """The ink of one digit, (H, W) -> (H, W) in [0, 1], without what is small beside it or faint, nowhere very thin."""
    mask, seen = ink > ink.max() / 2, ink > ink.max() / 3  # a thin line is faint here and there
    parts, _ = ndimage.label(seen, structure=np.ones((3, 3)))
    sizes = np.bincount(parts[seen], minlength=1)
    if ink.max() < 0.1 or mask.mean() > 0.5 or sizes.max() < mask.size / 1000:
        raise ValueError("no digit was found: nothing stands out clearly from the paper")
    specks = seen & (sizes < sizes.max() / 10)[parts]
    digit = seen & ~specks
    height, width = np.ptp(np.nonzero(digit), axis=1) + 1
    outside = ndimage.distance_transform_edt(~digit)
    if ndimage.label(outside - 0.5 <= height / 12)[1] > 1:  # strokes of one digit have smaller gaps
        raise ValueError("more than one digit was found: cut the picture to one of them")
    specks = ndimage.binary_dilation(specks, structure=np.ones((5, 5)))  # and their blurred edges
    ink = 1.5 * ink / np.quantile(ink[mask], 0.5, method="lower") - 0.5  # pencil becomes black, grain white
    stroke = 4 * ndimage.distance_transform_edt(digit)[digit].mean() - 2  # a line's width: from its edges to its middle
    missing = max(0.08 * max(height, width) - stroke, 0)  # MNIST's lines are seldom thinner than 0.08 of a digit
    thick = 1 + missing / 2 - outside if missing > 0 else 0
    return np.maximum(np.where(specks, 0, ink), thick).clip(0, 1)


def binarize(images: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw every pixel as 0 or 1, with its grey level, from 0 to 1, as the probability of a 1 ([3], section 5)."""
    return torch.bernoulli(images, generator=generator)


# ---- Checks of what would give a wrong number without an error; elsewhere PyTorch's own errors are clear ------------


def _check_parts(model: VAE) -> None:
    """Raise unless every part has what this module asks it for, and the model's size."""
    for path in ("posterior.input_dim", "prior.log_prob", "prior.sample", "likelihood.log_prob", "likelihood.mean"):
        name, wanted = path.split(".")
        part = getattr(model, name)
        found = getattr(part, wanted, None)
        if not (isinstance(found, int) if wanted == "input_dim" else callable(found)):
            raise TypeError(f"the {name} must have {wanted}, and {part} has none")
        if (size := getattr(part, "latent_dim", model.latent_dim)) != model.latent_dim:
            raise ValueError(f"the model has {model.latent_dim} latent dimensions, and its {name} {size}")
    if type(model).encode is not VAE.encode:  # evaluation asks encoder and posterior by themselves
        raise TypeError(f"{type(model).__name__} has an encode of its own: pass its q as a posterior in place of it")


def _check_normal(q, name: str) -> None:
    """Raise unless q is a diagonal Gaussian: mu and logvar of another q would mean something else."""
    if not isinstance(q, Normal):
        raise TypeError(f"{name} is right for a Normal alone, as of DiagonalNormal, and not for a {type(q).__name__}")


def _check_images(images: Tensor, model: VAE, name: str = "images", *, training: bool = False) -> None:
    """Raise unless these are images (N, D) of the model's dtype, with finite pixels in its likelihood's range."""
    if not isinstance(model, VAE):
        raise TypeError(f"model must be a VAE, not {type(model).__name__}")
    first = next((part for part in nn.Sequential(model.encoder).modules() if not isinstance(part, nn.Sequential)), None)
    wanted = math.prod(first.unflattened_size) if type(first) is nn.Unflatten else getattr(first, "in_features", None)
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) == 2 and wanted not in (None, shape[1]):
        raise ValueError(f"the model takes {wanted} numbers an image, not the {shape[1]} of {name}: is one a label?")
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor (N, D), as images_from makes it, not {type(images).__name__}")
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(f"{name} must have shape (N, D) with N of 1 or more, not {shape}")
    if images.dtype != (dtype := next(model.parameters()).dtype):
        scale = " / 255" if not images.is_floating_point() and images.max() > 1 else ""
        raise TypeError(f"{name} must be of {dtype}, not {images.dtype}; this makes it so: {name}.to({dtype}){scale}")
    least, most = getattr(model.likelihood, "support", (-math.inf, math.inf))
    low, high = (bound.item() for bound in torch.aminmax(images.detach()))
    if not (least <= low and high <= most and math.isfinite(high - low)):  # written so that NaN fails too
        raise ValueError(f"{name} must be finite and from {least:g} to {most:g}, not from {low:g} to {high:g}")
    if training and (least, most) == (0, 1) and 0 < high < 0.02:  # black pictures, and a cost that looks good
        raise ValueError(f"no pixel of {name} is above {high:.2g}: divided by 255 twice? Then pass {name} * 255")


def _check_bound(bound: Bound, batch: int) -> Bound:
    """The bound; raise unless an objective returned three numbers for each image: `fit` would take means of means."""
    found = [tuple(getattr(term, "shape", ())) for term in bound] if isinstance(bound, Bound) else type(bound).__name__
    if found != 3 * [(batch,)]:
        raise ValueError(f"an objective must return a Bound of three tensors of shape ({batch},), not {found}")
    return bound


def _check_same_shape(mu: Tensor, logvar: Tensor) -> None:
    """Raise unless mu and logvar have one shape: broadcasting would give a wrong number without an error."""
    if mu.shape != logvar.shape:
        raise ValueError(f"mu and logvar must have the same shape, not {tuple(mu.shape)} and {tuple(logvar.shape)}")


def _count(name: str, number: int) -> int:
    """The number as Python's int; raise unless it is whole and 1 or more."""
    if index(number) < 1:
        raise ValueError(f"{name} must be 1 or more, not {number}")
    return index(number)


# ---- Plots, which draw on an optional `ax`, return it and never call plt.show() -------------------------------------

# Paul Tol's "muted" scheme for colour-blind readers, its light colours darkened to a contrast of 3 to 1 with white.
DIGIT_COLORS = (
    "#332288", "#882255", "#1FA08D", "#117733", "#C08A00",
    "#CC6677", "#626A00", "#1C91EA", "#AA4499", "#333333",
)  # fmt: skip
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, for lines


def plot_images(images: Tensor, *, columns: int | None = None, ax: Axes | None = None) -> Axes:
    """Images (n, D) side by side, `columns` in a row, each one unit wide; in 3 colours if D is not a square."""
    columns = columns or len(images)
    colors = 1 if math.isqrt(images.shape[1]) ** 2 == images.shape[1] else 3
    side = math.isqrt(images.shape[1] // colors)
    tiles = images.detach().float().cpu().clamp(0, 1).view(-1, colors, side, side)
    picture = make_grid(F.pad(tiles, (1, 1, 1, 1)), nrow=columns, padding=0).permute(1, 2, 0).numpy()
    rows = math.ceil(len(images) / columns)
    ax = ax or plt.subplots(figsize=(0.7 * columns, 0.7 * rows), layout="constrained")[1]
    picture = picture if colors == 3 else 1 - picture  # dark ink on white
    ax.imshow(picture, interpolation="nearest", extent=(0, columns, rows, 0))
    ax.set_axis_off()
    return ax


def plot_rows(rows: dict[str, Tensor], *, ax: Axes | None = None) -> Axes:
    """Rows of images, each (n, D), with the name of each row on its left."""
    ax = plot_images(torch.stack([*rows.values()]).flatten(0, 1), columns=len(next(iter(rows.values()))), ax=ax)
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([row + 0.5 for row in range(len(rows))], list(rows))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _label_positions(points: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """Where each label is written: at the median of its points (N, 2), but clear of the other labels."""
    digits = np.unique(labels)
    places = np.stack([np.median(points[labels == digit], axis=0) for digit in digits])
    distance = 0.055 * np.ptp(points)  # about the size of a numeral
    for _ in range(200):  # push apart what is closer, in steps that are enough for ten labels
        apart = places[:, None] - places  # (n, n, 2)
        length = np.maximum(np.linalg.norm(apart, axis=-1, keepdims=True), 1e-9)
        places += (apart / length * np.clip(distance - length, 0, None) / 2).sum(axis=1)
    return dict(zip(digits.tolist(), places, strict=True))


_OUTLINE = [patheffects.withStroke(linewidth=3, foreground="white")]  # keeps text legible on dots


def plot_codes(points: Tensor, labels: Tensor, *, ax: Axes | None = None) -> Axes:
    """Points (N, 2) in the colours of their labels (N,), 0 to 9, each with a numeral near the middle of its points."""
    if points.shape != (len(labels), 2) or not 0 <= labels.min() <= labels.max() <= 9:
        raise ValueError(f"wanted points (N, 2) and labels (N,) from 0 to 9, not {points.shape} and {labels}")
    ax = ax or plt.subplots(figsize=(7, 7), layout="constrained")[1]
    points, labels = points.detach().cpu().numpy(), labels.cpu().numpy()
    ax.scatter(*points.T, s=4, c=np.array(DIGIT_COLORS)[labels], alpha=0.6, linewidths=0, rasterized=True)
    for digit, place in _label_positions(points, labels).items():
        style = {"color": DIGIT_COLORS[digit], "size": 17, "weight": "bold", "path_effects": _OUTLINE}
        ax.text(*place, str(digit), ha="center", va="center", **style)
    ax.set_aspect("equal")
    return ax


def _prior_draws(model: VAE) -> Tensor:
    """Many codes from the prior, always the same, from which the plots learn the shape of any prior: (100000, 2)."""
    with eval_mode(model):
        return model.prior.sample(100_000, Generator(_device(model)).manual_seed(0))


def plot_latent_space(model: VAE, mu: Tensor, labels: Tensor, *, ax: Axes | None = None) -> Axes:
    """Mean codes (N, 2), coloured by digit, and the curves of equal density that hold 50, 90 and 99 % of the prior.

    With more than 2 latent dimensions, where mu is a projection, there are no curves.
    """
    ax = plot_codes(mu, labels, ax=ax)
    if model.latent_dim == 2:
        draws = _prior_draws(model)
        axis = torch.linspace(-1, 1, 201).to(draws) * draws.abs().max()
        with eval_mode(model):
            density, heights = model.prior.log_prob(_grid(axis, axis)).view(201, 201), model.prior.log_prob(draws)
        levels = heights.quantile(torch.tensor([0.01, 0.1, 0.5]).to(heights)).tolist()  # 99 % of the draws lie higher
        axis, density = axis.cpu(), density.cpu()
        curves = ax.contour(axis, axis, density, levels=levels, colors="black", linestyles="--", linewidths=1)
        for text in ax.clabel(curves, fmt=dict(zip(levels, ("99%", "90%", "50%"), strict=True)), fontsize=9):
            text.set_path_effects(_OUTLINE)
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax


def plot_manifold(model: VAE, *, n: int = 20, ax: Axes | None = None) -> Axes:
    """Decode n x n codes whose columns and rows hold equal shares of the prior's draws ([1], appendix A)."""
    if model.latent_dim != 2:
        raise ValueError(f"the manifold is drawn for 2 latent dimensions, and this model has {model.latent_dim}")
    draws = _prior_draws(model)
    z1, z2 = draws.quantile((torch.arange(n).to(draws) + 0.5) / n, dim=0).T
    with eval_mode(model):
        pictures = model.likelihood.mean(model.decode(_grid(z1, z2.flip(0))))  # z2 grows upwards
    ax = ax or plt.subplots(figsize=(8, 8), layout="constrained")[1]
    plot_images(pictures, columns=n, ax=ax).set_axis_on()
    ticks = range(n // 10, n, max(1, n // 5))  # at some of the pictures, labelled with their codes
    names1, names2 = ([f"{round(code, 1) + 0:g}" for code in codes.tolist()] for codes in (z1, z2))  # + 0: never -0
    ax.set_xticks([i + 0.5 for i in ticks], [names1[i] for i in ticks])
    ax.set_yticks([n - i - 0.5 for i in ticks], [names2[i] for i in ticks])
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax
