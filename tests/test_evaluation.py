"""Evaluation: all images, any batch size, the model left as it was, and numbers against exact ones."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import distributions

import vae_utils as vae
from vae_utils import elbo, encode_dataset, estimate_log_likelihood, evaluate, mlp_vae, sliced_wasserstein_to_prior


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return mlp_vae(2, (16,))


@pytest.fixture
def images():
    return torch.rand(11, 784, generator=generator())


def log_joint(model, x, z):
    """log p(x, z) by torch.distributions."""
    log_likelihood = distributions.Bernoulli(logits=model.decode(z), validate_args=False).log_prob(x).sum(-1)
    return log_likelihood + distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


def test_evaluate_does_not_depend_on_the_batch_size(model, images):
    whole = evaluate(model, images)
    assert list(whole) == ["elbo", "log_likelihood", "kl"]
    for batch_size in (1, 4, 11):
        assert evaluate(model, images, batch_size=batch_size) == pytest.approx(whole, rel=1e-5)


def test_evaluate_is_the_mean_elbo_of_all_images(model, images):
    """Its noise averages out: the mean over seeds is that of `elbo`, and the KL is exact."""
    figures = [evaluate(model, images, batch_size=4, seed=seed) for seed in range(300)]
    draws = torch.stack([elbo(model, images, generator=generator(seed)).value for seed in range(1000, 1300)])
    difference = sum(row["elbo"] for row in figures) / 300 - draws.mean().item()
    assert abs(difference) < 5 * draws.mean(1).std().item() * math.sqrt(2 / 300)
    assert figures[0]["kl"] == pytest.approx(vae.kl_divergence(*model.encode(images)).mean().item(), rel=1e-5)
    assert figures[0]["elbo"] == pytest.approx(figures[0]["log_likelihood"] - figures[0]["kl"])
    assert figures[0] != figures[1] and figures[0] == evaluate(model, images, batch_size=4)  # without a seed, it is 0


def test_encode_dataset_keeps_the_order_of_the_images(model, images):
    mu, logvar = encode_dataset(model, images, batch_size=4)
    torch.testing.assert_close((mu, logvar), model.encode(images))
    assert not mu.requires_grad


def test_streaming_over_samples_and_batches_equals_the_bound_of_all_weights_at_once(model, images):
    estimate = estimate_log_likelihood(model, images, num_samples=7, seed=3)
    assert estimate.shape == (11,)
    torch.testing.assert_close(estimate_log_likelihood(model, images, num_samples=7, seed=3, batch_size=4), estimate)
    default, zero = (estimate_log_likelihood(model, images, num_samples=2, **s) for s in ({}, {"seed": 0}))
    assert torch.equal(default, zero)
    # The same seven draws, weighed all at once by torch.distributions.
    mu, logvar = model.encode(images)
    q, noise = distributions.Normal(mu, torch.exp(logvar / 2)), generator(3)
    z = torch.stack([vae.reparameterize(mu, logvar, generator=noise) for _ in range(7)])
    log_weights = log_joint(model, images, z) - q.log_prob(z).sum(-1)
    torch.testing.assert_close(estimate, torch.logsumexp(log_weights, 0) - math.log(7))


def test_thousands_of_samples_leave_no_rounding_in_the_sum():
    """With q(z|x) = p(z) and a picture that ignores z, every weight is p(x): so is the mean of however many."""
    model = mlp_vae(2, (4,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x = torch.full((1, 784), 0.5)
    one, many = (estimate_log_likelihood(model, x, num_samples=k).item() for k in (1, 3000))
    assert one == many == pytest.approx(-784 * math.log(2), rel=1e-6)


def test_an_estimate_shows_its_progress_only_if_asked(model, images, capsys):
    for asked in ({}, {"progress": True}):
        estimate_log_likelihood(model, images, num_samples=3, **asked)
        assert ("3/3" in capsys.readouterr().err) is bool(asked)


def test_the_estimate_rises_with_more_samples(model, images):
    with torch.no_grad():
        model.decoder.logits.weight.mul_(3)  # so that the posterior differs from the prior, and one draw is not enough
    bounds = [estimate_log_likelihood(model, images, num_samples=k).mean().item() for k in (1, 20, 400)]
    assert bounds[0] < bounds[1] < bounds[2]


def test_the_memory_of_an_estimate_does_not_grow_with_the_samples(model, images):
    """The decoder sees one draw of one batch at a time, however many draws are asked for."""
    rows = []
    model.decoder.register_forward_hook(lambda module, inputs, output: rows.append(output[..., 0].numel()))
    for num_samples in (2, 50):
        rows.clear()
        estimate_log_likelihood(model, images, num_samples=num_samples, batch_size=4)
        assert max(rows) == 4 and sum(rows) == 11 * num_samples


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("function", [
    evaluate, encode_dataset, partial(estimate_log_likelihood, num_samples=2), partial(vae.posterior_on_grid, n=3),
])  # fmt: skip
def test_evaluation_mode_is_used_and_every_mode_restored(model, images, function, training):
    model.train(training)
    frozen = model.decoder.hidden.eval()  # a part that is in evaluation mode beforehand
    seen = []
    for part in (model.encoder, model.decoder):
        part.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    function(model, images)
    assert seen and not any(seen)
    assert model.training is model.encoder.mu.training is model.decoder.logits.training is training
    assert not frozen.training and torch.is_grad_enabled()


def test_the_mode_is_restored_after_an_error(model, images):
    model.decoder.register_forward_pre_hook(lambda module, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, images)
    assert model.training and model.decoder.training and torch.is_grad_enabled()


def test_active_units_are_those_whose_mean_moves():
    mu = torch.randn(5000, 4, generator=generator()) * torch.tensor([1.0, 0.11, 0.09, 0.0]) + 3
    assert vae.active_units(mu).tolist() == [True, True, False, False]
    assert vae.active_units(mu, threshold=0.001).tolist() == [True, True, True, False]
    assert vae.active_units(mu, threshold=0.0)[:3].all() and not vae.active_units(torch.ones(9, 1), threshold=0.0)


def test_the_sliced_distance_against_the_distance_of_gaussians():
    """From N(m, s^2 I), each direction u has W2^2 = (m . u)^2 + (s - 1)^2; their mean is |m|^2 / L + (s - 1)^2."""
    z = torch.randn(20_000, 3, generator=generator(), dtype=torch.float64)
    assert sliced_wasserstein_to_prior(z) < 0.03
    for shift, scale in (((2.0, 0.0, 0.0), 1.0), ((0.0, 0.0, 0.0), 0.3), ((1.0, -1.0, 0.5), 2.0)):
        exact = math.sqrt(sum(m**2 for m in shift) / 3 + (scale - 1) ** 2)
        found = sliced_wasserstein_to_prior(torch.tensor(shift) + scale * z[:5000], directions=1000)
        assert found == pytest.approx(exact, rel=0.05)


def test_the_sliced_distance_is_0_at_the_quantiles_and_follows_its_seed():
    quantiles = distributions.Normal(0.0, 1.0).icdf((torch.arange(999, dtype=torch.float64) + 0.5) / 999)
    assert sliced_wasserstein_to_prior(quantiles[:, None]) < 1e-12
    plane = torch.stack([quantiles, 2 * quantiles], dim=1)
    default, other = sliced_wasserstein_to_prior(plane), sliced_wasserstein_to_prior(plane, seed=1)
    same = sliced_wasserstein_to_prior(plane, seed=0, directions=200)
    assert default == same != other


def test_the_sliced_distance_sees_holes_that_mean_and_variance_do_not():
    """Points at -1 and 1: mean 0, variance 1, and W2^2 = E[(|x| - 1)^2] = 2 - 2 sqrt(2 / pi) from N(0, 1)."""
    z = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(5000)[:, None]
    assert sliced_wasserstein_to_prior(z) == pytest.approx(math.sqrt(2 - 2 * math.sqrt(2 / math.pi)), abs=1e-3)


def test_images_go_to_the_device_of_the_model(model, images):
    """The meta device holds no numbers, so that these calls fail unless images and codes are brought there."""
    there = model.to("meta")
    assert all(part.is_meta for part in vae.encode_dataset(there, images))
    assert vae.posterior_on_grid(there, images, n=3).density.is_meta


def test_the_grid_reaches_to_5_in_steps_of_a_fiftieth(model, images):
    points = vae.posterior_on_grid(model, images[:1]).points
    torch.testing.assert_close(points, torch.linspace(-5, 5, 501))


def test_posterior_on_grid_against_quadrature_and_torch_distributions(model, images):
    model, images = model.double(), images.double()
    grid = vae.posterior_on_grid(model, images, limit=6.0, n=241)
    cell = (grid.points[1] - grid.points[0]) ** 2
    torch.testing.assert_close((grid.density * cell).sum((1, 2)), torch.ones(11, dtype=torch.float64))

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = torch.cartesian_prod(*2 * [torch.from_numpy(nodes)])[:, None]  # (3600, 1, 2)
    shares = torch.from_numpy(np.log(np.outer(weights, weights).ravel() / (2 * np.pi)))[:, None]
    with torch.no_grad():
        prior = distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        exact = torch.logsumexp(shares + log_joint(model, images, z) - prior, dim=0)
        row, column = 130, 90
        there = torch.stack([grid.points[column], grid.points[row]])  # z1 by columns, z2 by rows
        expected = log_joint(model, images, there.expand(11, 2)) - exact
    torch.testing.assert_close(grid.log_evidence, exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(grid.density[:, row, column].log(), expected, atol=1e-4, rtol=0)
