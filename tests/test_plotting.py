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
    plot_codes,
    plot_history,
    plot_images,
    plot_kl_per_dimension,
    plot_latent_space,
    plot_manifold,
    plot_posterior,
    plot_rate_distortion,
    plot_reconstructions,
    plot_rows,
    posterior_on_grid,
    show_source,
    show_table,
)

HISTORY = [{"epoch": e, "elbo": -200.0 / e, "valid_elbo": -210.0 / e, "kl": e, "valid_kl": e} for e in (1, 2, 3)]

SWEEP = [{"beta": b, "kl": 8.0 / b, "log_likelihood": -100.0 - 10 * b} for b in (0.5, 1.0, 4.0)]


def grid():
    torch.manual_seed(0)
    return posterior_on_grid(mlp_vae(2, (8,)), torch.rand(2, 784), n=41)


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
    "codes": lambda ax: plot_codes(torch.randn(50, 2), torch.arange(50) % 10, ax=ax),
    "rows": lambda ax: plot_rows({"a": torch.rand(4, 784), "b": torch.rand(4, 784)}, ax=ax),
    "posterior": lambda ax: plot_posterior(grid(), 1, torch.zeros(2), torch.zeros(2), ax=ax),
    "rate and distortion": lambda ax: plot_rate_distortion(SWEEP, ax=ax),
    "KL per dimension": lambda ax: plot_kl_per_dimension(torch.rand(5), torch.tensor([True] * 3 + [False] * 2), ax=ax),
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
    assert len(numerals) == 10 and torch.pdist(places).min() > 0.05 * (mu.max() - mu.min())


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


def test_rows_stand_under_each_other_with_their_names():
    ax = plot_rows({name: torch.full((2, 784), value) for name, value in (("a", 0.2), ("b", 0.4), ("c", 0.8))})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    picture = ax.images[0].get_array()
    for tick, value in zip(ax.get_yticks(), (0.2, 0.4, 0.8), strict=True):
        assert picture[round(tick), 15] == pytest.approx(value)


def test_the_line_of_equal_elbo_goes_through_the_best_point():
    points, line = plot_rate_distortion(SWEEP).get_lines()
    assert list(points.get_xdata()) == [16, 8, 2] and list(points.get_ydata()) == [105, 110, 140]
    assert [x + y for x, y in zip(*line.get_data(), strict=True)] == pytest.approx([118, 118])  # beta = 1: 8 + 110


def test_kl_bars_are_sorted_and_say_which_units_are_active():
    kl, active = torch.tensor([0.1, 3.0, 0.0, 2.0]), torch.tensor([True, True, False, False])
    ax = plot_kl_per_dimension(kl, active)
    bars = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in ax.patches}
    assert [bars[place] for place in sorted(bars)] == pytest.approx([3, 2, 0.1, 0])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["active: 2 units", "not active: 2 units"]


def test_the_ellipses_of_q_are_one_and_two_standard_deviations_around_its_mean():
    ax = plot_posterior(grid(), 0, torch.tensor([0.5, -1.0]), torch.tensor([0.0, 2.0]).log())
    ellipses = [patch for patch in ax.patches if hasattr(patch, "width")]
    # log 0 is a standard deviation of 0; log 2 is a variance of 2
    sizes = [(round(e.width, 4), round(e.height, 4)) for e in ellipses]
    assert [tuple(e.center) for e in ellipses] == [(0.5, -1.0)] * 2
    assert sizes == [(0.0, 2.8284), (0.0, 5.6569)]
    low, high = ax.get_ylim()
    assert low < -1 - 2 * 2**0.5 and high > -1 + 2 * 2**0.5  # both ellipses are inside
