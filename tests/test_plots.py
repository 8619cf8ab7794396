"""Plots: each returns the Axes that it drew on and shows nothing by itself; what is drawn is where it should be."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from oracles import Moved, generator
from torch import nn

import vae_utils as vae

LABELS = torch.arange(500) % 10
MODEL = vae.mlp_vae(2, (8,))
PLOTS = {
    "images": lambda ax: vae.plot_images(torch.rand(7, 784), columns=3, ax=ax),
    "rows": lambda ax: vae.plot_rows({"a": torch.rand(4, 784), "b": torch.rand(4, 784)}, ax=ax),
    "codes": lambda ax: vae.plot_codes(torch.randn(500, 2), LABELS, ax=ax),
    "latent space": lambda ax: vae.plot_latent_space(MODEL, torch.randn(500, 2), LABELS, ax=ax),
    "manifold": lambda ax: vae.plot_manifold(MODEL, n=4, ax=ax),
}


@pytest.fixture(autouse=True)
def no_show(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_plots_draw_on_a_given_axes_or_a_new_one(plot):
    ax = plt.subplots()[1]
    assert plot(ax) is ax and ax.has_data()
    assert plot(None).figure is not ax.figure
    plt.gcf().canvas.draw()


def test_images_stand_in_reading_order_and_rows_beside_their_names():
    images = torch.arange(1, 7)[:, None] / 10 * torch.ones(6, 784)
    picture = vae.plot_images(images[:5], columns=3).images[0].get_array()[..., 0]
    np.testing.assert_allclose(picture[16::30, 16::30], 1 - np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]]))  # dark ink
    ax = vae.plot_rows({"a": images[:2], "b": images[2:4], "c": images[4:]})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    rows = [ax.images[0].get_array()[round(30 * tick), 16::30, 0] for tick in ax.get_yticks()]
    np.testing.assert_allclose(rows, 1 - np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]))


def test_images_in_colour_keep_their_colours_and_places():
    images = torch.rand(2, 3, 32, 32)
    picture = vae.plot_images(images.flatten(1) * 2 - 0.5).images[0].get_array()  # beyond 0 and 1, it is cut
    np.testing.assert_allclose(picture[1:33, 35:67], (images[1] * 2 - 0.5).clamp(0, 1).permute(1, 2, 0), atol=1e-6)


@pytest.mark.parametrize("prior", [vae.StandardNormal(2), Moved(3, -1), vae.FlowPrior(2, couplings=2, hidden_dim=16)])
def test_the_map_has_a_colour_and_a_numeral_for_every_digit_and_the_curves_of_whichever_prior(prior):
    for weight in prior.parameters():
        nn.init.normal_(weight, std=0.2, generator=generator())
    ax = vae.plot_latent_space(vae.mlp_vae(2, (8,), prior=prior), torch.randn(500, 2), LABELS)
    colors = [to_rgb(vae.DIGIT_COLORS[digit]) for digit in LABELS]
    np.testing.assert_array_equal(ax.collections[0].get_facecolors()[:, :3], colors)
    assert sorted(text.get_text() for text in ax.texts) == sorted([*"0123456789", "50%", "90%", "99%"])
    heights, curves = prior.log_prob(prior.sample(100_000, generator(5))), ax.collections[-1]
    for level, path, share in zip(curves.levels, curves.get_paths(), (0.99, 0.9, 0.5), strict=True):
        assert (heights > level).float().mean().item() == pytest.approx(share, abs=0.005)
        there = prior.log_prob(torch.from_numpy(path.vertices).float())
        torch.testing.assert_close(there, torch.full_like(there, level), atol=0.1, rtol=0)


def test_a_map_of_more_dimensions_has_no_curves():
    assert len(vae.plot_latent_space(vae.mlp_vae(3, (8,)), torch.randn(500, 2), LABELS).collections) == 1


def test_a_numeral_stands_in_the_middle_of_its_points_but_clear_of_the_others():
    corners = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    texts = vae.plot_codes(corners, torch.tensor([7, 7, 2, 4, 4])).texts
    assert {text.get_text(): text.get_position() for text in texts} == {"2": (9, 0), "4": (0, 9), "7": (0, 0)}
    mu = torch.randn(500, 2)
    places = torch.tensor([text.get_position() for text in vae.plot_codes(mu, LABELS).texts])
    assert len(places) == 10 and torch.pdist(places).min() > 0.05 * (mu.max() - mu.min())


def test_the_manifold_decodes_each_code_where_its_ticks_say():
    model, codes = vae.mlp_vae(2, (8,), prior=Moved(3, -1)), []
    model.decoder.register_forward_pre_hook(lambda module, inputs: codes.append(inputs[0]))
    vae.plot_manifold(model, n=5)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    expected = torch.cartesian_prod(quantiles.flip(0), quantiles).flip(1)  # z1 grows to the right, z2 upwards
    torch.testing.assert_close(codes[0], model.prior.place + expected, atol=0.03, rtol=0)
    ax = vae.plot_manifold(model, n=40)
    z, centres = codes[1].view(40, 40, 2), np.arange(40) + 0.5  # where the pictures lie
    for axis, along in ((ax.xaxis, z[0, :, 0]), (ax.yaxis, z[:, 0, 1])):
        values = [float(label.get_text()) for label in axis.get_ticklabels()]
        assert np.interp(axis.get_ticklocs(), centres, along) == pytest.approx(values, abs=0.06)
