"""Model: shapes, gradients, first weights, numbers that stay finite, and the device it runs on."""

import pytest
import torch
from oracles import Constant, generator
from torch import nn

import vae_utils as vae
from vae_utils import VAE, available_device, conv_vae, elbo, initialize, iwae, mlp_vae

INK = torch.bernoulli(torch.full((64, 784), 0.13), generator=generator())  # as much as in MNIST


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("batch", [1, 129])
@pytest.mark.parametrize(("latent_dim", "make"), [
    (1, lambda: mlp_vae(1, (5,))), (2, mlp_vae), (20, lambda: mlp_vae(20, (400, 30))),
    (32, conv_vae), (3, lambda: conv_vae(3, channels=4, hidden_dim=8)),
], ids=["one unit", "default", "uneven", "convolutions", "few channels"])  # fmt: skip
def test_every_model_has_the_right_shapes_and_a_gradient_for_every_weight(batch, latent_dim, make):
    model, x = make(), torch.rand(batch, 784)
    mu, logvar = model.encode(x)
    assert mu.shape == logvar.shape == (batch, latent_dim) and model.latent_dim == latent_dim
    assert model.reconstruct(x).shape == model.sample(batch).shape == (batch, 784)
    codes = torch.randn(5, batch, latent_dim)  # any number of dimensions may stand before the last
    assert model.decode(codes).shape == (5, batch, 784) and model.log_likelihood(x, codes).shape == (5, batch)
    torch.testing.assert_close(model.decode(codes)[2], model.decode(codes[2]))
    elbo(model, x).value.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_reconstruct_decodes_the_mean_code_and_an_autocast_rounds_within_the_layers_alone():
    model, x = mlp_vae(2, (16,)), torch.rand(5, 784)
    mu, _ = model.encode(x)
    torch.testing.assert_close(model.reconstruct(x), model.decode(mu).sigmoid())
    with torch.autocast("cpu", torch.bfloat16):
        assert [part.dtype for part in (*model.encode(x), model.decode(mu), *elbo(model, x))] == 6 * [torch.float32]


def test_the_decoder_applies_the_widths_of_the_encoder_in_reverse():
    model = mlp_vae(2, (9, 5), image_dim=30)
    shapes = [[tuple(layer.weight.shape) for layer in part[::2]] for part in (model.encoder, model.decoder)]
    assert shapes == [[(9, 30), (5, 9), (4, 5)], [(5, 2), (9, 5), (30, 9)]]


@pytest.mark.parametrize("colors", [1, 3])
def test_convolutions_see_and_paint_every_pixel_in_its_place(colors):
    """An inked pixel changes features of the 2 x 2 places that see it; a bias alone paints equal blocks of 2 x 2."""
    model, grids = conv_vae(2, channels=4, hidden_dim=8, colors=colors), []
    first, last = ([layer for layer in part if isinstance(layer, nn.Conv2d)] for part in (model.encoder, model.decoder))
    first[0].register_forward_hook(lambda module, inputs, output: grids.append(output))
    for color in range(colors):
        image = torch.zeros(2, colors, 28, 28)
        image[1, color, 9, 22] = 1
        model.encode(image.flatten(1))
        assert (grids[-1][0] != grids[-1][1]).any(dim=0).nonzero().tolist() == [[4, 10], [4, 11], [5, 10], [5, 11]]
    assert not torch.equal(grids[0][1], grids[-1][1]) or colors == 1
    last[-1].weight.data.zero_()
    last[-1].bias.data = bias = torch.arange(4.0 * colors)
    picture = model.decode(torch.randn(1, 2)).view(colors, 28, 28)
    torch.testing.assert_close(picture, bias.view(colors, 2, 2).repeat(1, 14, 14))


def test_initialize_draws_weights_of_kaimings_variance_and_sets_every_bias():
    """2 / (inputs of a unit), 2 x 2 convolutions of 30 channels having 120; the last bias says what comes out first."""
    last = nn.Linear(200, 300)  # in layers within layers, and before what has no weights
    network = nn.Sequential(nn.Conv2d(30, 200, 2), nn.BatchNorm2d(200), nn.Sequential(nn.Flatten(), last), nn.SiLU())
    assert initialize(network, output=-1.5) is network
    for layer, inputs, bias in ((network[0], 120, 0.0), (last, 200, -1.5)):
        assert layer.weight.var().item() == pytest.approx(2 / inputs, rel=0.05) and abs(layer.weight.mean()) < 0.002
        assert (layer.bias == bias).all()
    assert (network[1].weight == 1).all()  # no weight of a connection
    initialize(network, output=torch.arange(300.0))
    assert torch.equal(last.bias, torch.arange(300.0))
    ink = mlp_vae().decoder[-1].bias.sigmoid()  # MNIST's mean, 0.1307
    torch.testing.assert_close(ink, torch.full_like(ink, 0.13), atol=0.003, rtol=0)


@pytest.mark.parametrize("make", [mlp_vae, conv_vae])
def test_a_new_model_starts_far_better_than_a_coin_at_every_pixel(make):
    """784 log 2 is 543 nats; the best a decoder can do without its code, 0.13 ink everywhere, is 303."""
    assert -400 < elbo(make(), INK).value.mean() < -295
    gaussian = make(likelihood=vae.Gaussian())
    assert (list(gaussian.decoder.parameters())[-1] == 0).all()


def test_the_log_variance_of_any_encoder_is_bounded_smoothly():
    raw = torch.linspace(-100, 100, 50, dtype=torch.float64)[:, None]
    mu, logvar = VAE(nn.Identity(), nn.Identity(), 1).encode(torch.cat([raw, raw], dim=1))
    torch.testing.assert_close((mu, logvar), (raw, 8 * torch.tanh(raw / 8) - 4))


@pytest.mark.parametrize("raw", [1e30, -1e30])
def test_an_encoder_gone_wild_still_gives_finite_bounds_and_gradients(raw):
    model = VAE(Constant(torch.zeros(3), torch.full((3,), raw)), nn.Linear(3, 784), 3)
    for bound in (elbo(model, INK), iwae(model, INK, num_samples=3)):
        model.zero_grad()
        bound.value.mean().backward()
        assert all(torch.isfinite(part).all() for part in (*bound, *(weight.grad for weight in model.parameters())))
    assert (elbo(model, INK).kl < 75).all()  # 25 nats a dimension: one image of ten thousand cannot decide their mean


def test_a_device_is_available_only_if_an_operation_runs_there(monkeypatch):
    """A card that PyTorch sees and cannot use, as Kaggle's P100, and on a machine without one."""
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: (_ for _ in ()).throw(RuntimeError("no kernel image")))
    assert available_device().type in ("cpu", "mps")
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    assert available_device() == torch.device("cpu")


def test_bfloat16_is_faster_where_its_best_time_is_below_four_fifths(monkeypatch):
    for times, faster in (((0.79, 1.0), True), ((0.81, 1.0), False)):
        measured = iter(times)  # of bfloat16, then of float32
        monkeypatch.setattr(vae, "repeat", lambda run, measured=measured, **_: (run(), [100.0, next(measured)])[1])
        assert vae.bfloat16_is_faster("cpu") is faster


OWN = nn.ModuleList([nn.Linear(3, 5), nn.Linear(2, 3)])  # as in a network of one's own, whose output may come first


@pytest.mark.parametrize("network", [
    OWN, nn.Sequential(nn.Linear(2, 3), OWN), nn.Linear(2, 3, bias=False), nn.Sequential(nn.SiLU()),
], ids=["its own", "its own at the end", "no bias", "no weights"])  # fmt: skip
def test_initialize_does_not_guess_which_bias_is_the_output(network):
    with pytest.raises(ValueError, match=r"no bias of this .* is known as its output"):
        initialize(network, output=-1.9)
    assert initialize(network) is network


def test_a_model_that_is_called_says_what_to_use():
    with pytest.raises(NotImplementedError, match=r"reconstruct.* elbo\(model, x\)"):
        mlp_vae()(torch.zeros(1, 784))
