"""Properties that hold for every input, tried on examples that hypothesis chooses, the extreme ones first.

Bounds from random draws are held against Markov's inequality, which says how rarely a right implementation could break
it: P(bound > log p(x) + t) <= exp(-t), as E[exp bound] = p(x).
"""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NORMAL, generator, linear_vae, solved_vae
from torch import distributions, nn
from torch.distributions import Normal

import vae_utils as vae
from vae_utils import VAE, elbo, estimate_log_likelihood, evaluate, iwae, mlp_vae

RARE = 25.0  # a right implementation breaks one of the inequalities below with a probability of about exp(-25)

batches, latents, seeds = st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([torch.float32, torch.float64])


def tensors(bound, width=None):
    """Tensors (B, L) of numbers up to `bound` in size, of single or double precision."""

    def build(batch, latent, dtype, seed, scale):
        return (2 * torch.rand(batch, width or latent, generator=generator(seed), dtype=dtype) - 1) * scale

    scales = st.one_of(st.sampled_from([0.0, 1e-8, 1e-3, 1.0, bound]), st.floats(0, bound))
    return st.builds(build, batches, latents, dtypes, seeds, scales)


@given(tensors(1e30), tensors(1e3))
def test_whatever_an_encoder_puts_out_its_q_is_bounded_in_order_and_has_a_finite_kl_and_gradient(raw, mu):
    raw, mu = raw.flatten()[:, None].requires_grad_(), mu.flatten()[:1].to(raw.dtype)
    mu, logvar = VAE(nn.Identity(), nn.Identity(), 1).encode(torch.cat([mu.expand_as(raw), raw], dim=1))
    assert (logvar >= -12).all() and (logvar <= 4).all()
    assert (logvar[raw[:, 0].argsort()].diff(dim=0) >= 0).all()
    kl = vae.kl_divergence(mu, logvar)
    expected = distributions.kl_divergence(Normal(mu.double(), torch.exp(logvar.double() / 2)), NORMAL).sum(-1)
    torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-5)
    assert (kl >= 0).all() and torch.isfinite(torch.autograd.grad(kl.sum(), raw)[0]).all()


@given(tensors(1e4, 784), st.floats(0, 1), seeds)
def test_the_bernoulli_likelihood_is_finite_never_positive_and_symmetric(logits, level, seed):
    logits.requires_grad_()
    grey, log_prob = torch.full_like(logits, level), vae.Bernoulli().log_prob
    for images in (torch.bernoulli(grey, generator=generator(seed)), grey):
        value = log_prob(images, logits)
        assert torch.isfinite(value).all() and (value <= 0).all()
        torch.testing.assert_close(value, log_prob(1 - images, -logits))
        assert (torch.autograd.grad(value.sum(), logits)[0].abs() <= 1).all()


wide = st.floats(0.3, 10)  # how many times as wide as the posterior q is
sigmas = st.floats(0.02, 100)


@settings(max_examples=40)
@given(wide, sigmas, seeds)
def test_elbo_below_importance_weighted_bound_below_log_p(wider, sigma, seed):
    model, x, log_p, _ = linear_vae(wider=wider, sigma=sigma)
    highest = log_p + RARE + 1e-9 * log_p.abs()
    for k in (1, 10, 300):
        bound = iwae(model, x, num_samples=k, generator=generator(seed))
        assert torch.isfinite(bound.value).all() and (bound.value <= highest).all()  # Markov
        of_the_draws = bound.log_likelihood - bound.kl  # their mean ELBO, which no set of draws puts above (Jensen)
        assert (of_the_draws <= bound.value + 1e-9 * (1 + bound.value.abs())).all()
    assert (estimate_log_likelihood(model, x, num_samples=100, seed=seed) <= highest).all()


@settings(max_examples=40)
@given(wide, sigmas, st.floats(0, 1e4), st.integers(1, 20), dtypes)
def test_gradients_of_every_bound_are_finite(wider, sigma, scale, num_samples, dtype):
    """Also of images far from all that the model knows."""
    model, x = (part.to(dtype) for part in linear_vae(wider=wider, sigma=sigma)[:2])
    for bound in (elbo(model, scale * x), iwae(model, scale * x, num_samples=num_samples)):
        slopes = torch.autograd.grad(bound.value.mean(), [*model.encoder.parameters(), *model.decoder.parameters()])
        assert all(torch.isfinite(part).all() for part in (*bound, *slopes))


@settings(max_examples=15)
@given(batches, latents, st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 12), seeds)
def test_no_result_depends_on_how_the_images_are_split_or_ordered(batch, latent, widths, batch_size, seed):
    torch.manual_seed(seed % 1000)
    model, x, order = mlp_vae(latent, widths), torch.rand(batch, 784), torch.randperm(batch)
    codes = vae.encode_dataset(model, x[order], batch_size=batch_size)
    torch.testing.assert_close(codes, model.encode(x[order]))
    assert not codes[0].requires_grad
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
    settings = {"objective": partial(iwae, num_samples=num_samples), "valid_images": x, "seed": seed}
    history = vae.fit(model, x, epochs=2, batch_size=batch_size, binarized=binarized, progress=False, **settings)
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert all(row["valid_kl"] >= 0 and row["log_likelihood"] <= 0 for row in history)


def test_the_estimate_is_as_exact_as_its_standard_error_says():
    """Of 100 estimates: within 3 standard errors 95 times or more, and within 1 and 2 as often as a normal variable."""
    model, x, log_p, log_posterior, log_q = solved_vae()
    second_moment = (2 * log_posterior - log_q).exp().sum(-1) * 24 / 2000  # of w / p(x), whose mean is 1
    error = ((second_moment - 1) / 100).sqrt()
    assert error.min() > 0.005 and error.max() < 0.15
    estimates = estimate_log_likelihood(model, x.repeat(100, 1), num_samples=100).view(100, -1)
    of_the_mean = (estimates - log_p).mean(1) / (error.norm() / len(x))
    assert (of_the_mean.abs() < 3).sum() >= 95
    scores = (estimates - log_p) / error  # (100, 6)
    for width in (1.0, 2.0):
        share, expected = (scores.abs() < width).double().mean().item(), math.erf(width / math.sqrt(2))
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / scores.numel()), (width, share)
    assert abs(scores.std() - 1) < 0.1 and abs(scores.mean()) < 0.2  # the logarithm leans down by error / 2
