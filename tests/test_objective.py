"""Objective: every density and bound against an oracle that shares no line with it."""

import math

import pytest
import torch
from oracles import NORMAL, generator, linear_vae, solved_vae
from torch import distributions
from torch.distributions import Bernoulli, Normal

import vae_utils as vae
from vae_utils import elbo_by_quadrature, iwae, kl_divergence, reparameterize


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
    """Of a grey image it is the expectation over the binary images that are drawn from it; no logit is too large."""
    logits = 5 * torch.randn(6, 4, 784, generator=generator(), dtype=torch.float64)
    logits[0] *= 1000
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


def test_the_bounds_of_a_model_whose_posterior_is_a_sum():
    """The ELBO is log p(x) minus the KL to the true posterior; iwae and its terms are those of torch.distributions."""
    model, x, log_p, log_posterior, log_q = solved_vae()
    gap = (log_q.exp() * (log_q - log_posterior)).sum(-1) * 24 / 2000
    assert gap.min() > 0.05
    torch.testing.assert_close(elbo_by_quadrature(model, x, model.encode(x), nodes=40), log_p - gap, rtol=0, atol=1e-4)
    mu, logvar = (part.expand(7, -1, -1) for part in model.encode(x))
    z = reparameterize(mu, logvar, generator=generator(1))
    log_likelihood = Bernoulli(logits=model.decode(z)).log_prob(x).sum(-1)
    kl = (Normal(mu, (logvar / 2).exp()).log_prob(z) - NORMAL.log_prob(z)).sum(-1)
    bound = (log_likelihood - kl).exp().mean(0).log(), log_likelihood.mean(0), kl.mean(0)
    torch.testing.assert_close(tuple(iwae(model, x, num_samples=7, generator=generator(1))), bound)


def test_in_probabilistic_pca_the_elbo_misses_log_p_by_the_kl_to_the_posterior():
    """With q of twice the posterior's variance, each dimension costs (2 - 1 - log 2) / 2 nats."""
    model, x, log_p, posterior = linear_vae(wider=2.0)
    mu, logvar = model.encode(x)
    gap = distributions.kl_divergence(Normal(mu, (logvar / 2).exp()), posterior).sum(-1)
    torch.testing.assert_close(gap, torch.full_like(gap, 1 - math.log(2)))
    found = elbo_by_quadrature(model, x, vae.Normal(mu, logvar), nodes=3)
    torch.testing.assert_close(found, log_p - gap)
    in_batches = elbo_by_quadrature(model, x, vae.Normal(mu, logvar), nodes=3, batch_size=len(x) - 1)
    torch.testing.assert_close(in_batches, found)
    with pytest.raises(ValueError, match=f"x has {len(x) - 1} images, and q is of {len(x)}"):
        elbo_by_quadrature(model, x[1:], vae.Normal(mu, logvar))
    slopes = (torch.autograd.grad(value.sum(), (mu, logvar), retain_graph=True) for value in (found, -gap))
    torch.testing.assert_close(*slopes)
