"""Model: shapes, gradients, and numbers that stay finite."""

import pytest
import torch

from vae_utils import (
    LOGVAR_BOUND,
    LOGVAR_CEILING,
    ConvDecoder,
    ConvEncoder,
    Decoder,
    Encoder,
    bounded_logvar,
    conv_vae,
    elbo,
    kl_divergence,
    mlp_vae,
)

MODELS = {
    "one unit": (1, lambda: mlp_vae(1, (5,))),
    "default": (2, mlp_vae),
    "uneven": (20, lambda: mlp_vae(20, (400, 30))),
    "patches": (32, conv_vae),
    "small patches": (3, lambda: conv_vae(3, channels=4, hidden_dim=8, depth=1)),
}


@pytest.mark.parametrize("batch", [1, 7, 129])
@pytest.mark.parametrize(("latent_dim", "make"), MODELS.values(), ids=MODELS.keys())
def test_shapes(batch, latent_dim, make):
    model = make()
    x = torch.rand(batch, 784)
    mu, logvar = model.encode(x)
    assert mu.shape == logvar.shape == (batch, latent_dim)
    assert model.decode(mu).shape == model.reconstruct(x).shape == model.sample(batch).shape == (batch, 784)
    assert model.latent_dim == latent_dim


@pytest.mark.parametrize("decoder", [Decoder(3, (8, 4)), ConvDecoder(3, 4, 8, 1)], ids=["dense", "patches"])
def test_the_decoder_takes_any_leading_dimensions(decoder):
    z = torch.randn(5, 7, 3)
    logits = decoder(z)
    assert logits.shape == (5, 7, 784)
    torch.testing.assert_close(logits[2, 3], decoder(z[2, 3]))


def test_the_decoder_applies_the_widths_of_the_encoder_in_reverse():
    widths = [tuple(w.shape) for w in Encoder(2, (9, 5)).parameters() if w.ndim == 2]
    reverse = [tuple(w.shape) for w in Decoder(2, (9, 5)).parameters() if w.ndim == 2]
    assert widths == [(9, 784), (5, 9), (2, 5), (2, 5)]
    assert reverse == [(5, 2), (9, 5), (784, 9)]


def test_the_encoder_cuts_patches_where_they_lie():
    """One inked pixel changes the features of its own 4 x 4 patch, and of no other."""
    encoder = ConvEncoder(2, 4, 8, 1)
    grids = []
    encoder.patches.register_forward_hook(lambda module, inputs, output: grids.append(output))
    row, column = 9, 22
    image = torch.zeros(1, 28, 28)
    encoder(image.view(1, 784))
    image[0, row, column] = 1
    encoder(image.view(1, 784))
    changed = (grids[0] != grids[1]).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[row // 4, column // 4]]


def test_the_decoder_lays_patches_where_they_belong():
    """With a bias alone in its last layer, every patch is the same, its sixteen pixels in reading order."""
    decoder = ConvDecoder(2, 4, 8, 1)
    with torch.no_grad():
        decoder.logits.weight.zero_()
        decoder.logits.bias.copy_(torch.arange(16.0))
    picture = decoder(torch.randn(1, 2)).view(28, 28)
    torch.testing.assert_close(picture, torch.arange(16.0).view(4, 4).repeat(7, 7))


@pytest.mark.parametrize(
    "model", [mlp_vae(2, (16, 8)), conv_vae(2, channels=4, hidden_dim=8)], ids=["dense", "patches"]
)
def test_a_gradient_reaches_every_parameter(model):
    torch.manual_seed(0)
    (-elbo(model, torch.rand(4, 784)).value.mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_logits_are_unbounded_and_pictures_are_not():
    torch.manual_seed(0)
    model = mlp_vae(2, (16,))
    with torch.no_grad():
        model.decoder.logits.weight.mul_(1000)
    logits = model.decode(torch.randn(50, 2))
    assert logits.min() < -50 and logits.max() > 50
    pictures = model.sample(50)
    assert pictures.min() >= 0 and pictures.max() <= 1


def test_logvar_cannot_overflow_and_keeps_its_value_and_gradient_near_zero():
    raw = torch.tensor([-1e30, -1e4, -0.1, 0.0, 0.1, 1e4, 1e30], requires_grad=True)
    logvar = bounded_logvar(raw)
    assert logvar.min() >= -LOGVAR_BOUND and logvar.max() <= LOGVAR_CEILING
    assert torch.isfinite(logvar.exp()).all() and torch.isfinite((-logvar).exp()).all()
    torch.testing.assert_close(logvar[2:5], raw[2:5], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(logvar.sum(), raw)
    torch.testing.assert_close(gradient[2:5], torch.ones(3), rtol=1e-3, atol=0)


def test_logvar_bends_before_its_ceiling_without_a_corner():
    """Up to 1 nothing is changed by the ceiling; beyond, it is a tanh whose value and slope begin where that ends."""
    raw = torch.linspace(-30, 30, 6001, dtype=torch.float64, requires_grad=True)
    logvar = bounded_logvar(raw)
    plain = 12 * torch.tanh(raw / 12)
    torch.testing.assert_close(logvar[plain <= 1], plain[plain <= 1], rtol=0, atol=0)
    torch.testing.assert_close(logvar[plain > 1], 1 + 3 * torch.tanh((plain[plain > 1] - 1) / 3))
    (slope,) = torch.autograd.grad(logvar.sum(), raw)
    assert slope.diff().abs().max() < 0.01  # steps of 0.01 in raw; a corner would be a jump
    torch.testing.assert_close(slope[1:-1], (logvar[2:] - logvar[:-2]) / 0.02, atol=1e-4, rtol=0)


def test_no_single_image_can_decide_the_mean_kl_of_thousands():
    """Its variance costs at most 25 nats a dimension: a stranger among ten thousand moves their mean by 0.0025."""
    logvar = bounded_logvar(torch.full((1, 1), 1e6))
    assert 20 < kl_divergence(torch.zeros(1, 1), logvar) < 25


def test_an_encoder_gone_wild_still_gives_a_finite_elbo():
    model = mlp_vae(2, (16,))
    with torch.no_grad():
        model.encoder.logvar.bias.fill_(1e6)
    assert torch.isfinite(elbo(model, torch.rand(4, 784)).value).all()


def test_reconstruct_decodes_the_mean_code():
    model = mlp_vae(2, (16,))
    x = torch.rand(3, 784)
    torch.testing.assert_close(model.reconstruct(x), model.decode(model.encode(x)[0]).sigmoid())


def test_samples_follow_their_generator_and_the_prior():
    model = mlp_vae(2, (16,))
    first, second, third = (model.sample(5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, third)
    codes = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: codes.append(inputs[0]))
    model.sample(20000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cov(codes[0].T), torch.eye(2), atol=0.05, rtol=0)
    torch.testing.assert_close(codes[0].mean(0), torch.zeros(2), atol=0.05, rtol=0)
