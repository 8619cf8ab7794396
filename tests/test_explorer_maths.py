"""The explorer's mathematics, model.js, without a page: it computes what PyTorch computes."""

import copy

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from small_explorer import MNIST, ROOT, STROKES, model_of, open_maths, page_data, search_best_codes, small_model
from torch import nn

import vae_utils as vae
from explorer.explorer import write_explorer

REACH = 3.4  # of the plane
BUILT = ROOT / "explorer" / "explorer.html"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    return write_explorer(small_model(), MNIST.test_images[:20], MNIST.test_labels[:20], path)


@pytest.fixture
def maths(open_window, written):
    return open_maths(open_window, written)


@pytest.mark.parametrize("bias", [None, -15.0, 15.0])
def test_it_computes_what_pytorch_does(bias, tmp_path, open_window):
    """Codes, pictures, and the loss term by term and pixel by pixel; also where logvar is near its bounds."""
    model, x = copy.deepcopy(small_model()), MNIST.test_images[-100:]
    if bias is not None:
        model.encoder[-1].weight.data[2:] /= 10
        model.encoder[-1].bias.data[2:] = bias
    maths = open_maths(open_window, write_explorer(model, x, MNIST.test_labels[-100:], tmp_path / "page.html"))
    script = """xs => xs.map(x => {
        const q = encode(model, x), over = lossOver(model, x, q), at = lossAt(model, x, q.mu);
        return [...q.mu, ...q.logvar, over.latent, over.total, over.costs.reduce((a, b) => a + b) + over.latent,
            at.latent, at.total, ...at.costs, ...pictureOf(model, q.mu)]; })"""
    found = torch.tensor(maths.evaluate(script, x.tolist())).split([2, 2, 1, 1, 1, 1, 1, 784, 784], dim=1)
    mu, logvar = vae.encode_dataset(model, x)
    with torch.no_grad():
        loss = -vae.elbo_by_quadrature(model, x, vae.Normal(mu, logvar), nodes=3)  # as the page averages over q(z|x)
        logits, code = model.decode(mu), -model.prior.log_prob(mu)
    costs = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    kl = vae.kl_divergence(mu, logvar)
    exact = (mu, logvar, kl, loss, loss, code, costs.sum(1) + code, costs, logits.sigmoid())
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other.view_as(one), atol=2e-2, rtol=1e-3)


def test_the_map_of_the_loss_is_that_of_pytorch_at_its_coarsest_and_finest(maths):
    """-log p(x|z) - log p(z) at every place of the grid, and the cheapest place."""
    script = """([xs, step, reach]) => { const grid = createGrid(model, reach); return xs.map(x => {
        refineGrid(grid, 1e9, step);
        const { side, values, cheapest, cheapestZ } = mapOfLoss(grid, new Float32Array(x));
        return [side, cheapest, ...cheapestZ, ...values]; }); }"""
    for step, expected_side in ((8, 9), (1, 65)):
        line = torch.linspace(-REACH, REACH, expected_side)
        z = torch.stack(torch.meshgrid(-line, line, indexing="ij")[::-1], -1).view(-1, 2)  # rows go downwards
        maps = maths.evaluate(script, [MNIST.test_images[-3:].tolist(), step, REACH])
        for image, (side, cheapest, z1, z2, *values) in zip(MNIST.test_images[-3:], maps, strict=True):
            with torch.no_grad():
                wanted = -small_model().log_likelihood(image, z) - small_model().prior.log_prob(z)
            torch.testing.assert_close(torch.tensor(values), wanted, atol=1e-2, rtol=1e-4)
            assert side == expected_side and cheapest == min(values)
            assert [z1, z2] == pytest.approx(z[wanted.argmin()].tolist(), abs=1e-3)


def images_of(maths, drawings):
    return torch.tensor(maths.evaluate("all => all.map(strokes => [...imageOfStrokes(strokes)])", drawings))


def test_the_search_finds_what_gradients_find(open_window):
    """Of the built page's digits and of drawings the best q(z|x): within a nat of Adam's from the best place of a map.

    Among them is a digit whose encoder's q leads to a minimum that is 15 nats too dear.
    """
    maths, data = open_maths(open_window, BUILT), page_data(BUILT)
    model = model_of(data)
    x = torch.cat(
        [torch.tensor(data["images"] / 255).float().view(-1, 784)[20:24], images_of(maths, [*STROKES.values()])]
    )
    *best, found, missed = search_best_codes(maths, x)
    line = torch.linspace(-REACH, REACH, 129)
    with torch.no_grad():
        places = torch.cartesian_prod(line, line)
        logits = model.decode(places)
        map_of_loss = nn.functional.softplus(logits).sum(1) - model.prior.log_prob(places) - x @ logits.T
    start = vae.Normal(places[map_of_loss.argmin(1)], torch.full((len(x), 2), -6.0))
    by_adam = vae.best_gaussian(model, x, [start], steps=80)
    with torch.no_grad():
        every = (model.encode(x), vae.Normal(*best), by_adam)
        encoders, loss, least = (-vae.elbo_by_quadrature(model, x, q, nodes=3) for q in every)
    torch.testing.assert_close(found, loss, atol=2e-2, rtol=0)
    torch.testing.assert_close(missed, encoders - loss, atol=2e-2, rtol=0)
    assert missed.min() > -1e-3 and (found <= least + 1).all(), (found - least).max()
    again = search_best_codes(maths, x[2:4], "refineGrid(grid, 1e9)")  # a finer map, as when it has been looked at
    torch.testing.assert_close([*again][2], found[2:4], atol=0, rtol=0)


def test_the_cheapest_z_is_the_cheapest(maths):
    """Cheaper than mu, and than all places of a map four times as fine as the page's; at its own price."""
    x = torch.cat([MNIST.test_images[-30:], images_of(maths, [*STROKES.values()])])
    script = """xs => { const grid = createGrid(model, 3.4); refineGrid(grid, 1e9); return xs.map(x => {
        x = new Float32Array(x);
        const { z, value } = cheapestZ(model, x, [mapOfLoss(grid, x).cheapestZ, encode(model, x).mu]);
        return [...z, value]; }); }"""
    z, value = torch.tensor(maths.evaluate(script, x.tolist())).split([2, 1], dim=1)
    line = torch.linspace(-REACH, REACH, 257)
    with torch.no_grad():
        places = torch.cartesian_prod(line, line)
        logits, codes = small_model().decode(places), -small_model().prior.log_prob(places)
        least = (nn.functional.softplus(logits).sum(1) + codes - x @ logits.T).min(1).values
        mu = small_model().encode(x).mu
        at_mu, at_z = (-small_model().log_likelihood(x, code) - small_model().prior.log_prob(code) for code in (mu, z))
    torch.testing.assert_close(value[:, 0], at_z, atol=2e-2, rtol=0)
    assert (at_z <= torch.minimum(least, at_mu) + 0.1).all(), (at_z - torch.minimum(least, at_mu)).max()


def test_points_that_a_drawing_can_spare_are_left_out(maths):
    """Of a thousand points few remain, the image stays as it was, and a second time changes nothing."""
    t = np.linspace(0, 2 * np.pi, 1000)
    for size in (0.1, 0.8):  # of the pad's side
        stroke = 0.5 + size / 2 * np.stack([np.sin(t), np.cos(t) * np.sin(2 * t)], 1)
        drawing = [stroke.tolist(), [[0.5, 0.5]]]
        fewer, again = maths.evaluate("s => (f => [f, withoutSparePoints(f)])(withoutSparePoints(s))", drawing)
        assert fewer == again and 20 < len(fewer[0]) < 60 and fewer[1] == drawing[1]
        before, after = images_of(maths, [drawing, fewer])
        assert (before - after).abs().max() < 0.15


def test_drawings_are_prepared_as_mnist_was(maths):
    """Box, centre of mass and amount of ink are those of MNIST's digits, wherever and however large one draws."""

    def measure(images):
        sides = [images.view(-1, 28, 28).sum(dim) for dim in (1, 2)]  # ink by column, and by row
        centre = [(side @ (torch.arange(28) + 0.5) / side.sum(1)).mean() for side in sides]
        extent = torch.maximum(*(side.gt(0).sum(1) for side in sides)).float().mean()
        return torch.stack([*centre, extent, images.mean()])

    sizes = [[[[(0.05 + s * x, s * y) for x, y in c] for c in d] for d in STROKES.values()] for s in (1.0, 0.4)]
    large, small, dot = images_of(maths, [*sizes[0], *sizes[1], [[(0.9, 0.1)]]]).split([5, 5, 1])
    torch.testing.assert_close(large, small, atol=1e-3, rtol=0)
    digits = torch.tensor([*STROKES])
    difference = (measure(large) - measure(MNIST.test_images[torch.isin(MNIST.test_labels, digits)])).abs()
    assert (difference < torch.tensor([0.1, 0.1, 0.7, 0.02])).all(), difference
    judge = KNeighborsClassifier(5).fit(MNIST.train_images[:20_000].numpy(), MNIST.train_labels[:20_000].numpy())
    assert judge.predict(large.numpy()).tolist() == digits.tolist()
    assert 0 < dot.sum() < 12  # a dot stays a dot
