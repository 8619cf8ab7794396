"""Evaluation: all images, any batch size, the model left as it was, and memory that K does not touch."""

import math

import numpy as np
import pytest
import torch
from torch import distributions, nn

from vae_utils import (
    VAE,
    Decoder,
    Encoder,
    active_units,
    distance_to_prior,
    elbo,
    encode_dataset,
    estimate_log_likelihood,
    evaluate,
    importance_weighted_bound,
    kl_divergence,
    log_bernoulli,
    log_normal,
    mlp_vae,
    posterior_on_grid,
    reparameterize,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return mlp_vae(2, (16,))


@pytest.fixture
def images():
    return torch.rand(11, 784, generator=torch.Generator().manual_seed(0))


def test_evaluate_does_not_depend_on_the_batch_size(model, images):
    whole = evaluate(model, images)
    assert list(whole) == ["elbo", "log_likelihood", "kl"]
    for batch_size in (1, 4, 11):
        assert evaluate(model, images, batch_size=batch_size) == pytest.approx(whole, rel=1e-5)


def test_evaluate_is_the_mean_elbo_of_all_images(model, images):
    """Its noise averages out: the mean over seeds is that of `elbo`, and the KL is exact."""
    figures = [evaluate(model, images, batch_size=4, seed=seed) for seed in range(300)]
    draws = torch.stack(
        [elbo(model, images, generator=torch.Generator().manual_seed(s)).value for s in range(1000, 1300)]
    )
    difference = sum(row["elbo"] for row in figures) / 300 - draws.mean().item()
    assert abs(difference) < 5 * draws.mean(1).std().item() * math.sqrt(2 / 300)
    assert figures[0]["kl"] == pytest.approx(kl_divergence(*model.encode(images)).mean().item(), rel=1e-5)
    assert figures[0] != figures[1] and figures[0] == evaluate(model, images, batch_size=4, seed=0)


def test_encode_dataset_keeps_the_order_of_the_images(model, images):
    mu, logvar = encode_dataset(model, images, batch_size=4)
    expected = model.encode(images)
    torch.testing.assert_close(mu, expected[0])
    torch.testing.assert_close(logvar, expected[1])
    assert not mu.requires_grad


def test_streaming_over_samples_and_batches_equals_the_bound_of_all_weights_at_once(model, images):
    estimate = estimate_log_likelihood(model, images, num_samples=7, seed=3)
    assert estimate.shape == (11,)
    torch.testing.assert_close(estimate_log_likelihood(model, images, num_samples=7, seed=3, batch_size=4), estimate)
    # The same seven draws, weighed by hand all at once.
    generator = torch.Generator().manual_seed(3)
    mu, logvar = model.encode(images)
    z = torch.stack([reparameterize(mu, logvar, generator=generator) for _ in range(7)])
    prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
    log_weights = log_bernoulli(images, model.decode(z)) + prior - log_normal(z, mu, logvar)
    torch.testing.assert_close(estimate, importance_weighted_bound(log_weights))


def test_thousands_of_samples_leave_no_rounding_in_the_sum():
    """With q(z|x) = p(z) and a picture that ignores z, every weight is p(x): so is the mean of however many."""
    model = mlp_vae(2, (4,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x = torch.full((1, 784), 0.5)
    one, many = (estimate_log_likelihood(model, x, num_samples=k).item() for k in (1, 3000))
    assert one == many == pytest.approx(-784 * math.log(2), rel=1e-6)


def test_a_seed_that_is_not_given_is_0(model, images):
    assert evaluate(model, images) == evaluate(model, images, seed=0)
    default = estimate_log_likelihood(model, images, num_samples=2)
    assert torch.equal(default, estimate_log_likelihood(model, images, num_samples=2, seed=0))


def test_an_estimate_shows_its_progress_if_asked(model, images, capsys):
    estimate_log_likelihood(model, images, num_samples=3)
    assert not capsys.readouterr().err
    estimate_log_likelihood(model, images, num_samples=3, progress=True)
    shown = capsys.readouterr().err
    assert "3/3" in shown and "sample/s" in shown


def test_the_estimate_rises_with_more_samples(model, images):
    with torch.no_grad():
        model.decoder.logits.weight.mul_(3)  # so that the posterior differs from the prior, and one draw is not enough
    bounds = [estimate_log_likelihood(model, images, num_samples=k).mean().item() for k in (1, 20, 400)]
    assert bounds[0] < bounds[1] < bounds[2]


def test_its_memory_does_not_grow_with_the_samples(model, images):
    """The largest tensor that the decoder makes holds one draw for one batch, however many draws are asked for."""
    rows = []
    model.decoder.register_forward_hook(lambda module, inputs, output: rows.append(output[..., 0].numel()))
    for num_samples in (2, 50):
        rows.clear()
        estimate_log_likelihood(model, images, num_samples=num_samples, batch_size=4)
        assert max(rows) == 4 and sum(rows) == 11 * num_samples


class Dropping(nn.Module):
    """An encoder whose mode shows in its output, with a part that was frozen in evaluation mode beforehand."""

    def __init__(self):
        super().__init__()
        self.inner, self.dropout = Encoder(2, (16,)), nn.Dropout(0.9)
        self.frozen, self.latent_dim = nn.Dropout(0.9).eval(), 2

    def forward(self, x):
        return self.inner(self.frozen(self.dropout(x)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "function",
    [evaluate, encode_dataset, lambda model, images: estimate_log_likelihood(model, images, num_samples=2)],
    ids=["evaluate", "encode_dataset", "estimate_log_likelihood"],
)
def test_evaluation_mode_is_used_and_every_mode_restored(images, function, training):
    model = VAE(Dropping(), Decoder(2, (16,))).train(training)
    model.encoder.frozen.eval()
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    function(model, images)
    assert seen and not any(seen)
    assert model.training is model.encoder.dropout.training is training and model.encoder.frozen.training is False
    assert torch.is_grad_enabled()


def test_the_mode_is_restored_after_an_error(model, images):
    model.decoder.register_forward_pre_hook(lambda module, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, images)
    assert model.training and model.decoder.training


def test_active_units_are_those_whose_mean_moves():
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(5000, 4, generator=generator) * torch.tensor([1.0, 0.11, 0.09, 0.0]) + 3
    assert active_units(mu).tolist() == [True, True, False, False]
    assert active_units(mu, threshold=0.001).tolist() == [True, True, True, False]


@pytest.mark.parametrize("num_samples", [0, -1])
def test_no_samples_are_refused(model, images, num_samples):
    with pytest.raises(ValueError, match="num_samples"):
        estimate_log_likelihood(model, images, num_samples=num_samples)


def test_wrong_images_are_refused(model):
    with pytest.raises(ValueError, match=r"\(B, 784\)"):
        evaluate(model, torch.zeros(3, 28, 28))


def test_distance_to_prior_against_the_distance_of_gaussians():
    """From N(m, s^2 I), each direction u has W2^2 = (m . u)^2 + (s - 1)^2; their mean is |m|^2 / L + (s - 1)^2."""
    z = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert distance_to_prior(z) < 0.03
    for shift, scale in (((2.0, 0.0, 0.0), 1.0), ((0.0, 0.0, 0.0), 0.3), ((1.0, -1.0, 0.5), 2.0)):
        exact = math.sqrt(sum(m**2 for m in shift) / 3 + (scale - 1) ** 2)
        found = distance_to_prior(torch.tensor(shift) + scale * z, directions=2000)
        assert found == pytest.approx(exact, rel=0.05)


def test_distance_to_prior_is_0_at_the_quantiles_and_follows_its_seed():
    quantiles = distributions.Normal(0.0, 1.0).icdf((torch.arange(999, dtype=torch.float64) + 0.5) / 999)
    assert distance_to_prior(quantiles[:, None]) < 1e-12
    plane = torch.stack([quantiles, 2 * quantiles], dim=1)
    assert (
        distance_to_prior(plane) == distance_to_prior(plane, seed=0, directions=200) != distance_to_prior(plane, seed=1)
    )


def test_distance_to_prior_sees_holes_that_mean_and_variance_do_not():
    """Points at -1 and 1: mean 0, variance 1, and W2^2 = E[(|x| - 1)^2] = 2 - 2 sqrt(2 / pi) from N(0, 1)."""
    z = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(5000)[:, None]
    assert distance_to_prior(z) == pytest.approx(math.sqrt(2 - 2 * math.sqrt(2 / math.pi)), abs=1e-3)


def test_posterior_on_grid_against_quadrature_and_torch_distributions(model, images):
    model = model.double()
    images = images.double()
    grid = posterior_on_grid(model, images, limit=6.0, n=241)
    cell = (grid.points[1] - grid.points[0]) ** 2
    torch.testing.assert_close((grid.density * cell).sum((1, 2)), torch.ones(11, dtype=torch.float64))

    def log_joint(z):
        likelihood = distributions.Bernoulli(logits=model.decode(z), validate_args=False).log_prob(images).sum(-1)
        return likelihood + distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = torch.cartesian_prod(*2 * [torch.from_numpy(nodes)])[:, None]  # (3600, 1, 2)
    shares = torch.from_numpy(np.log(np.outer(weights, weights).ravel() / (2 * np.pi)))[:, None]
    with torch.no_grad():
        prior = distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        exact = torch.logsumexp(shares + log_joint(z) - prior, dim=0)
        row, column = 130, 90
        there = torch.stack([grid.points[column], grid.points[row]])  # z1 by columns, z2 by rows
        expected = log_joint(there.expand(11, 2)) - exact
    torch.testing.assert_close(grid.log_likelihood, exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(grid.density[:, row, column].log(), expected, atol=1e-4, rtol=0)


def test_posterior_on_grid_needs_two_dimensions(images):
    with pytest.raises(ValueError, match=r"2 latent dimensions.*has 3"):
        posterior_on_grid(mlp_vae(3, (8,)), images)
