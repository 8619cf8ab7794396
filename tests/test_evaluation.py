"""Evaluation: all images, any batch size, the model left as it was, and numbers against exact ones."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from oracles import Constant, Moved, generator, linear_vae, raw_of, small_model
from torch import nn
from torch.distributions import Normal, kl_divergence

import vae_utils as vae
from vae_utils import estimate_log_likelihood, evaluate, posterior_on_grid

IMAGES = torch.rand(11, 784, generator=generator(), dtype=torch.float64)


@pytest.fixture
def model():
    return small_model().double()


def test_evaluate_is_the_mean_elbo_of_all_images(model):
    """One draw for each image, by its seed; the KL is exact for the standard normal."""
    bound = vae.elbo(model, IMAGES, generator=generator(3))
    expected = {name: getattr(bound, name).mean().item() for name in ("log_likelihood", "kl")}
    expected = {"elbo": expected["log_likelihood"] - expected["kl"], **expected}
    assert evaluate(model, IMAGES, seed=3) == pytest.approx(expected) and list(evaluate(model, IMAGES)) == [*expected]
    assert evaluate(model, IMAGES, seed=1) != evaluate(model, IMAGES) == evaluate(model, IMAGES, seed=0)
    zero, one = (estimate_log_likelihood(model, IMAGES, num_samples=2, seed=seed) for seed in (0, 1))
    assert not torch.equal(zero, one)


def wide(model, x, *, generator):
    """An objective with a q of its own, wider than the model's."""
    mu, logvar = model.encode(x)
    q = vae.Normal(mu, logvar + 2)
    z = q.sample(generator)
    log_likelihood, kl = model.log_likelihood(x, z), model.kl(q, z)
    return vae.Bound(3 * log_likelihood, log_likelihood, kl)


def test_an_objective_with_a_q_of_its_own_is_evaluated_with_that_q():
    """The terms of all 6,000 images, in batches of any size; here the KL and the mean log likelihood are exact."""
    model, x, _, _ = linear_vae(n=6000)
    mu, logvar = model.encode(x)
    q = Normal(mu, (logvar / 2 + 1).exp())
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(-1).mean().item()
    trace = (q.variance @ model.decoder.weight.square().T).sum(-1)  # what the spread of z adds to the squared error
    log_likelihood = (model.log_likelihood(x, mu) - trace / 2 / 0.5**2).mean().item()
    for batch_size in (1000, 7):
        found = evaluate(model, x, objective=wide, batch_size=batch_size)
        assert found["kl"] == pytest.approx(kl) and found["elbo"] == found["log_likelihood"] - found["kl"]
        assert found["log_likelihood"] == pytest.approx(log_likelihood, abs=0.5)
    assert evaluate(model, x)["log_likelihood"] > log_likelihood + 3
    row = vae.fit(model, x[:10], epochs=1, objective=wide, valid_images=x, seed=4, batch_size=7, progress=False)[0]
    assert {
        f"valid_{name}": mean for name, mean in evaluate(model, x, objective=wide, batch_size=7, seed=4).items()
    } == {name: mean for name, mean in row.items() if name.startswith("valid_")}


def test_an_objective_may_take_images_that_the_decoder_does_not_give():
    """Pixels with a label beside them, which encoder and decoder are told and the likelihood is not."""

    def conditional(model, x, *, generator):
        q = model.encode(x)
        z = q.sample(generator)
        log_likelihood = model.likelihood.log_prob(x[:, :784], model.decode(torch.cat([z, x[:, 784:]], dim=1)))
        return vae.Bound(log_likelihood - model.kl(q, z), log_likelihood, model.kl(q, z))

    model = vae.VAE(nn.Linear(794, 4), nn.Linear(12, 784), 2)
    images = torch.cat([IMAGES.float(), F.one_hot(torch.arange(11) % 10, 10)], dim=1)
    (row,) = vae.fit(model, images, epochs=1, objective=conditional, valid_images=images, progress=False)
    assert row["valid_elbo"] == evaluate(model, images, objective=conditional)["elbo"]
    with pytest.raises(ValueError, match="must return a Bound"):
        evaluate(model, images, objective=lambda model, x, generator: conditional(model, x, generator=generator).value)


def test_thousands_of_samples_leave_no_rounding_in_the_sum():
    """With a picture that ignores z, and q(z|x) = p(z), every weight is p(x): so is the mean of however many."""
    model = vae.VAE(Constant(torch.tensor([0.0, raw_of(0.0)])), Constant(torch.zeros(784)), 1)
    one, many = (estimate_log_likelihood(model, torch.full((1, 784), 0.5), num_samples=k).item() for k in (1, 3000))
    assert one == pytest.approx(many, rel=2e-7) == pytest.approx(-784 * math.log(2), rel=1e-6)


def test_an_estimate_shows_its_progress_only_if_asked(model, capsys):
    for asked in ({}, {"progress": True}):
        estimate_log_likelihood(model, IMAGES, num_samples=3, **asked)
        assert ("3/3" in capsys.readouterr().err) is bool(asked)


def test_the_memory_of_an_estimate_does_not_grow_with_the_samples(model):
    """The decoder sees one draw of one batch at a time, however many draws are asked for."""
    rows = []
    model.decoder.register_forward_hook(lambda module, inputs, output: rows.append(output[..., 0].numel()))
    for num_samples in (2, 50):
        rows.clear()
        estimate_log_likelihood(model, IMAGES, num_samples=num_samples, batch_size=4)
        assert max(rows) == 4 and sum(rows) == 11 * num_samples


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("function", [
    evaluate, partial(evaluate, objective=partial(vae.iwae, num_samples=2)), vae.encode_dataset,
    partial(estimate_log_likelihood, num_samples=2), partial(posterior_on_grid, n=3),
])  # fmt: skip
def test_evaluation_mode_is_used_and_every_mode_restored(model, function, training):
    """Also after an error, in an autocast, whose rounding is kept out, and for a part with a mode of its own."""
    model, images, seen = model.float().train(training), IMAGES.float(), []
    frozen = model.decoder[0].eval()
    for part in (model.encoder, model.decoder):
        part.register_forward_pre_hook(lambda module, inputs: seen.append(module.training or torch.is_grad_enabled()))
    with torch.autocast("cpu", torch.bfloat16):
        found = function(model, images)
    assert str(found) == str(function(model, images)) and seen and not any(seen)
    for part in (model.encoder, model.decoder):
        part.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        function(model, images)
    assert model.training is model.encoder[0].training is model.decoder[-1].training is training
    assert not frozen.training and torch.is_grad_enabled()


def test_active_units_are_those_whose_mean_moves():
    q = vae.Normal(torch.randn(5000, 4, generator=generator()) * torch.tensor([1.0, 0.11, 0.09, 0.0]) + 3, None)
    assert vae.active_units(q).tolist() == [True, True, False, False]
    assert vae.active_units(q, threshold=0.001).tolist() == [True, True, True, False]
    assert not vae.active_units(vae.Normal(torch.ones(9, 1), None), threshold=0.0)


def test_images_go_to_the_device_of_the_model(model, monkeypatch):
    """The meta device holds no numbers, so that these calls fail unless images and codes are brought there."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **settings: nullcontext())  # which it does not know either
    there = model.to("meta")
    assert all(part.is_meta for part in vae.encode_dataset(there, IMAGES))


def test_the_grid_gives_log_p_and_the_highest_place_of_the_posterior_in_probabilistic_pca():
    model, x, log_p, posterior = linear_vae()
    log_evidence, mode = posterior_on_grid(model, x, limit=9.0, n=181)
    torch.testing.assert_close(log_evidence, log_p, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mode, (posterior.mean * 10).round() / 10)  # the grid's steps are of 0.1


def test_the_grid_says_when_a_posterior_reaches_its_border():
    """Three posteriors of a decoder that ignores z: each is a prior around (4, 0), a sixth of it beyond 5."""
    decoder = Constant(torch.zeros(784))
    with pytest.warns(UserWarning, match="3 of 3 posteriors reach the border at 5, .*larger limit"):
        missed = posterior_on_grid(vae.VAE(None, decoder, 2, prior=Moved(4, 0)), torch.ones(3, 784)).log_evidence
    whole = posterior_on_grid(vae.VAE(None, decoder, 2, prior=Moved(4, 0)), torch.ones(3, 784), limit=10.0, n=1001)
    torch.testing.assert_close(whole.log_evidence, torch.full((3,), -784 * math.log(2)))
    assert (whole.log_evidence - missed > 0.15).all()  # -log(1 - 0.159)


def test_the_best_gaussian_is_the_posterior_of_probabilistic_pca_whatever_the_start():
    """There the best is exact. Of two starts the better end is kept for each image, or a start that none betters."""
    model, x, _, posterior = linear_vae()
    exact = vae.Normal(posterior.mean, 2 * posterior.stddev.log().expand(6, 2))
    off = vae.Normal(exact.mu + 0.5, exact.logvar + 1)
    found = vae.best_gaussian(model, x, [off], steps=300)
    torch.testing.assert_close(tuple(found), tuple(exact), rtol=0.02, atol=0.02)
    far = vae.Normal(exact.mu + 50, exact.logvar)
    for starts in ([far, exact], [exact, far]):
        torch.testing.assert_close(tuple(vae.best_gaussian(model, x, starts, steps=2)), tuple(exact), rtol=0, atol=0)
    even = torch.arange(6)[:, None] % 2 == 0  # images for which the first start is the good one
    half = [vae.Normal(torch.where(good, exact.mu, far.mu), exact.logvar) for good in (even, ~even)]
    torch.testing.assert_close(vae.best_gaussian(model, x, half, steps=2).mu, exact.mu, rtol=0, atol=0)
