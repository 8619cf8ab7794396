"""What several files of tests share: seeded draws, parts to build models of, and models whose log p(x) is exact."""

import math

import torch
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from vae_utils import VAE, Gaussian, StandardNormal, mlp_vae

NORMAL = Normal(0.0, 1.0)
GRID = torch.linspace(-12, 12, 2001, dtype=torch.float64)  # so wide and fine that a sum over it is an integral


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model(**parts):
    torch.manual_seed(0)
    return mlp_vae(2, (16,), **parts)


def raw_of(logvar):
    """The raw log variance that `VAE.encode` bounds to this one."""
    return 8 * torch.atanh((torch.as_tensor(logvar) + 4) / 8)


class Constant(nn.Module):
    """An encoder or a decoder that puts out the same, whatever comes in."""

    def __init__(self, *values):
        super().__init__()
        self.values = nn.Parameter(torch.cat(values))

    def forward(self, x):
        return self.values.expand(len(x), -1)


class Moved(StandardNormal):
    """The prior N(place, I): a subclass of the module's, with a density of its own."""

    def __init__(self, *place):
        super().__init__(len(place))
        self.place = torch.tensor(place)

    def log_prob(self, z):
        return super().log_prob(z - self.place)

    def sample(self, n, generator=None):
        return super().sample(n, generator) + self.place


def linear_vae(*, prior=None, wider=1.0, sigma=0.5, n=6):
    """Probabilistic PCA of 5 pixels in double precision: images (n, 5), and for them log p(x) and the posteriors.

    x ~ N(b, W W' + sigma^2 I). The columns of W are orthogonal, so that an encoder of one layer knows the posterior:
    N(M W' (x - b), sigma^2 M) with M = (W' W + sigma^2 I)^-1. `wider` times its variance is the variance of q.
    """
    columns = torch.linalg.qr(torch.randn(5, 2, generator=generator(1), dtype=torch.float64)).Q
    weight, bias = columns * torch.tensor([1.5, 0.6]), torch.linspace(-1, 1, 5, dtype=torch.float64)
    variance = sigma**2 / (weight.T @ weight + sigma**2 * torch.eye(2)).diagonal()
    encoder, decoder = nn.Linear(5, 4).double(), nn.Linear(2, 5).double()
    encoder.weight.data = torch.cat([variance[:, None] * weight.T / sigma**2, torch.zeros(2, 5)])
    encoder.bias.data = torch.cat([-encoder.weight.data[:2] @ bias, raw_of((wider * variance).log())])
    decoder.weight.data, decoder.bias.data = weight, bias
    model = VAE(encoder, decoder, 2, prior=prior, likelihood=Gaussian(sigma)).double()
    marginal = MultivariateNormal(bias, weight @ weight.T + sigma**2 * torch.eye(5))
    x = 2 * torch.randn(n, 5, generator=generator(2), dtype=torch.float64)
    return model, x, marginal.log_prob(x), Normal((x - bias) @ weight * variance / sigma**2, variance.sqrt())


def solved_vae():
    """A random model of one latent number and images from it, and on GRID log p(x), log p(z|x) and log q(z|x)."""
    torch.manual_seed(0)
    model = mlp_vae(1, (8,), image_dim=100).double().requires_grad_(False)
    model.encoder[-1].weight.div_(8)
    model.encoder[-1].bias[1] = raw_of(0.3)  # wider than the posteriors: weights of finite variance
    model.decoder[-1].weight.div_(4)
    x = torch.bernoulli(model.sample(6, generator()), generator=generator(1))
    likelihood, (mu, logvar) = Bernoulli(logits=model.decode(GRID[:, None])), model.encode(x)
    log_joint = torch.stack([likelihood.log_prob(row).sum(-1) + NORMAL.log_prob(GRID) for row in x])  # (6, 2001)
    log_p = torch.logsumexp(log_joint, 1) + math.log(24 / 2000)
    return model, x, log_p, log_joint - log_p[:, None], Normal(mu, (logvar / 2).exp()).log_prob(GRID)
