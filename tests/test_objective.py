"""Objective: every density and bound against an oracle that shares no line with it."""

import math

import numpy as np
import pytest
import torch
from torch import distributions, nn
from torch.distributions import Bernoulli, Normal

from vae_utils import (
    VAE,
    elbo,
    importance_weighted_bound,
    iwae,
    kl_divergence,
    log_bernoulli,
    log_importance_weights,
    log_normal,
    log_prior,
    mlp_vae,
    reparameterize,
)

PRIOR = Normal(0.0, 1.0)
GRID = torch.linspace(-12, 12, 2001, dtype=torch.float64)  # so wide and fine that a sum over it is an integral


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussians(*shape, seed=0):
    """Random means and log variances in double precision, and the same Gaussian from torch.distributions."""
    g = generator(seed)
    mu, logvar = torch.randn(2, *shape, generator=g, dtype=torch.float64).mul(2).unbind()
    return mu, logvar, Normal(mu, logvar.exp().sqrt())


class Constant(nn.Module):
    """An encoder or a decoder that puts out the same, whatever comes in."""

    def __init__(self, *values):
        super().__init__()
        self.values, self.latent_dim = values, len(values[0])

    def forward(self, x):
        values = [value.expand(*x.shape[:-1], -1) for value in self.values]
        return values if len(values) > 1 else values[0]


def test_log_normal_and_log_prior_against_torch_distributions():
    mu, logvar, normal = gaussians(6, 5, 3)
    z = torch.randn(6, 5, 3, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(log_normal(z, mu, logvar), normal.log_prob(z).sum(-1))
    torch.testing.assert_close(log_prior(z), PRIOR.log_prob(z).sum(-1))


def test_log_bernoulli_against_torch_distributions():
    logits = 5 * torch.randn(6, 4, 784, generator=generator(), dtype=torch.float64)
    x = torch.bernoulli(torch.rand(4, 784, generator=generator(1), dtype=torch.float64), generator=generator(2))
    torch.testing.assert_close(log_bernoulli(x, logits), Bernoulli(logits=logits).log_prob(x).sum(-1))


def test_log_bernoulli_of_grey_is_the_expectation_over_binarisations():
    logits = torch.randn(2, 784, generator=generator(), dtype=torch.float64)
    grey = torch.rand(2, 784, generator=generator(1), dtype=torch.float64)
    of_a_zero, of_a_one = (Bernoulli(logits=logits).log_prob(torch.full_like(grey, value)) for value in (0.0, 1.0))
    torch.testing.assert_close(log_bernoulli(grey, logits), (grey * of_a_one + (1 - grey) * of_a_zero).sum(-1))


def test_log_bernoulli_is_finite_at_extreme_logits():
    logits, x = 1e4 * torch.tensor([[1.0, -1.0]]).repeat(1, 392), torch.tensor([[1.0, 0.0]]).repeat(1, 392)
    assert log_bernoulli(x, logits).item() == 0
    assert log_bernoulli(1 - x, logits).item() == pytest.approx(-784e4)


def test_kl_against_torch_distributions_and_dimension_by_dimension():
    mu, logvar, normal = gaussians(20, 3)
    expected = distributions.kl_divergence(normal, PRIOR)
    torch.testing.assert_close(kl_divergence(mu, logvar), expected.sum(-1))
    torch.testing.assert_close(kl_divergence(mu[..., None], logvar[..., None]), expected)


def test_kl_is_zero_at_the_prior_only_and_precise_beside_it():
    assert kl_divergence(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0
    tiny = kl_divergence(torch.zeros(1, 1), torch.full((1, 1), 1e-3)).item()
    assert tiny == pytest.approx(1e-6 / 4, rel=1e-3)  # the first term of the series; exp(logvar) - 1 would miss by 10 %


def test_reparameterize_draws_from_q():
    mu, logvar = torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0])
    z = reparameterize(mu.expand(200_000, 2), logvar.expand(200_000, 2), generator=generator())
    torch.testing.assert_close(z.mean(0), mu, atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(0), logvar.exp(), atol=0, rtol=0.02)
    assert abs(torch.corrcoef(z.T)[0, 1]) < 0.01


def test_reparameterize_and_its_gradients_are_those_of_torch_distributions_from_the_same_noise():
    mu, logvar, _ = gaussians(7, 3)
    mu.requires_grad_()
    logvar.requires_grad_()
    draws = []
    for draw in (reparameterize, lambda mu, logvar: Normal(mu, logvar.exp().sqrt()).rsample()):
        torch.manual_seed(5)
        z = draw(mu, logvar)
        draws.append((z, *torch.autograd.grad(z.pow(2).sum(), (mu, logvar))))
    torch.testing.assert_close(draws[0], draws[1])
    assert reparameterize(mu.to("meta"), logvar.to("meta")).is_meta  # a device without numbers: it follows its input's


def test_every_bound_is_exact_where_the_code_carries_nothing():
    """A decoder that ignores z and q = p(z): log p(x) is log p(x|z), and no bound has any slack."""
    logits = torch.randn(784, generator=generator(), dtype=torch.float64)
    zeros = torch.zeros(3, dtype=torch.float64)
    model = VAE(Constant(zeros, zeros), Constant(logits))
    x = torch.bernoulli(torch.full((5, 784), 0.3, dtype=torch.float64), generator=generator(1))
    exact = Bernoulli(logits=logits).log_prob(x).sum(-1)
    bound = elbo(model, x)
    torch.testing.assert_close(bound.value, exact)
    torch.testing.assert_close(bound.log_likelihood, exact)
    assert bound.kl.abs().max() == 0
    for k in (1, 10):
        torch.testing.assert_close(importance_weighted_bound(log_importance_weights(model, x, k)), exact)


def test_beta_weighs_the_kl_alone():
    mu, logvar, normal = gaussians(3)
    model = VAE(Constant(mu, logvar), Constant(torch.zeros(784, dtype=torch.float64)))
    kl = distributions.kl_divergence(normal, PRIOR).sum().expand(2)
    bound = elbo(model, torch.zeros(2, 784, dtype=torch.float64), beta=4.0)
    log_likelihood = torch.full_like(kl, 784 * math.log(0.5))
    torch.testing.assert_close(tuple(bound), (log_likelihood - 4 * kl, log_likelihood, kl))


@pytest.fixture(scope="module")
def solved():
    """A small random model of one latent number, images from it, and by quadrature log p(x), and log p(z|x) on GRID."""
    torch.manual_seed(0)
    model = mlp_vae(1, (8,)).double().requires_grad_(False)
    model.decoder.logits.weight.mul_(2)  # so that the posterior differs from the prior
    z = torch.randn(6, 1, generator=generator(), dtype=torch.float64)
    x = torch.bernoulli(model.decode(z).sigmoid(), generator=generator(1))
    likelihood = Bernoulli(logits=model.decode(GRID[:, None]))
    log_joint = torch.stack([likelihood.log_prob(row).sum(-1) + PRIOR.log_prob(GRID) for row in x])  # (6, 2001)
    log_p = torch.logsumexp(log_joint, 1) + math.log(24 / 2000)
    return model, x, log_p, log_joint - log_p[:, None]


def test_importance_weighted_bound_meets_quadrature(solved):
    model, x, log_p, _ = solved
    log_weights = log_importance_weights(model, x, 20_000, generator=generator(2))
    assert log_weights.shape == (20_000, 6)
    weights = (log_weights - log_weights.max(0).values).exp()
    standard_error = weights.std(0) / weights.mean(0) / math.sqrt(20_000)
    assert standard_error.max() < 0.1
    error = (importance_weighted_bound(log_weights) - log_p).abs()
    assert (error < 4 * standard_error + 1e-6).all(), (error, standard_error)


def test_the_elbo_is_log_p_minus_the_kl_to_the_true_posterior(solved):
    model, x, log_p, log_posterior = solved
    mu, logvar = model.encode(x)
    log_q = Normal(mu, (0.5 * logvar).exp()).log_prob(GRID)
    gap = (log_q.exp() * (log_q - log_posterior)).sum(-1) * 24 / 2000
    assert gap.min() > 0.05
    draws = torch.stack([elbo(model, x, generator=generator(seed)).value for seed in range(4000)])
    standard_error = draws.std(0) / math.sqrt(4000)
    assert ((draws.mean(0) - (log_p - gap)).abs() < 4 * standard_error).all()


def test_more_samples_tighten_the_bound(solved):
    """The mean gap to log p(x) shrinks by a third or more from K = 1 to 5 to 50, and never becomes a gain."""
    model, x, log_p, _ = solved
    log_weights = log_importance_weights(model, x, 20_000, generator=generator(3))
    bounds = (importance_weighted_bound(log_weights.view(k, 20_000 // k, 6)).mean() for k in (1, 5, 50))
    gaps = [(log_p.mean() - bound).item() for bound in bounds]
    assert gaps[0] > 0.05 and gaps[1] < gaps[0] / 1.5 and gaps[2] < gaps[1] / 1.5 and gaps[2] > -0.01


def test_the_bound_of_one_sample_is_its_log_weight_and_never_overflows():
    log_weights = torch.tensor([[-2000.0, 1500.0]])
    torch.testing.assert_close(importance_weighted_bound(log_weights), log_weights[0])
    torch.testing.assert_close(importance_weighted_bound(log_weights.repeat(7, 1)), log_weights[0])


def small_random_model():
    """A model of two latent numbers whose q(z|x) depends on x and whose weights are in double precision."""
    torch.manual_seed(3)
    return mlp_vae(2, (16,)).double()


def test_iwae_with_one_sample_averages_to_the_elbo_in_closed_form():
    """E[log w] is the ELBO: log p(x|z) averaged over quadrature nodes of q, minus torch.distributions' KL."""
    model = small_random_model()
    x = torch.rand(3, 784, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        draws = torch.stack([iwae(model, x, 1, generator=generator(seed)).value for seed in range(4000)])
        mu, logvar = model.encode(x)
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)
        steps = torch.cartesian_prod(*2 * [torch.from_numpy(nodes)])[:, None]  # (400, 1, 2)
        shares = torch.from_numpy(np.outer(weights, weights).ravel() / (2 * np.pi))[:, None]
        logits = model.decode(mu + torch.exp(logvar / 2) * steps)
        expected = (shares * Bernoulli(logits=logits, validate_args=False).log_prob(x).sum(-1)).sum(0)
    exact = expected - distributions.kl_divergence(Normal(mu, torch.exp(logvar / 2)), PRIOR).sum(-1)
    assert ((draws.mean(0) - exact).abs() < 5 * draws.std(0) / len(draws) ** 0.5).all()


def test_iwae_value_is_the_bound_of_the_same_draws_and_its_terms_are_those_of_the_elbo():
    model = small_random_model()
    x = torch.rand(3, 784, generator=generator(), dtype=torch.float64)
    bound = iwae(model, x, 7, generator=generator(1))
    log_weights = log_importance_weights(model, x, 7, generator=generator(1))
    torch.testing.assert_close(bound.value.exp(), log_weights.exp().mean(0))
    mu, logvar = model.encode(x)
    q = Normal(mu, torch.exp(logvar / 2))
    torch.testing.assert_close(bound.kl, distributions.kl_divergence(q, PRIOR).sum(-1))
    many = iwae(model, x, 3000, generator=generator(2))
    elbos = torch.stack([elbo(model, x, generator=generator(seed)).log_likelihood for seed in range(3000)])
    error = elbos.std(0) / 3000**0.5
    assert ((many.log_likelihood - elbos.mean(0)).abs() < 5 * 2**0.5 * error).all()


def test_iwae_gradient_weighs_each_draw_by_its_share_of_the_likelihood():
    """[3], eq. 14: the decoder's gradient is the mean of each draw's gradient, weighted by w_k / sum w."""
    model = small_random_model()
    x = torch.rand(2, 784, generator=generator(), dtype=torch.float64)
    iwae(model, x, 5, generator=generator(1)).value.sum().backward()
    found = model.decoder.logits.bias.grad
    with torch.no_grad():
        mu, logvar = model.encode(x)
        z = reparameterize(mu.expand(5, -1, -1), logvar.expand(5, -1, -1), generator=generator(1))
        shares = log_importance_weights(model, x, 5, generator=generator(1)).softmax(0)  # (5, 2)
        by_draw = x - model.decode(z).sigmoid()  # d log p(x|z) / d logits of a Bernoulli
    torch.testing.assert_close(found, (shares[..., None] * by_draw).sum((0, 1)))
