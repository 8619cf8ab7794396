"""Plots: each returns the Axes that it drew on and shows nothing by itself; what is drawn is where it should be."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

import vae_utils as vae

HISTORY = [{"epoch": e, "elbo": -200.0 / e, "valid_elbo": -210.0 / e, "kl": e, "valid_kl": 2 * e} for e in (1, 2, 3)]
LABELS = torch.arange(500) % 10
PLOTS = {
    "images": lambda ax: vae.plot_images(torch.rand(7, 784), columns=3, ax=ax),
    "rows": lambda ax: vae.plot_rows({"a": torch.rand(4, 784), "b": torch.rand(4, 784)}, ax=ax),
    "history": lambda ax: vae.plot_history(HISTORY, ax=ax),
    "codes": lambda ax: vae.plot_codes(torch.randn(500, 2), LABELS, ax=ax),
    "latent space": lambda ax: vae.plot_latent_space(torch.randn(500, 2), LABELS, ax=ax),
    "manifold": lambda ax: vae.plot_manifold(vae.mlp_vae(2, (8,)), n=4, ax=ax),
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
    picture = vae.plot_images(images[:5], columns=3).images[0].get_array()
    np.testing.assert_allclose(picture[16::30, 16::30], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]])  # the last place is empty
    ax = vae.plot_rows({"a": images[:2], "b": images[2:4], "c": images[4:]})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    rows = [ax.images[0].get_array()[round(tick), 16::30] for tick in ax.get_yticks()]
    np.testing.assert_allclose(rows, [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])


def test_history_draws_training_and_held_out_values():
    for key, values in (("elbo", [[-200, -100, -200 / 3], [-210, -105, -70]]), ("kl", [[1, 2, 3], [2, 4, 6]])):
        lines = vae.plot_history(HISTORY, key).get_lines()
        assert [list(line.get_ydata()) for line in lines] == values and list(lines[0].get_xdata()) == [1, 2, 3]
    assert len(vae.plot_history([{"epoch": 1, "elbo": -1.0}]).get_lines()) == 1


def test_the_map_has_a_colour_and_a_numeral_for_every_digit_and_the_circles_of_the_prior():
    ax = vae.plot_latent_space(torch.randn(500, 2), LABELS)
    colors = [to_rgb(vae.DIGIT_COLORS[digit]) for digit in LABELS]
    np.testing.assert_array_equal(ax.collections[0].get_facecolors()[:, :3], colors)
    assert {text.get_text() for text in ax.texts} == {*"0123456789", "50%", "90%", "99%"}
    distances = torch.randn(200_000, 2).norm(dim=1)
    for circle, text in zip(ax.patches, ax.texts[-3:], strict=True):  # each holds the share that is written on it
        share = (distances < circle.get_radius()).float().mean().item()
        assert share == pytest.approx(float(text.get_text()[:-1]) / 100, abs=0.005)
        assert text.get_position() == (0, -circle.get_radius())


def test_a_numeral_stands_in_the_middle_of_its_points_but_clear_of_the_others():
    corners = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    texts = vae.plot_codes(corners, torch.tensor([7, 7, 2, 4, 4])).texts
    assert {text.get_text(): text.get_position() for text in texts} == {"2": (9, 0), "4": (0, 9), "7": (0, 0)}
    mu = torch.randn(500, 2)
    places = torch.tensor([text.get_position() for text in vae.plot_codes(mu, LABELS).texts])
    assert len(places) == 10 and torch.pdist(places).min() > 0.05 * (mu.max() - mu.min())


def test_the_manifold_decodes_each_code_where_its_ticks_say():
    model, codes = vae.mlp_vae(2, (8,)), []
    model.decoder.register_forward_pre_hook(lambda module, inputs: codes.append(inputs[0]))
    vae.plot_manifold(model, n=5)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    expected = torch.cartesian_prod(quantiles.flip(0), quantiles).flip(1)  # z1 grows to the right, z2 upwards
    torch.testing.assert_close(codes[0], expected)
    ax = vae.plot_manifold(model, n=40)
    z, centres = codes[1].view(40, 40, 2), np.arange(40) * 30 + 15.5  # where the pictures lie, in pixels
    for axis, along in ((ax.xaxis, z[0, :, 0]), (ax.yaxis, z[:, 0, 1])):
        values = [float(label.get_text()) for label in axis.get_ticklabels()]
        assert np.interp(axis.get_ticklocs(), centres, along) == pytest.approx(values, abs=0.02)


def test_show_source_and_show_table_display_markdown_and_plain_text(monkeypatch):
    shown = []
    monkeypatch.setattr(vae, "display", lambda data, raw: shown.append(data))
    vae.show_source(vae.kl_divergence)
    vae.show_table(["model", "ELBO"], [["first", -153.77], ["ours", -136]])
    source, table = shown
    assert source["text/plain"].startswith("def kl_divergence(")
    assert source["text/markdown"] == f"```python\n{source['text/plain']}```"
    assert table["text/plain"].splitlines() == ["model  ELBO", "-----  -------", "first  -153.77", "ours   -136"]
    assert table["text/markdown"].splitlines()[1:3] == ["| ----- | ------- |", "| first | -153.77 |"]
