"""Plots: each returns the Axes that it drew on, and none shows anything by itself."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

import vae_utils
from vae_utils import (
    DIGIT_COLORS,
    mlp_vae,
    plot_history,
    plot_images,
    plot_latent_space,
    plot_manifold,
    plot_reconstructions,
    show_source,
    show_table,
)

HISTORY = [{"epoch": e, "elbo": -200.0 / e, "valid_elbo": -210.0 / e, "kl": e, "valid_kl": e} for e in (1, 2, 3)]


@pytest.fixture(autouse=True)
def no_show(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


PLOTS = {
    "images": lambda ax: plot_images(torch.rand(7, 784), columns=3, ax=ax),
    "reconstructions": lambda ax: plot_reconstructions(torch.rand(4, 784), torch.rand(4, 784), ax=ax),
    "history": lambda ax: plot_history(HISTORY, ax=ax),
    "latent space": lambda ax: plot_latent_space(torch.randn(50, 2), torch.arange(50) % 10, ax=ax),
    "manifold": lambda ax: plot_manifold(mlp_vae(2, (8,)), n=4, ax=ax),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS.keys())
def test_plots_draw_on_a_given_axes_or_a_new_one(plot):
    ax = plt.subplots()[1]
    assert plot(ax) is ax and ax.has_data()
    new = plot(None)
    assert isinstance(new, Axes) and new is not ax
    new.figure.canvas.draw()


def test_images_stand_in_reading_order():
    images = torch.arange(1, 6)[:, None] / 10 * torch.ones(5, 784)
    picture = plot_images(images, columns=3).images[0].get_array()
    assert picture.shape == (60, 90)
    centres = picture[15::30, 15::30]
    torch.testing.assert_close(torch.tensor(centres), torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]]))


def test_originals_stand_over_reconstructions():
    ax = plot_reconstructions(torch.full((3, 784), 0.25), torch.full((3, 784), 0.75))
    picture = ax.images[0].get_array()
    assert picture[15, 15] == 0.25 and picture[45, 15] == 0.75
    assert [label.get_text() for label in ax.get_yticklabels()] == ["original", "reconstruction"]


def test_history_draws_training_and_held_out_values():
    lines = plot_history(HISTORY, "elbo").get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[-200, -100, -200 / 3], [-210, -105, -70]]
    assert len(plot_history([{"epoch": 1, "elbo": -1.0}]).get_lines()) == 1


def test_the_map_has_a_colour_and_a_numeral_for_every_digit_and_the_circles_of_the_prior():
    labels = torch.arange(50) % 10
    ax = plot_latent_space(torch.randn(50, 2), labels)
    drawn = ax.collections[0].get_facecolors()[:, :3]
    assert [tuple(color) for color in drawn] == [to_rgb(DIGIT_COLORS[digit]) for digit in labels]
    assert {text.get_text() for text in ax.texts} == {*"0123456789", "50%", "90%", "99%"}
    # Each circle holds the share of draws from N(0, I) that is written on it.
    distances = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)).norm(dim=1)
    shares = [(distances < patch.get_radius()).float().mean().item() for patch in ax.patches]
    assert shares == pytest.approx([0.5, 0.9, 0.99], abs=0.005)


def test_numerals_of_digits_that_share_a_place_do_not_overlap():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(500) % 10
    mu = torch.randn(500, 2, generator=generator) * 0.3
    numerals = [text for text in plot_latent_space(mu, labels).texts if len(text.get_text()) == 1]
    places = torch.tensor([text.get_position() for text in numerals])
    assert len(numerals) == 10 and torch.pdist(places).min() > 0.39


def test_the_manifold_decodes_each_code_where_it_lies():
    """A decoder that paints z1 shows it growing to the right, one that paints z2 shows it growing upwards."""
    model = mlp_vae(2, (8,))
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    plot_manifold(model, n=5)
    z = seen[0].view(5, 5, 2)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    torch.testing.assert_close(z[0, :, 0], quantiles)
    torch.testing.assert_close(z[:, 0, 1], quantiles.flip(0))


def test_pictures_of_the_plane_need_two_dimensions():
    with pytest.raises(ValueError, match=r"\(N, 2\).*\(5, 3\)"):
        plot_latent_space(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"2 latent dimensions.*3"):
        plot_manifold(mlp_vae(3, (8,)))


def test_show_source_displays_the_source_as_it_stands(monkeypatch):
    shown = []
    monkeypatch.setattr(vae_utils, "display", lambda data, raw: shown.append((data, raw)))
    show_source(vae_utils.kl_divergence)
    data, raw = shown[0]
    assert raw and data["text/plain"].startswith("def kl_divergence(")
    assert data["text/markdown"] == f"```python\n{data['text/plain']}```"
    assert data["text/plain"] in Path(vae_utils.__file__).read_text(encoding="utf-8")


def test_show_table_aligns_its_columns(monkeypatch):
    shown = []
    monkeypatch.setattr(vae_utils, "display", lambda data, raw: shown.append(data))
    show_table(["model", "ELBO"], [["first", -153.77], ["ours", -136]])
    assert shown[0]["text/plain"].splitlines() == ["model  ELBO", "-----  -------", "first  -153.77", "ours   -136"]
    assert shown[0]["text/markdown"].splitlines()[:2] == ["| model | ELBO    |", "| ----- | ------- |"]
