"""Model: shapes, gradients, numbers that stay finite, and the device it runs on."""

import math
from unittest.mock import Mock

import pytest
import torch

from vae_utils import (
    ConvDecoder,
    ConvEncoder,
    Elbo,
    available_device,
    bounded_logvar,
    conv_vae,
    elbo,
    kl_divergence,
    mlp_vae,
    reparameterize,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("batch", [1, 129])
@pytest.mark.parametrize(("latent_dim", "make"), [
    (1, lambda: mlp_vae(1, (5,))), (2, mlp_vae), (20, lambda: mlp_vae(20, (400, 30))),
    (32, conv_vae), (3, lambda: conv_vae(3, channels=4, hidden_dim=8)),
], ids=["one unit", "default", "uneven", "convolutions", "few channels"])  # fmt: skip
def test_every_model_has_the_right_shapes_and_a_gradient_for_every_weight(batch, latent_dim, make):
    model, x = make(), torch.rand(batch, 784)
    logits, mu, logvar = model(x)
    assert mu.shape == logvar.shape == (batch, latent_dim) and model.latent_dim == latent_dim
    assert logits.shape == model.reconstruct(x).shape == model.sample(batch).shape == (batch, 784)
    codes = torch.randn(5, batch, latent_dim)  # any number of dimensions may stand before the last
    assert model.decode(codes).shape == (5, batch, 784)
    torch.testing.assert_close(model.decode(codes)[2], model.decode(codes[2]))
    elbo(model, x).value.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_forward_decodes_a_draw_from_q_and_reconstruct_its_mean():
    model, x = mlp_vae(2, (16,)), torch.rand(5, 784)
    mu, logvar = model.encode(x)
    for seed in (0, 1):
        expected = model.decode(reparameterize(mu, logvar, generator=generator(seed))), mu, logvar
        torch.testing.assert_close(model(x, generator=generator(seed)), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.reconstruct(x), model.decode(mu).sigmoid())
    with torch.autocast("cpu", torch.bfloat16):  # rounds within the layers alone
        assert [part.dtype for part in model(x)] == 3 * [torch.float32]


def test_the_elbo_is_that_of_forward():
    """Where forward says that all pixels are equally likely and that q is the prior, the ELBO is 784 log 1/2."""
    model = mlp_vae(2, (16,))
    model.register_forward_hook(lambda module, inputs, output: tuple(0 * part for part in output))
    value = torch.full((3,), 784 * math.log(0.5))
    torch.testing.assert_close(elbo(model, torch.rand(3, 784)), Elbo(value, value, torch.zeros(3)))


def test_the_decoder_applies_the_widths_of_the_encoder_in_reverse():
    widths, reverse = ([w.shape for w in part.parameters() if w.ndim == 2] for part in mlp_vae(2, (9, 5)).children())
    assert widths == [(9, 784), (5, 9), (2, 5), (2, 5)] and reverse == [(5, 2), (9, 5), (784, 9)]


def test_the_encoder_sees_rows_as_rows():
    """One inked pixel changes the first features of the 2 x 2 places that see it, and of no other."""
    encoder, grids = ConvEncoder(2, 4, 8), []
    encoder.convolutions[0].register_forward_hook(lambda module, inputs, output: grids.append(output))
    image = torch.zeros(2, 28, 28)
    image[1, 9, 22] = 1
    encoder(image.view(2, 784))
    assert (grids[0][0] != grids[0][1]).any(dim=0).nonzero().tolist() == [[4, 10], [4, 11], [5, 10], [5, 11]]


def test_the_decoder_lays_blocks_where_they_belong():
    """With a bias alone in its last convolution, all blocks of 2 x 2 are the same, their pixels in reading order."""
    decoder = ConvDecoder(2, 4, 8)
    decoder.convolutions[-2].weight.data.zero_()
    decoder.convolutions[-2].bias.data.copy_(torch.arange(4.0))
    picture = decoder(torch.randn(1, 2)).view(28, 28)
    torch.testing.assert_close(picture, torch.arange(4.0).view(2, 2).repeat(14, 14))


def test_logvar_bends_before_its_ceiling_without_a_corner():
    """Up to 1 nothing is changed by the ceiling; beyond, it is a tanh whose value and slope begin where that ends."""
    raw = torch.linspace(-30, 30, 6001, dtype=torch.float64, requires_grad=True)
    logvar = bounded_logvar(raw)
    plain = 12 * torch.tanh(raw / 12)
    torch.testing.assert_close(logvar[plain <= 1], plain[plain <= 1], rtol=0, atol=0)
    torch.testing.assert_close(logvar[plain > 1], 1 + 3 * torch.tanh((plain[plain > 1] - 1) / 3))
    (slope,) = torch.autograd.grad(logvar.sum(), raw)
    assert slope.diff().abs().max() < 0.01  # steps of 0.01 in raw; a corner would be a jump


def test_an_encoder_gone_wild_still_gives_a_finite_elbo_and_cannot_decide_the_mean_kl_of_thousands():
    """Its variance costs at most 25 nats a dimension: a stranger among ten thousand moves their mean by 0.0025."""
    model = mlp_vae(1, (16,))
    model.encoder.logvar.bias.data.fill_(1e6)
    assert torch.isfinite(elbo(model, torch.rand(4, 784)).value).all()
    assert 20 < kl_divergence(torch.zeros(1, 1), model.encode(torch.rand(1, 784))[1]) < 25


def test_samples_decode_codes_from_the_prior_and_follow_their_generator():
    model, codes = mlp_vae(2, (16,)), []
    model.decoder.register_forward_pre_hook(lambda module, inputs: codes.append(inputs[0]))
    first, second, _ = (model.sample(20000, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(codes[0], codes[2])
    torch.testing.assert_close(first, model.decode(codes[0]).sigmoid())
    torch.testing.assert_close(torch.cov(codes[0].T), torch.eye(2), atol=0.05, rtol=0)
    torch.testing.assert_close(codes[0].mean(0), torch.zeros(2), atol=0.05, rtol=0)


@pytest.mark.parametrize(("faults", "device"), [
    ({}, "cpu"), ({"cuda": None, "mps": None}, "cuda"), ({"mps": None}, "mps"), ({"cuda": "ones", "mps": None}, "mps"),
    ({"cuda": "exp"}, "cpu"), ({"cuda": "item"}, "cpu"), ({"cuda": "exp", "mps": "item"}, "cpu"),
])  # fmt: skip
def test_a_device_is_available_only_if_an_operation_runs_there(monkeypatch, faults, device):
    """PyTorch says that the devices in `faults` are available; each breaks at the call that is named."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in faults)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in faults)
    error = RuntimeError("no kernel image is available for execution on the device")

    def ones(*size, device):
        if faults[device] == "ones":
            raise error
        at_once, later = (error if faults[device] == name else None for name in ("exp", "item"))
        return Mock(**{"exp.side_effect": at_once, "exp.return_value.item.side_effect": later})

    monkeypatch.setattr(torch, "ones", ones)
    assert available_device() == torch.device(device)
