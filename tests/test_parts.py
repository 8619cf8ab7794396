"""Parts: priors and likelihoods against oracles, and every part that a reader exchanges is the one that is asked."""

import math

import pytest
import torch
from oracles import NORMAL, Moved, generator, raw_of
from torch import nn
from torch.distributions import Normal

import vae_utils as vae
from vae_utils import VAE, Bernoulli, FlowPrior, Gaussian, StandardNormal, conv_vae, elbo, fit, iwae, mlp_vae


@pytest.mark.parametrize(("latent_dim", "couplings"), [(2, 1), (3, 2), (6, 5), (7, 5)])
def test_the_density_of_a_flow_is_that_of_its_noise_over_the_determinant_of_autograd(latent_dim, couplings):
    """log p(g(e)) = log N(e; 0, I) - log |det dg/de|, g being how `sample` bends its noise e."""
    prior = FlowPrior(latent_dim, couplings=couplings, hidden_dim=16).double()
    noise = torch.randn(4, latent_dim, generator=generator()).double()
    for weight in prior.parameters():
        nn.init.normal_(weight, std=0.4, generator=generator(couplings))

    def bend(noise):
        prior.base.sample = lambda n, generator: noise
        return prior.sample(4)

    jacobian = torch.autograd.functional.jacobian(bend, noise)  # (4, L, 4, L)
    log_det = torch.stack([jacobian[i, :, i].slogdet().logabsdet for i in range(4)])
    assert log_det.abs().min() > 0.01
    z, expected = bend(noise), NORMAL.log_prob(noise).sum(-1) - log_det
    torch.testing.assert_close(prior.log_prob(z), expected)
    torch.testing.assert_close(prior.log_prob(z.view(2, 2, -1)), expected.view(2, 2))
    with torch.autocast("cpu", torch.bfloat16):  # would leave three digits
        torch.testing.assert_close(prior.float().log_prob(z.float()), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prior", [StandardNormal(3), FlowPrior(3), FlowPrior(2, couplings=3)])
def test_a_prior_begins_as_the_standard_normal_and_its_draws_follow_their_generator(prior):
    z = torch.randn(2, 4, prior.latent_dim)
    torch.testing.assert_close(prior.log_prob(z), NORMAL.log_prob(z).sum(-1))
    draws, again, other = (prior.sample(20_000, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(draws, again) and not torch.equal(draws, other)
    torch.testing.assert_close(draws.T.cov().view(z.shape[-1], -1), torch.eye(z.shape[-1]), atol=0.05, rtol=0)
    torch.testing.assert_close(draws.mean(0), torch.zeros(z.shape[-1]), atol=0.05, rtol=0)


def test_the_gaussian_likelihood_and_its_gradients_against_torch_distributions():
    likelihood, log_sigma = Gaussian().double(), torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    likelihood.log_sigma.data.fill_(-0.7)
    x, means = torch.randn(4, 9).double() * 3, torch.randn(2, 4, 9).double().requires_grad_()
    values = likelihood.log_prob(x, means), Normal(means, log_sigma.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(*values)
    scales = likelihood.log_sigma, log_sigma
    slopes = (torch.autograd.grad(v.sum(), (means, scale)) for v, scale in zip(values, scales, strict=True))
    torch.testing.assert_close(*slopes)
    assert likelihood.mean(means) is means
    (given,), (learned,) = Gaussian(0.3).parameters(), Gaussian().parameters()
    assert given.exp().item() == pytest.approx(0.3) and not given.requires_grad
    assert learned.exp().item() == 1 and learned.requires_grad
    with pytest.raises(ValueError):
        Gaussian(0.0)


class Affine(nn.Module):
    def __init__(self, scale, *shift):
        super().__init__()
        self.scale, self.shift = scale, torch.tensor(shift)

    def forward(self, x):
        return self.scale * x + self.shift


class Own(nn.Module):
    """N(0, I) of a class that this module does not know, so that the KL is sampled."""

    def log_prob(self, z):
        return NORMAL.log_prob(z).sum(-1)

    def sample(self, n, generator=None):
        return torch.randn(n, 2, generator=generator, dtype=torch.float64)


class Negative(Bernoulli):
    """The probabilities of 0 in place of those of 1: a subclass of the likelihood that is linear in x."""

    def log_prob(self, x, logits):
        return super().log_prob(1 - x, logits)

    def mean(self, logits):
        return 1 - super().mean(logits)


class TwoFold(nn.Module):
    """A Gaussian with a log sigma for each pixel: twice as many parameters as pixels."""

    def log_prob(self, x, parameters):
        means, log_sigma = parameters.chunk(2, dim=-1)
        return Normal(means, log_sigma.exp()).log_prob(x).sum(-1)

    def mean(self, parameters):
        return parameters.chunk(2, dim=-1)[0]


def networks():
    """An encoder and a decoder, bare layers without a nn.Sequential around them, always with the same weights."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(16, 4), nn.Linear(2, 16)
    encoder.bias.data[2:] = raw_of(-1.0)
    return encoder, decoder


def twins(part):
    """Two models that are the same in the eyes of mathematics, the first with a foreign part."""
    (encoder, decoder), (ours, theirs), foreign, own = networks(), networks(), {}, {}
    if part == "prior":  # N(1, I), or every code moved by 1
        foreign, own = {"prior": Moved(1, 1)}, {"prior": Own()}
        ours, theirs = nn.Sequential(ours, Affine(1, -1, -1, 0, 0)), nn.Sequential(Affine(1, 1, 1), theirs)
    elif part == "likelihood":  # the probabilities of 0, or every logit with the other sign
        foreign, theirs = {"likelihood": Negative()}, nn.Sequential(theirs, Affine(-1, 0))
    else:  # a sigma of 1 for each pixel, or for all
        foreign, own = {"likelihood": TwoFold()}, {"likelihood": Gaussian(1.0)}
        decoder = nn.Sequential(decoder, nn.ZeroPad1d((0, 16)))
    return VAE(encoder, decoder, 2, **foreign).double(), VAE(ours, theirs, 2, **own).double()


def trained(model, x):
    return [[*row.values()] for row in fit(model, x, epochs=3, batch_size=4, valid_images=x, progress=False)]


ASKED = {
    "elbo": lambda model, x: elbo(model, x, beta=2.0, generator=generator()),
    "iwae": lambda model, x: iwae(model, x, num_samples=3, generator=generator()),
    "fit": trained,
    "evaluate": vae.evaluate,
    "estimate_log_likelihood": lambda model, x: vae.estimate_log_likelihood(model, x, num_samples=3),
    "posterior_on_grid": lambda model, x: vae.posterior_on_grid(model, x, limit=9.0, n=181).log_evidence,
    "elbo_by_quadrature": lambda model, x: vae.elbo_by_quadrature(model, x, model.encode(x)),
    "reconstruct": VAE.reconstruct,
    "sample": lambda model, x: model.sample(9, generator()),
    "plot_manifold": lambda model, x: vae.plot_manifold(model, n=3).images[0].get_array().data,
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("part", ["prior", "likelihood", "likelihood of more parameters"])
def test_a_foreign_part_is_asked(part, ask):
    x = torch.rand(7, 16, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(*(ask(model, x) for model in twins(part)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("part", "method"), [
    ("posterior", "input_dim"), ("prior", "log_prob"), ("prior", "sample"),
    ("likelihood", "log_prob"), ("likelihood", "mean"),
])  # fmt: skip
def test_a_part_without_a_method_or_without_its_size_is_refused(part, method):
    methods = {name: print for name in ("log_prob", "sample", "mean") if name != method}
    for given in (methods, methods | {method: None}):
        with pytest.raises(TypeError, match=f"{part}.*{method}"):
            VAE(nn.Identity(), nn.Identity(), 2, **{part: type("Part", (nn.Module,), given)()})


@pytest.mark.parametrize("part", [{"prior": FlowPrior(3)}, {"posterior": vae.DiagonalNormal(3)}])
def test_a_part_of_another_latent_dim_is_refused(part):
    with pytest.raises(ValueError, match=rf"2 latent dimensions, and its {next(iter(part))} 3"):
        mlp_vae(2, (8,), **part)


@pytest.mark.parametrize(("likelihood", "low", "high", "refused"), [
    (Bernoulli, 0.0, 1.0, (-0.01, 1.01, math.nan, math.inf)), (Gaussian, -50.0, 300.0, (math.nan, math.inf)),
])  # fmt: skip
def test_each_likelihood_says_which_pixels_it_takes(likelihood, low, high, refused):
    model, images = mlp_vae(2, (8,), image_dim=16, likelihood=likelihood()), torch.tensor([low, high]).repeat(2, 8)
    vae.evaluate(model, images)
    for pixel in refused:
        images[1, 5] = pixel
        with pytest.raises(ValueError, match="images must"):
            vae.evaluate(model, images)


@pytest.mark.parametrize(("colors", "likelihood"), [(1, Bernoulli), (3, Bernoulli), (3, Gaussian)])
def test_images_of_another_size_or_in_colour_train_and_are_drawn(colors, likelihood):
    torch.manual_seed(0)
    model = conv_vae(2, channels=8, hidden_dim=16, image_side=32, colors=colors, likelihood=likelihood())
    images = (torch.rand(1, colors * 32 * 32) * torch.rand(64, 1)).round(decimals=1)
    history = fit(model, images, epochs=4, batch_size=8, progress=False)
    assert history[-1]["elbo"] > history[0]["elbo"] + 5
    assert model.reconstruct(images).shape == images.shape and model.sample(3).shape == (3, colors * 32 * 32)
    for ax in (vae.plot_images(model.reconstruct(images[:6]), columns=3), vae.plot_manifold(model, n=3)):
        assert ax.images[0].get_array().shape[1] == 3 * 34
