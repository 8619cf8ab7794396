"""Properties that hold for every input, tried on examples that hypothesis chooses, the extreme ones first.

Bounds from random draws are held against Markov's inequality, which says how rarely a right implementation could break
it: P(bound > log p(x) + t) <= exp(-t), as E[exp bound] = p(x).
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import generator, linear_vae, solved_vae

import vae_utils as vae
from vae_utils import estimate_log_likelihood, evaluate, iwae, mlp_vae

RARE = 25.0  # a right implementation breaks one of the inequalities below with a probability of about exp(-25)

batches, latents, seeds = st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32 - 1)


@settings(max_examples=40)
@given(st.floats(0.3, 10), st.floats(0.02, 100), seeds)  # q is so many times as wide as the posterior
def test_elbo_below_importance_weighted_bound_below_log_p(wider, sigma, seed):
    model, x, log_p, _ = linear_vae(wider=wider, sigma=sigma)
    highest = log_p + RARE + 1e-9 * log_p.abs()
    for k in (1, 10, 300):
        bound = iwae(model, x, num_samples=k, generator=generator(seed))
        assert torch.isfinite(bound.value).all() and (bound.value <= highest).all()  # Markov
        of_the_draws = bound.log_likelihood - bound.kl  # their mean ELBO, which no set of draws puts above (Jensen)
        assert (of_the_draws <= bound.value + 1e-9 * (1 + bound.value.abs())).all()
    assert (estimate_log_likelihood(model, x, num_samples=100, seed=seed) <= highest).all()


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
