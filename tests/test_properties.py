"""Properties that hold for every input, tried on examples that hypothesis chooses, the extreme ones first.

The models here are solved exactly. Bounds from random draws are held against inequalities that say how rarely a right
implementation could break them: Markov's, P(bound > log p(x) + t) <= exp(-t) as E[exp bound] = p(x), and Bernstein's.
"""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import distributions, nn
from torch.distributions import Bernoulli, Normal

from vae_utils import (
    LOGVAR_BOUND,
    LOGVAR_CEILING,
    VAE,
    bounded_logvar,
    elbo,
    encode_dataset,
    estimate_log_likelihood,
    evaluate,
    fit,
    importance_weighted_bound,
    iwae,
    kl_divergence,
    log_bernoulli,
    log_importance_weights,
    mlp_vae,
)

PRIOR = Normal(0.0, 1.0)
RARE = 25.0  # a right implementation breaks one of the inequalities below with a probability of about exp(-25)

batches, latents, seeds = st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([torch.float32, torch.float64])


def tensors(bound, width=None):
    """Tensors (B, L) of numbers up to `bound` in size, of single or double precision."""

    def build(batch, latent, dtype, seed, scale):
        draws = torch.rand(batch, width or latent, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        return (2 * draws - 1) * scale

    scales = st.one_of(st.sampled_from([0.0, 1e-8, 1e-3, 1.0, bound]), st.floats(0, bound))
    return st.builds(build, batches, latents, dtypes, seeds, scales)


@given(tensors(1e3), st.floats(-1e3, 1e3))
@example(torch.full((1, 1), 1e3), 1e3)
@example(torch.full((1, 1), -1e3), -1e3)
def test_the_kl_is_never_negative_and_never_nan(mu, logvar):
    """It is infinite where the variance itself is: above exp(88) in single and exp(709) in double precision."""
    kl = kl_divergence(mu, torch.full_like(mu, logvar))
    assert (kl >= 0).all() and kl.shape == mu.shape[:1]
    assert torch.isfinite(kl).all() or logvar > math.log(torch.finfo(mu.dtype).max) - 8


@given(tensors(1e3), st.floats(0, LOGVAR_BOUND), seeds)
@example(torch.zeros(2, 3), 1e-3, 0)
def test_the_kl_of_what_a_model_puts_out_is_that_of_torch_and_has_finite_gradients(mu, scale, seed):
    mu = mu.double().requires_grad_()
    draws = torch.rand(mu.shape, generator=torch.Generator().manual_seed(seed), dtype=mu.dtype)
    logvar = (scale * (2 * draws - 1)).requires_grad_()
    kl = kl_divergence(mu, logvar)
    expected = distributions.kl_divergence(Normal(mu, torch.exp(logvar / 2)), PRIOR).sum(-1)
    torch.testing.assert_close(kl, expected, atol=1e-12, rtol=1e-7)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(kl.sum(), (mu, logvar)))


@given(tensors(1e30))
def test_any_raw_log_variance_is_bounded_in_order_and_with_a_finite_gradient(raw):
    raw.requires_grad_()
    logvar = bounded_logvar(raw)
    assert (logvar >= -LOGVAR_BOUND).all() and (logvar <= LOGVAR_CEILING).all()
    normal = raw.abs() > 20 * torch.finfo(raw.dtype).tiny  # a twelfth of anything smaller may round to 0
    assert torch.equal(logvar.sign()[normal], raw.sign()[normal])
    assert (logvar.flatten()[raw.flatten().argsort()].diff() >= 0).all()
    (gradient,) = torch.autograd.grad(logvar.sum(), raw)
    assert torch.isfinite(gradient).all() and (gradient >= 0).all()


@given(tensors(1e4, 784), st.floats(0, 1), seeds)
def test_log_bernoulli_is_finite_never_positive_and_symmetric(logits, level, seed):
    logits.requires_grad_()
    grey = torch.full_like(logits, level)
    for images in (torch.bernoulli(grey, generator=torch.Generator().manual_seed(seed)), grey):
        value = log_bernoulli(images, logits)
        assert torch.isfinite(value).all() and (value <= 0).all()
        torch.testing.assert_close(value, log_bernoulli(1 - images, -logits))
        assert (torch.autograd.grad(value.sum(), logits)[0].abs() <= 1).all()


@given(tensors(1e6), st.floats(-1e5, 1e5))
def test_the_bound_lies_between_the_mean_and_the_largest_log_weight(log_weights, shift):
    """The mean is the ELBO's: by Jensen's inequality no set of draws puts the ELBO above the bound."""
    log_weights = log_weights.double()  # (K, B)
    bound = importance_weighted_bound(log_weights)
    slack = 1e-9 * (1 + log_weights.abs().max())
    assert (bound >= log_weights.mean(0) - slack).all() and (bound <= log_weights.max(0).values + slack).all()
    torch.testing.assert_close(importance_weighted_bound(log_weights + shift), bound + shift)
    torch.testing.assert_close(importance_weighted_bound(log_weights.flip(0)), bound)
    torch.testing.assert_close(importance_weighted_bound(log_weights.repeat(3, 1)), bound)


class Sides(nn.Module):
    """A decoder that only sees on which side of 0 the first code lies: p(x) is a sum of two terms."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)  # (2, 784)

    def forward(self, z):
        return self.logits[(z[..., 0] > 0).long()]


class Fixed(nn.Module):
    """q(z|x) is the same for every x."""

    def __init__(self, mu, raw):
        super().__init__()
        self.mu, self.raw, self.latent_dim = nn.Parameter(mu), nn.Parameter(raw), len(mu)

    def forward(self, x):
        return self.mu.expand(len(x), -1), bounded_logvar(self.raw).expand(len(x), -1)


@st.composite
def solved(draw):
    """A model, images, the two log p(x|side) (2, B), and the probability of the right side under q."""
    batch, latent = draw(batches), draw(latents)
    generator = torch.Generator().manual_seed(draw(seeds))
    scale = draw(st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e4]))
    reach = draw(st.sampled_from([0.0, 1.0, 3.0, 1e3]))
    spread = draw(st.sampled_from([0.0, 1.0, 1e3]))
    logits = scale * torch.randn(2, 784, generator=generator, dtype=torch.float64)
    mu, raw = (s * (2 * torch.rand(latent, generator=generator, dtype=torch.float64) - 1) for s in (reach, spread))
    x = torch.bernoulli(torch.rand(batch, 784, generator=generator, dtype=torch.float64), generator=generator)
    by_side = Bernoulli(logits=logits[:, None]).log_prob(x).sum(-1)
    right = torch.special.ndtr(mu[0] * torch.exp(-bounded_logvar(raw[0]) / 2))
    return VAE(Fixed(mu, raw), Sides(logits)), x, by_side, right


@settings(max_examples=40)
@given(solved(), seeds)
def test_elbo_below_importance_weighted_bound_below_log_p(case, seed):
    model, x, by_side, right = case
    generator = torch.Generator().manual_seed(seed)
    log_p = torch.logsumexp(by_side, 0) - math.log(2)
    exact_elbo = right * by_side[1] + (1 - right) * by_side[0] - kl_divergence(*model.encode(x))
    assert (exact_elbo <= log_p + 1e-9 * log_p.abs()).all()
    with torch.no_grad():
        log_weights = log_importance_weights(model, x, 300, generator=generator)
        for k in (1, 10, 300):
            bounds = torch.stack([importance_weighted_bound(part) for part in log_weights.split(k)])
            assert torch.isfinite(bounds).all() and (bounds <= log_p + RARE + 1e-9 * log_p.abs()).all()  # Markov
            assert (log_weights.mean(0) <= bounds.mean(0) + 1e-9 * (1 + bounds.abs().max())).all()  # Jensen
        estimate = estimate_log_likelihood(model, x, num_samples=100, seed=seed)
        assert (estimate <= log_p + RARE + 1e-9 * log_p.abs()).all()
        draws = elbo(model, x.repeat(300, 1), generator=generator).value.view(300, -1)
    gap = (by_side[1] - by_side[0]).abs()
    error = (2 * right * (1 - right) * RARE / 300).sqrt() * gap + RARE / 900 * gap  # Bernstein, two-point draws
    assert ((draws.mean(0) - exact_elbo).abs() <= error + 1e-9 * (1 + exact_elbo.abs())).all()


@settings(max_examples=40)
@given(solved(), st.integers(1, 20), dtypes)
def test_gradients_of_every_bound_are_finite(case, num_samples, dtype):
    model, x, _, _ = case
    model, x = model.to(dtype), x.to(dtype)
    for bound in (elbo(model, x), iwae(model, x, num_samples)):
        model.zero_grad()
        bound.value.mean().backward()
        assert all(torch.isfinite(part).all() for part in bound) and (bound.kl >= 0).all()
        assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@settings(max_examples=15)
@given(batches, latents, st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 12), seeds)
def test_no_result_depends_on_how_the_images_are_split_or_ordered(batch, latent, widths, batch_size, seed):
    torch.manual_seed(seed % 1000)
    model, x, order = mlp_vae(latent, widths), torch.rand(batch, 784), torch.randperm(batch)
    mu, logvar = encode_dataset(model, x)
    torch.testing.assert_close(encode_dataset(model, x, batch_size=batch_size), (mu, logvar), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encode_dataset(model, x[order]), (mu[order], logvar[order]), atol=1e-6, rtol=1e-5)
    assert evaluate(model, x[order])["kl"] == pytest.approx(evaluate(model, x)["kl"], rel=1e-5)
    split, whole = (evaluate(model, x, seed=seed, batch_size=size) for size in (batch_size, 1000))
    assert split == pytest.approx(whole, rel=1e-5)
    settings = {"num_samples": 3, "seed": seed}
    split, whole = (estimate_log_likelihood(model, x, batch_size=size, **settings) for size in (batch_size, 1000))
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-3)


@settings(max_examples=10)
@given(st.integers(1, 9), st.integers(1, 12), latents, st.booleans(), st.integers(1, 3), seeds)
def test_training_of_any_shape_ends_with_finite_figures(images, batch_size, latent, binarized, num_samples, seed):
    torch.manual_seed(seed % 1000)
    model, x = mlp_vae(latent, (5,)), torch.rand(images, 784)
    settings = {"binarized": binarized, "num_samples": num_samples, "seed": seed, "progress": False}
    history = fit(model, x, epochs=2, batch_size=batch_size, valid_images=x, **settings)
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert all(row["kl"] >= 0 and row["log_likelihood"] <= 0 for row in history)


def solve(model, x, latent_dim):
    """log p(x) and the standard deviation of w / p(x) for draws from q, each (B,), by quadrature on a fine grid."""
    axis = torch.linspace(-8, 8, {1: 4001, 2: 241}[latent_dim], dtype=torch.float64)
    z, cell = torch.cartesian_prod(*latent_dim * [axis]).view(-1, latent_dim), latent_dim * math.log(axis[1] - axis[0])
    logits, (mu, logvar) = model.decode(z), model.encode(x)
    # The sum over pixels of x log p + (1 - x) log(1 - p) is linear in x.
    log_joint = x @ logits.T - nn.functional.softplus(logits).sum(-1) + PRIOR.log_prob(z).sum(-1)  # (B, grid)
    log_p = torch.logsumexp(log_joint, 1) + cell
    log_q = Normal(mu[:, None], torch.exp(logvar / 2)[:, None]).log_prob(z).sum(-1)
    second_moment = torch.logsumexp(2 * log_joint - log_q, 1) + cell - 2 * log_p
    return log_p, (torch.exp(second_moment) - 1).sqrt()


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_the_estimate_is_as_exact_as_its_standard_error_says(latent_dim):
    """Over 100 seeds: within 3 standard errors at least 95 times, and within 1 and 2 as often as a normal variable."""
    torch.manual_seed(latent_dim)
    model = mlp_vae(latent_dim, (8,)).double().requires_grad_(False)
    model.encoder.logvar.bias.fill_(0.3)  # a q somewhat wider than the posterior: weights of finite variance
    model.decoder.logits.weight.div_(latent_dim**2)
    x = torch.bernoulli(model.sample(4)).repeat(2, 1)  # equal images have draws of their own
    log_p, deviation = solve(model, x, latent_dim)
    error = deviation / math.sqrt(100)
    assert error.min() > 0.005 and error.max() < 0.15
    estimates = torch.stack([estimate_log_likelihood(model, x, num_samples=100, seed=seed) for seed in range(100)])
    of_the_mean = (estimates - log_p).mean(1) / (error.norm() / len(x))
    assert (of_the_mean.abs() < 3).sum() >= 95
    scores = (estimates - log_p) / error  # (100, 8)
    for width in (1.0, 2.0):
        share, expected = (scores.abs() < width).double().mean().item(), math.erf(width / math.sqrt(2))
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / scores.numel()), (width, share)
    assert abs(scores.std() - 1) < 0.1 and abs(scores.mean()) < 0.2  # the logarithm leans down by error / 2
