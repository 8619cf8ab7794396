"""Objective: every density and bound against an oracle that shares no line with it."""

import math
from functools import partial

import pytest
import torch
from oracles import NORMAL, Constant, generator, linear_vae, raw_of, solved_vae
from torch import distributions, nn
from torch.distributions import Bernoulli, Normal

import vae_utils as vae
from vae_utils import VAE, elbo, elbo_by_quadrature, fit, iwae, kl_divergence, reparameterize


def gaussians(*shape):
    """Random means and log variances in double precision, and the same Gaussian from torch.distributions."""
    mu, logvar = torch.randn(2, *shape, generator=generator(), dtype=torch.float64).mul(2).unbind()
    return mu.requires_grad_(), logvar.requires_grad_(), Normal(mu, logvar.exp().sqrt())


def test_log_normal_and_the_kl_against_torch_distributions():
    mu, logvar, normal = gaussians(6, 5, 3)
    z = torch.randn(6, 5, 3, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(vae.log_normal(z, mu, logvar), normal.log_prob(z).sum(-1))
    torch.testing.assert_close(kl_divergence(mu, logvar), distributions.kl_divergence(normal, NORMAL).sum(-1))


def test_the_kl_is_precise_beside_the_prior():
    """Where the first term of its series is logvar^2 / 4, which exp(logvar) - 1 would miss by 10 %."""
    assert kl_divergence(torch.zeros(1, 1), torch.full((1, 1), 1e-3)).item() == pytest.approx(1e-6 / 4, rel=1e-3)


def test_the_bernoulli_likelihood_against_torch_distributions():
    """Of a grey image it is the expectation over the binary images that are drawn from it."""
    logits = 5 * torch.randn(6, 4, 784, generator=generator(), dtype=torch.float64)
    grey = torch.rand(4, 784, generator=generator(1), dtype=torch.float64)
    black, white = (Bernoulli(logits=logits).log_prob(torch.full_like(grey, pixel)) for pixel in (0.0, 1.0))
    for x in (grey, grey.round()):
        expected = (x * white + (1 - x) * black).sum(-1)
        torch.testing.assert_close(vae.Bernoulli().log_prob(x, logits), expected)
    torch.testing.assert_close(vae.Bernoulli().mean(logits), white.exp())


def test_reparameterize_and_its_gradients_are_those_of_torch_distributions_from_the_same_noise():
    mu, logvar, _ = gaussians(7, 3)
    draws = []
    for draw in (reparameterize, lambda mu, logvar: Normal(mu, logvar.exp().sqrt()).rsample()):
        torch.manual_seed(5)
        z = draw(mu, logvar)
        draws.append((z, *torch.autograd.grad(z.pow(2).sum(), (mu, logvar))))
    torch.testing.assert_close(draws[0], draws[1])
    assert torch.equal(*(reparameterize(mu, logvar, generator=generator(3)) for _ in range(2)))
    assert reparameterize(mu.to("meta"), logvar.to("meta")).is_meta  # a device without numbers: it follows its input's


def test_beta_weighs_the_kl_alone():
    mu, logvar = torch.randn(2, 3, dtype=torch.float64)
    model = VAE(Constant(mu, raw_of(logvar)), Constant(torch.zeros(784)), 3).double()
    kl = distributions.kl_divergence(Normal(mu, (logvar / 2).exp()), NORMAL).sum().expand(2)
    log_likelihood = torch.full_like(kl, 784 * math.log(0.5))
    bound = elbo(model, torch.zeros(2, 784, dtype=torch.float64), beta=4.0)
    torch.testing.assert_close(tuple(bound), (log_likelihood - 4 * kl, log_likelihood, kl))


@pytest.fixture(scope="module")
def solved():
    return solved_vae()


def test_the_elbo_is_log_p_minus_the_kl_to_the_true_posterior(solved):
    """As a sum over nodes, and as the mean of 4,000 draws, those of `elbo` and of `iwae` with one sample."""
    model, x, log_p, log_posterior, log_q = solved
    gap = (log_q.exp() * (log_q - log_posterior)).sum(-1) * 24 / 2000
    assert gap.min() > 0.05
    torch.testing.assert_close(elbo_by_quadrature(model, x, model.encode(x), nodes=40), log_p - gap, rtol=0, atol=1e-4)
    for objective in (elbo, partial(iwae, num_samples=1)):
        draws = objective(model, x.repeat(4000, 1), generator=generator(2)).value.view(4000, -1)
        assert ((draws.mean(0) - (log_p - gap)).abs() < 4 * draws.std(0) / math.sqrt(4000)).all()


def test_more_samples_tighten_the_bound_until_it_meets_quadrature(solved):
    """The mean gap to log p(x) shrinks by a third or more from K = 1 to 5 to 50, and never becomes a gain."""
    model, x, log_p, *_ = solved
    values = []
    for k in (1, 5, 50, 20_000):
        value = iwae(model, x.repeat(20_000 // k, 1), num_samples=k, generator=generator(3)).value
        values.append(value.view(-1, 6))
    bounds = [value.mean(0) for value in values]
    gaps = [(log_p - bound).mean().item() for bound in bounds]
    assert gaps[0] > 0.05 and gaps[1] < gaps[0] / 1.5 and gaps[2] < gaps[1] / 1.5 and gaps[2] > -0.01
    weights = (values[0] - log_p).exp()
    standard_error = weights.std(0) / math.sqrt(20_000)
    assert standard_error.max() < 0.1 and ((log_p - bounds[-1]).abs() < 4 * standard_error + 1e-6).all()


def test_iwae_and_its_terms_against_torch_distributions(solved):
    model, x, *_ = solved
    mu, logvar = (part.expand(7, -1, -1) for part in model.encode(x))
    z = reparameterize(mu, logvar, generator=generator(1))
    log_likelihood = Bernoulli(logits=model.decode(z)).log_prob(x).sum(-1)
    kl = (Normal(mu, (logvar / 2).exp()).log_prob(z) - NORMAL.log_prob(z)).sum(-1)
    bound = (log_likelihood - kl).exp().mean(0).log(), log_likelihood.mean(0), kl.mean(0)
    torch.testing.assert_close(tuple(iwae(model, x, num_samples=7, generator=generator(1))), bound)


def test_the_iwae_gradient_weighs_each_draw_by_its_share_of_the_likelihood(solved):
    """[3], eq. 14: the decoder's gradient is the mean of each draw's gradient, weighted by w_k / sum w."""
    model, x, *_ = solved
    bias = model.decoder[-1].bias.requires_grad_()
    (found,) = torch.autograd.grad(iwae(model, x, num_samples=5, generator=generator(1)).value.sum(), bias)
    mu, logvar = (part.expand(5, -1, -1) for part in model.encode(x))
    z = reparameterize(mu, logvar, generator=generator(1))
    log_q, likelihood = Normal(mu, (logvar / 2).exp()).log_prob(z), Bernoulli(logits=model.decode(z))
    log_weights = likelihood.log_prob(x).sum(-1) + (NORMAL.log_prob(z) - log_q).sum(-1)
    shares, by_draw = log_weights.softmax(0), x - likelihood.mean  # d log p(x|z) / d logits of a Bernoulli
    torch.testing.assert_close(found, (shares[..., None] * by_draw).sum((0, 1)))


def test_probabilistic_pca_orders_the_bounds_and_the_elbo_misses_by_the_kl_to_the_posterior():
    """With q of twice the posterior's variance, each dimension costs (2 - 1 - log 2) / 2 nats."""
    model, x, log_p, posterior = linear_vae(wider=2.0)
    mu, logvar = model.encode(x)
    gap = distributions.kl_divergence(Normal(mu, (logvar / 2).exp()), posterior).sum(-1)
    torch.testing.assert_close(gap, torch.full_like(gap, 1 - math.log(2)))
    found = elbo_by_quadrature(model, x, vae.Normal(mu, logvar), nodes=3)
    torch.testing.assert_close(found, log_p - gap)
    slopes = (torch.autograd.grad(value.sum(), (mu, logvar), retain_graph=True) for value in (found, -gap))
    torch.testing.assert_close(*slopes)
    draws = iwae(model, x.repeat(1000, 1), num_samples=2, generator=generator()).value.view(1000, -1)
    assert (log_p - gap < draws.mean(0)).all() and (draws.mean(0) < log_p).all()
    shares = (draws - log_p).exp()  # unbiased: their mean is 1
    assert ((shares.mean(0) - 1).abs() < 4 * shares.std(0) / math.sqrt(1000)).all()


def test_training_reaches_the_maximum_of_the_likelihood_that_eigenvalues_tell():
    """Tipping and Bishop, 1999: sigma^2 is the mean of the eigenvalues that the codes have no room for."""
    torch.manual_seed(0)
    truth = linear_vae()[0]
    images = (truth.sample(1000, generator()) + 0.5 * torch.randn(1000, 5, generator=generator(1))).detach().float()
    kept, left = torch.linalg.eigvalsh(images.T.cov(correction=0)).flip(0).split([2, 3])
    best = -0.5 * (5 * math.log(2 * math.pi) + kept.log().sum() + 3 * left.mean().log() + 5).item()
    model = VAE(nn.Linear(5, 4), nn.Linear(2, 5), 2, likelihood=vae.Gaussian())
    fit(model, images, epochs=60, batch_size=50, learning_rate=0.03, progress=False)
    reached = elbo_by_quadrature(model, images, model.encode(images)).mean().item()
    assert best - 0.01 < reached <= best + 1e-4
    assert model.likelihood.log_sigma.exp().item() == pytest.approx(left.mean().sqrt().item(), rel=0.02)


class Mixture(nn.Module):
    """A prior of a reader's own: several Gaussians of learned means, all with variance 1 and the same share."""

    def __init__(self, *means):
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means))  # (M, L)

    def log_prob(self, z):
        each = Normal(self.means, 1.0).log_prob(z[..., None, :]).sum(-1)  # (..., M)
        return each.logsumexp(-1) - math.log(len(self.means))

    def sample(self, n, generator=None):
        chosen = torch.randint(len(self.means), (n,), generator=generator)
        return self.means[chosen] + torch.randn(n, self.means.shape[1], generator=generator)


@pytest.mark.parametrize("objective", [elbo, partial(iwae, num_samples=2)])
@pytest.mark.parametrize("make", [
    lambda: Mixture([0.1, 0.0], [-0.1, 0.0]), lambda: vae.FlowPrior(2, couplings=2, hidden_dim=8),
], ids=["mixture", "flow"])  # fmt: skip
def test_a_prior_learns_with_everything_else(make, objective):
    """Two kinds of images: the codes fall into two heaps, and the prior follows them beyond what N(0, I) reaches."""
    kinds = torch.bernoulli(torch.full((2, 100), 0.5), generator=generator())
    images = torch.bernoulli((0.9 * kinds + 0.05).repeat(100, 1), generator=generator(1))
    results = []
    for prior in (make, lambda: None):
        torch.manual_seed(0)
        model = vae.mlp_vae(2, (32,), image_dim=100, prior=prior())
        before = [weight.clone() for weight in model.prior.parameters()]
        history = fit(model, images, epochs=40, batch_size=20, objective=objective, progress=False)
        results.append(vae.evaluate(model, images)["elbo"])
        assert history[-1]["elbo"] > history[0]["elbo"] + 3
        assert not any(map(torch.equal, before, model.prior.parameters()))
    assert results[0] > results[1] + 0.1
