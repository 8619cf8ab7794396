"""A posterior of one's own: four models that differ from the module's in q, each as a reader would write it.

Each is held against something exact: log p(x) of a linear model, a sum over a grid, a sum over all codes.
"""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from oracles import Constant, generator, raw_of
from torch import Tensor, nn
from torch.distributions import Bernoulli, MultivariateNormal
from torch.func import functional_call

import vae_utils as vae
from vae_utils import VAE, elbo, estimate_log_likelihood, evaluate, fit, iwae, mlp_vae

# ---- A Gaussian with full covariance -----------------------------------------------------------------------------


class FullNormal(NamedTuple):
    mean: Tensor
    scale: Tensor  # (..., L, L), the Cholesky factor of the covariance

    def sample(self, generator=None):
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + (self.scale @ noise[..., None])[..., 0]

    def log_prob(self, z):
        return MultivariateNormal(self.mean, scale_tril=self.scale).log_prob(z)

    def detach(self):
        return FullNormal(self.mean.detach(), self.scale.detach())


class FullCovariance(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim, self.input_dim = latent_dim, latent_dim * (latent_dim + 3) // 2

    def forward(self, numbers):
        mean, log_diagonal, below = numbers.tensor_split([self.latent_dim, 2 * self.latent_dim], dim=-1)
        scale = torch.diag_embed(log_diagonal.exp())
        row, column = torch.tril_indices(self.latent_dim, self.latent_dim, -1)
        scale[..., row, column] = below
        return FullNormal(mean, scale)


def correlated_pca(n=6):
    """Probabilistic PCA whose posterior is correlated: the model with the exact q, images, and their log p(x)."""
    mix = torch.tensor([[1.0, 0.8], [0.0, 0.5]]).double()
    weight = torch.randn(5, 2, generator=generator(1), dtype=torch.float64) @ mix
    covariance = torch.linalg.inv(weight.T @ weight / 0.25 + torch.eye(2))
    factor = torch.linalg.cholesky(covariance)
    encoder, decoder = nn.Linear(5, 5).double(), nn.Linear(2, 5).double()
    encoder.weight.data = torch.cat([covariance @ weight.T / 0.25, torch.zeros(3, 5)])
    encoder.bias.data = torch.cat([torch.zeros(2), factor.diagonal().log(), factor[1, :1]])
    decoder.weight.data, decoder.bias.data = weight, torch.zeros(5).double()
    model = VAE(encoder, decoder, 2, posterior=FullCovariance(2), likelihood=vae.Gaussian(0.5)).double()
    x = torch.randn(n, 5, generator=generator(2), dtype=torch.float64)
    return model, x, MultivariateNormal(torch.zeros(5), weight @ weight.T + 0.25 * torch.eye(5)).log_prob(x)


def test_with_full_covariance_every_draw_gives_log_p_of_a_linear_model():
    model, x, log_p = correlated_pca()
    assert model.encode(x).scale[0, 1, 0].abs() > 0.1
    found = elbo(model, x).value, iwae(model, x, num_samples=3).value, estimate_log_likelihood(model, x, num_samples=3)
    torch.testing.assert_close(torch.stack(found), log_p.expand(3, -1), rtol=1e-6, atol=1e-6)
    assert evaluate(model, x)["elbo"] == pytest.approx(log_p.mean().item())
    torch.testing.assert_close(vae.encode_dataset(model, x, batch_size=4).mean, model.encode(x).mean)


def test_where_q_is_exact_the_gradient_through_z_alone_is_zero_in_every_draw():
    """Roeder et al. 2017: the rest of the gradient, which q's `detach` leaves out, is noise."""
    model, x, _ = correlated_pca()
    weights = list(model.encoder.parameters())
    for slope in torch.autograd.grad(elbo(model, x).value.sum(), weights):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-6)


# ---- A Gaussian that a flow bends, by what the encoder knows -----------------------------------------------------


class Bent(NamedTuple):
    flow: vae.Flow
    weights: dict[str, Tensor]  # of the flow
    base: vae.Normal
    context: Tensor

    @property
    def mean(self):  # the mean has no formula; this is the code of the base's
        return self.flow.inverse(self.base.mu, self.context)

    def sample(self, generator=None):
        return self.flow.inverse(self.base.sample(generator), self.context)

    def log_prob(self, z):
        noise, log_det = functional_call(self.flow, self.weights, (z, self.context))
        return self.base.log_prob(noise) + log_det

    def detach(self):
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        return Bent(self.flow, weights, self.base.detach(), self.context.detach())


class FlowPosterior(nn.Module):
    def __init__(self, latent_dim, context_dim, **settings):
        super().__init__()
        self.latent_dim, self.base = latent_dim, vae.DiagonalNormal(latent_dim)
        self.flow = vae.Flow(latent_dim, context_dim=context_dim, **settings)
        self.input_dim = self.base.input_dim + context_dim

    def forward(self, numbers):
        base, context = numbers.tensor_split([self.base.input_dim], dim=-1)
        return Bent(self.flow, dict(self.flow.named_parameters()), self.base(base), context)


def bent_model(latent_dim=2):
    """Far from where a flow begins, which is the identity."""
    torch.manual_seed(0)
    posterior = FlowPosterior(latent_dim, 3, couplings=3, hidden_dim=8)
    model = mlp_vae(latent_dim, (8,), image_dim=16, posterior=posterior).double()
    for weight in posterior.parameters():
        nn.init.normal_(weight, std=0.5)
    return model, torch.rand(3, 16, generator=generator(), dtype=torch.float64)


def test_the_density_of_a_flow_posterior_adds_up_to_one_and_is_that_of_its_samples():
    """For three images with contexts of their own: by sums over a grid, and by the mean and covariance of draws."""
    model, x = bent_model()
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    codes = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = model.encode(x).log_prob(codes[:, None].expand(-1, 3, -1)).exp() * 0.05**2  # (601 * 601, 3)
        draws = model.encode(x.repeat_interleave(40_000, 0)).sample(generator()).view(3, 40_000, 2)
    torch.testing.assert_close(mass.sum(0), torch.ones(3).double(), atol=1e-4, rtol=0)
    means = mass.T @ codes
    assert (means[0] - means[1]).abs().max() > 0.05  # the images differ
    torch.testing.assert_close(draws.mean(1), means, atol=0.03, rtol=0)
    for image, mean in enumerate(means):
        expected = (codes - mean).T @ (mass[:, [image]] * (codes - mean))
        torch.testing.assert_close(draws[image].T.cov(), expected, atol=0.05, rtol=0.05)


def test_a_flow_posterior_depends_on_its_context_and_learns_with_all_its_weights():
    model, x = bent_model(3)
    z = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    elsewhere = model.posterior(model.posterior_numbers(x) + torch.tensor(6 * [0.0] + 3 * [1.0]))  # another context
    assert (elsewhere.log_prob(z) - model.encode(x).log_prob(z)).abs().min() > 1e-3
    elbo(model, x).value.sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())


# ---- Two layers of codes: the upper one says where the lower one lies ---------------------------------------------


class TwoLayers(nn.Module):
    """p(z) = N(upper; 0, I) N(lower; what a network makes of upper)."""

    def __init__(self, upper, lower):
        super().__init__()
        self.sizes, self.top = [upper, lower], vae.StandardNormal(upper)
        self.network = nn.Sequential(nn.Linear(upper, 8), nn.SiLU(), nn.Linear(8, 2 * lower))

    def log_prob(self, z):
        upper, lower = z.split(self.sizes, dim=-1)
        return self.top.log_prob(upper) + vae.Normal(*self.network(upper).chunk(2, -1)).log_prob(lower)

    def sample(self, n, generator=None):
        upper = self.top.sample(n, generator)
        return torch.cat([upper, vae.Normal(*self.network(upper).chunk(2, -1)).sample(generator)], dim=1)


def test_a_model_of_two_layers_is_a_prior_and_its_estimates_meet_a_sum_over_all_codes():
    torch.manual_seed(0)
    model = mlp_vae(2, (8,), image_dim=16, prior=TwoLayers(1, 1)).double()
    nn.init.normal_(model.prior.network[-1].weight, std=0.5)
    model.encoder[-1].weight.data.div_(8)
    model.encoder[-1].bias.data[2:] = raw_of(1.0)  # wider than the posteriors: weights of finite variance
    x = torch.bernoulli(model.sample(4, generator()), generator=generator(1)).detach()
    log_p = vae.posterior_on_grid(model, x, limit=12.0, n=601).log_evidence
    found = estimate_log_likelihood(model, x.repeat(20, 1), num_samples=1000).view(20, 4)
    torch.testing.assert_close(found.mean(0), log_p, atol=0.05, rtol=0)
    before = evaluate(model, x)["elbo"]
    assert before < log_p.mean().item()
    fit(model, x, epochs=200, learning_rate=0.01, progress=False)
    assert evaluate(model, x)["elbo"] > before + 1


# ---- Letters in place of numbers: each code is a choice of one in K, G times ---------------------------------------


class OneHot(NamedTuple):
    logits: Tensor  # (..., G, K)

    @property
    def mean(self):
        return self.logits.softmax(-1).flatten(-2)

    def sample(self, generator=None):
        """A choice, with the gradient of a soft one in its place (Gumbel-softmax, straight through)."""
        uniform = torch.rand(self.logits.shape, generator=generator, dtype=self.logits.dtype)
        soft = (self.logits - torch.log(-torch.log(uniform))).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]) + soft - soft.detach()
        return hard.flatten(-2)

    def log_prob(self, z):
        return (z.unflatten(-1, self.logits.shape[-2:]) * self.logits.log_softmax(-1)).sum((-1, -2))


class Letters(nn.Module):
    """The posterior of G letters out of K, and, since both have no more to say, the even prior over them."""

    def __init__(self, count, kinds):
        super().__init__()
        self.shape, self.latent_dim = (count, kinds), count * kinds
        self.input_dim = self.latent_dim

    def forward(self, numbers):
        return OneHot(numbers.unflatten(-1, self.shape))

    def log_prob(self, z):
        return self(torch.zeros_like(z)).log_prob(z)

    def sample(self, n, generator=None):
        return self(torch.zeros(n, self.latent_dim)).sample(generator)


def test_a_model_of_letters_is_evaluated_rightly_and_learns():
    """Against the sum over all 3^2 codes: the ELBO, and log p(x)."""
    torch.manual_seed(0)
    part = Letters(2, 3)
    model = mlp_vae(6, (8,), image_dim=16, posterior=part, prior=part)
    model.encoder[-1].weight.data.div_(4)  # no letter is improbable
    images = torch.bernoulli(torch.rand(4, 16, generator=generator()), generator=generator(1))

    def exact():
        with torch.no_grad():
            codes = torch.eye(3)[torch.cartesian_prod(torch.arange(3), torch.arange(3))].flatten(1)  # (9, 6)
            likelihood = Bernoulli(logits=model.decode(codes)).log_prob(images[:, None]).sum(-1)  # (4, 9)
            log_q = (codes @ model.encode(images).logits.log_softmax(-1).flatten(1).T).T
        elbos = (log_q.exp() * (likelihood - 2 * math.log(3) - log_q)).sum(1)
        return elbos, (likelihood - 2 * math.log(3)).logsumexp(1)

    elbos, log_p = exact()
    many = images.repeat(2000, 1)
    assert evaluate(model, many)["elbo"] == pytest.approx(elbos.mean().item(), abs=0.05)
    found = estimate_log_likelihood(model, images.repeat(50, 1), num_samples=200).view(50, 4).mean(0)
    torch.testing.assert_close(found, log_p, atol=0.03, rtol=0)
    history = fit(model, many[:400], epochs=60, batch_size=20, learning_rate=0.01, valid_images=many, progress=False)
    learnt = exact()[0].mean().item()
    assert history[-1]["valid_elbo"] == pytest.approx(learnt, abs=0.05) and learnt > elbos.mean() + 1


# ---- What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [
    lambda model, x, q: vae.elbo_by_quadrature(model, x, q), lambda model, x, q: vae.active_units(q),
    lambda model, x, q: vae.best_gaussian(model, x, [q]),
], ids=["elbo_by_quadrature", "active_units", "best_gaussian"])  # fmt: skip
def test_what_is_only_right_for_a_diagonal_gaussian_says_so(ask):
    model, x, _ = correlated_pca()
    with pytest.raises(TypeError, match=r"Normal alone.* FullNormal"):
        ask(model, x, model.encode(x))


def test_an_encoder_that_gives_other_numbers_than_the_posterior_wants_is_refused():
    model = VAE(Constant(torch.zeros(4)), nn.Linear(2, 16), 2, posterior=FullCovariance(2))
    with pytest.raises(ValueError, match="encoder gives 4 numbers, and the posterior wants 5"):
        elbo(model, torch.rand(3, 16))


def test_an_encode_of_its_own_that_evaluation_would_pass_by_is_refused():
    class Own(VAE):
        def encode(self, x):
            return vae.Normal(x, x)

    with pytest.raises(TypeError, match="Own has an encode of its own"):
        Own(nn.Identity(), nn.Identity(), 2)
