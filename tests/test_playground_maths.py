"""The playground's mathematics, without a page: its losses, their gradients and its training are PyTorch's."""

import math
from base64 import b64decode

import pytest
import torch
from small_playground import BUILT, open_script, parameters_of, unpacked
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import vae_utils as vae

VAE = {"beta": 1, "noise": True, "price": "kl", "pixels": "bernoulli", "sigmaX": 1, "mean": False, "digits": 4000}
KNOBS = {
    "vae": {},
    "beta of 4": {"beta": 4},
    "no KL": {"beta": 0},
    "z is mu": {"noise": False, "price": "mu"},
    "price on mu": {"price": "mu", "beta": 0.5},
    "mean over pixels": {"mean": True},
    "squared error": {"pixels": "gaussian", "sigmaX": 0.4},
    "learned sigma": {"pixels": "gaussian", "sigmaX": None},
    "all at once": {"pixels": "gaussian", "sigmaX": None, "mean": True, "price": "mu", "beta": 4},
}
TO_PAGE = """([numbers, images]) => {
    globalThis.inked = images.map(x => Uint16Array.from([...x.keys()].filter(i => x[i])));
    globalThis.weights = emptyWeights();
    weights.all.set(numbers); }"""


@pytest.fixture
def training(open_window):
    return open_script(open_window, "training.js")


def load(training, model, images, log_sigma=0.0):
    numbers = [number for parameter in parameters_of(model) for number in parameter.flatten().tolist()]
    training.evaluate(TO_PAGE, [[*numbers, log_sigma], images.int().tolist()])


def loss_of(model, x, noise, log_sigma, settings):
    """What is minimised, and its two terms, means over the images."""
    raw = model.encoder(x)
    q = Normal(raw[:, :2], (8 * torch.tanh(raw[:, 2:] / 8) - 4).div(2).exp())
    logits = model.decoder(q.mean + q.stddev * noise if settings["noise"] else q.mean)
    if settings["pixels"] == "gaussian":
        likelihood = Normal(logits.sigmoid(), log_sigma.exp())
    else:
        likelihood = Bernoulli(logits=logits)
    pixels = -likelihood.log_prob(x).sum(1).mean()
    price = kl_divergence(q, Normal(0.0, 1.0)) if settings["price"] == "kl" else q.mean**2 / 2
    code = price.sum(1).mean()
    return pixels / (784 if settings["mean"] else 1) + settings["beta"] * code, pixels, code


def test_the_gradient_of_every_knob_is_pytorchs(training):
    """In all weights, with those of the page; to a hundred millionth of the largest of each layer."""
    model, images, _ = unpacked(BUILT)
    x, log_sigma = images[:8], torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    every = [*parameters_of(model), log_sigma]
    load(training, model, x, log_sigma.item())
    script = """([noise, settings]) => {
        const { gradient, ...terms } = lossAndGradient(weights, inked, noise, settings);
        return { ...terms, gradient: btoa([...new Uint8Array(gradient.buffer)].map(byte =>
            String.fromCharCode(byte)).join("")) }; }"""
    for name, knobs in KNOBS.items():
        settings = VAE | knobs
        found = training.evaluate(script, [noise.flatten().tolist(), settings])
        wanted = loss_of(model, x, noise, log_sigma, settings)
        terms = [found["trained"], found["pixels"], found["code"]]
        assert terms == pytest.approx([part.item() for part in wanted], rel=1e-9), name
        gradients = torch.autograd.grad(wanted[0], every, allow_unused=True)
        if settings["sigmaX"] is not None:
            gradients = [*gradients[:-1], None]  # a given sigma stays
        numbers = torch.frombuffer(bytearray(b64decode(found["gradient"])), dtype=torch.float64)
        for part, parameter, gradient in zip(numbers.split([p.numel() for p in every]), every, gradients, strict=True):
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            error = (part - gradient.flatten()).abs().max()
            assert error <= 1e-8 * gradient.abs().max(), (name, tuple(parameter.shape))


def test_what_digits_cost_is_what_vae_utils_says(training):
    """The KL of 200 held-out digits, and their pixels at draws of z that are far more noise than the page's."""
    model, _, held = unpacked(BUILT)
    x = held[:200]
    load(training, model, x)
    cost, pointwise = (training.evaluate(f"() => costOf(weights, inked, {noise})") for noise in ("true", "false"))
    mu, logvar = vae.encode_dataset(model, x)
    with torch.no_grad():
        at_mu = -model.log_likelihood(x, mu).mean().item()
        averages = -torch.stack([model.log_likelihood(x, vae.reparameterize(mu, logvar)).mean() for _ in range(64)])
    assert cost["kl"] == pytest.approx(vae.kl_divergence(mu, logvar).mean().item(), rel=1e-9)
    assert cost["square"] == pytest.approx((mu**2).sum(1).mean().item() / 2, rel=1e-9)
    assert pointwise["pixels"] == pytest.approx(at_mu, rel=1e-9)
    assert abs(cost["pixels"] - averages.mean()) < 5 * averages.std()
    assert averages.std() < 1  # so that the line above says something


def test_each_digit_and_the_tug_of_war(training):
    """One digit's costs, pixel by pixel, are those of the ELBO by quadrature; also when its sigma is another."""
    model, _, held = unpacked(BUILT)
    x = held[:4]
    load(training, model, held[:200])
    script = """settings => {
        const shown = inked.slice(0, 4).map(pixelsOf);
        const { each, tug } = measure(weights, { images: inked, held: inked }, shown, settings);
        return { each: each.map(({ mu, logvar, costs, pixels, code, picture }) =>
            [...mu, ...logvar, pixels, code, [...costs].reduce((a, b) => a + b), ...picture]), tug }; }"""
    found = training.evaluate(script, VAE)
    mu, logvar, pixels, code, summed, picture = torch.tensor(found["each"]).double().split([2, 2, 1, 1, 1, 784], 1)
    with torch.no_grad():
        q = model.encode(x)
        cost = -vae.elbo_by_quadrature(model, x, q, nodes=3)
        torch.testing.assert_close(picture, model.decode(q.mu).sigmoid(), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([mu, logvar], 1), torch.cat([*q], 1), atol=1e-4, rtol=0)
    torch.testing.assert_close((pixels + code)[:, 0], cost, atol=1e-3, rtol=0)
    torch.testing.assert_close(summed, pixels, atol=1e-3, rtol=0)
    squares = training.evaluate(script, VAE | {"pixels": "gaussian", "price": "mu", "sigmaX": 0.4})
    pictures = nn.Sequential(model.decoder, nn.Sigmoid())
    gaussian = vae.VAE(model.encoder, pictures, 2, likelihood=vae.Gaussian(0.4)).double()
    for twin, tug in ((model, found["tug"]), (gaussian, squares["tug"])):
        for one in tug:
            wider = vae.Normal(q.mu[:1], q.logvar[:1] + 2 * math.log(one["times"]))
            with torch.no_grad():
                kl, cost = vae.kl_divergence(*wider).item(), -vae.elbo_by_quadrature(twin, x[:1], wider, nodes=4).item()
            code = kl if twin is model else (q.mu[0] ** 2).sum().item() / 2
            assert [one["code"], one["pixels"]] == pytest.approx([code, cost - kl], abs=1e-3)
    without = training.evaluate(script, VAE | {"noise": False, "price": "mu"})["each"][0]
    with torch.no_grad():
        at_mu = -model.log_likelihood(x[:1], q.mu[:1]).item()
    assert without[4:6] == pytest.approx([at_mu, (q.mu[0] ** 2).sum().item() / 2], abs=1e-3)


def test_a_run_is_that_of_pytorchs_adam(training):
    """Of the same weights, batches and noise, while knobs are turned. Every digit once an epoch; a seed is a run."""
    model, images, _ = unpacked(BUILT)
    load(training, model, images[:200])
    script = """([seed, turns]) => {
        const seen = [], own = globalThis.gradientOf ??= lossAndGradient;
        globalThis.lossAndGradient = (weights, batch, noise, settings) => {
            seen.push([batch.map(digit => inked.indexOf(digit)), [...noise]]);
            return own(weights, batch, noise, settings); };
        const training = createTraining(seed), first = [...training.weights.all];
        for (const [steps, settings] of turns) for (let i = 0; i < steps; i++) trainStep(training, inked, settings);
        return { first, seen, last: [...training.weights.all] }; }"""
    squares = {"pixels": "gaussian", "sigmaX": None}
    turns = [
        (10, VAE),
        (5, VAE | {"beta": 4}),
        (5, VAE | {"mean": True}),
        (5, VAE | squares),
        (5, VAE | squares | {"sigmaX": 0.4}),
        (5, VAE | {"digits": 80}),
    ]
    found, again, other = (training.evaluate(script, [seed, turns]) for seed in (1, 1, 2))
    assert found == again and found["seen"][0] != other["seen"][0]
    digits = [digit for batch, _ in found["seen"] for digit in batch]
    assert sorted(digits[:200]) == sorted(digits[200:400]) == [*range(200)]
    assert max(digits[-5 * 64 :]) < 80

    twin, log_sigma = vae.mlp_vae(2, (128, 64)).double(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    every, first, last = (
        [*parameters_of(twin), log_sigma],
        *(torch.tensor(found[when], dtype=torch.float64) for when in ("first", "last")),
    )
    for parameter, numbers in zip(every, first.split([p.numel() for p in every]), strict=True):
        parameter.data = numbers.view_as(parameter)
    optimizer = torch.optim.Adam(every, lr=3e-3)
    log_sigma.grad = torch.zeros_like(log_sigma)  # without one the optimiser would begin to count its steps later
    settings = [settings for steps, settings in turns for _ in range(steps)]
    for (batch, noise), here in zip(found["seen"], settings, strict=True):
        if here["sigmaX"] is not None:
            log_sigma.data.fill_(math.log(here["sigmaX"]))
        optimizer.zero_grad(set_to_none=False)
        noise = torch.tensor(noise, dtype=torch.float64).view(-1, 2)
        loss_of(twin, images[batch], noise, log_sigma, here)[0].backward()
        optimizer.step()
    if settings[-1]["sigmaX"] is not None:  # PyTorch's Adam goes on with an average that is not 0; a given one stays
        every, last = every[:-1], last[:-1]
    trained = torch.cat([parameter.detach().flatten() for parameter in every])
    torch.testing.assert_close(last, trained, atol=1e-6, rtol=0)


def test_draws_are_normal_and_weights_begin_as_in_vae_utils(training):
    """Moments of 100,000 draws; the spread of each new layer's weights; no bias but that of the pixels."""
    script = """() => { const random = createRandom(1), draws = Array.from({ length: 1e5 }, () => normal(random));
        const layers = newWeights(createRandom(2)), all = [...layers.encoder, ...layers.decoder];
        return { draws, weights: all.map(l => [...l.weight]), biases: all.map(l => [...l.bias]) }; }"""
    found = training.evaluate(script)
    draws = torch.tensor(found["draws"], dtype=torch.float64)
    moments = [draws.mean(), draws.var(), (draws**4).mean(), (draws[1:] * draws[:-1]).mean()]
    assert moments == pytest.approx([0, 1, 3, 0], abs=0.06)
    torch.manual_seed(0)
    twin = parameters_of(vae.mlp_vae(2, (128, 64)))
    for weight, bias, wanted, own in zip(found["weights"], found["biases"], twin[::2], twin[1::2], strict=True):
        assert torch.tensor(weight).std().item() == pytest.approx(wanted.std().item(), rel=0.25)
        assert bias == pytest.approx(own.tolist())
