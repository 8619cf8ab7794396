"""The explorer: the page is written safely, computes what PyTorch computes, and can be used by everyone."""

import copy
import itertools
import json
import math
import os
import re
from base64 import b64decode
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import vae_utils as vae
from explorer.explorer import PLACEHOLDER, TEMPLATE, show_explorer, write_explorer

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "explorer" / "explorer.html"
MINUS = "\N{MINUS SIGN}"

MNIST = vae.load_mnist(ROOT / "data", download=False)
IMAGES, LABELS = MNIST.test_images[:500], MNIST.test_labels[:500]
# What a callback of fit keeps: the codes of the first 100 images after three epochs.
SNAPSHOTS = [
    ({"epoch": epoch, "valid_elbo": elbo}, torch.randn(100, 2, generator=torch.Generator().manual_seed(epoch)))
    for epoch, elbo in {1: -180.04, 2: -160.0, 5: -150.0}.items()
]


@pytest.fixture(scope="module")
def trained():
    """A small model after a short training: its numbers are of the size that real ones have."""
    torch.manual_seed(0)
    model = vae.mlp_vae(2, (48, 32))
    vae.fit(model, MNIST.train_images[:6000], epochs=2, progress=False)
    return model


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "some where" / "page.html"
    return write_explorer(trained, IMAGES, LABELS, path, snapshots=SNAPSHOTS)


def page_data(path):
    """What a page carries, with its numbers unpacked."""

    def numbers(item):
        return np.frombuffer(b64decode(item["int16"]), "<i2") * item["scale"] if "int16" in item else item

    text = path.read_text(encoding="utf-8").split('<script type="application/json" id="data">')[1].split("</script>")[0]
    data = json.loads(text, object_hook=numbers)
    return data | {key: np.frombuffer(b64decode(data[key]), np.uint8) for key in ("labels", "images", "imageLabels")}


def test_the_page_carries_model_codes_and_images(trained, written, page):
    data = page_data(written)
    for name, network in (("encoder", trained.encoder), ("decoder", trained.decoder)):
        for packed, layer in zip(data[name], network[::2], strict=True):
            np.testing.assert_allclose(packed["weight"], layer.weight.detach().flatten(), rtol=0, atol=1e-4)
            np.testing.assert_allclose(packed["bias"], layer.bias.detach(), rtol=0, atol=1e-4)
    codes = vae.encode_dataset(trained, IMAGES)[0]
    for part, (row, expected) in zip([data, *data["snapshots"]], [({}, codes), *SNAPSHOTS], strict=True):
        np.testing.assert_allclose(part["codes"], expected.flatten(), atol=2e-4)
        assert [digit for digit, *_ in part["numerals"]] == sorted(set(LABELS[: len(expected)].tolist()))
        assert row == {} or (part["epoch"], part["validElbo"]) == (row["epoch"], row["valid_elbo"])
    every = (IMAGES * 255).round().to(torch.uint8).numpy()
    places = [np.flatnonzero((every == image).all(axis=1))[0] for image in data["images"].reshape(-1, 784)]
    assert len(set(places)) == 200 and data["imageLabels"].tolist() == LABELS[places].tolist()
    assert data["labels"].tolist() == LABELS.tolist()
    with torch.no_grad():
        losses = -vae.elbo_by_quadrature(trained, IMAGES, *vae.encode_dataset(trained, IMAGES))  # a finer rule
    assert data["averageLoss"] == pytest.approx(losses.mean().item(), abs=0.05)
    np.testing.assert_allclose(data["lossQuantiles"][::10], np.percentile(losses, range(0, 101, 10)), atol=0.3)
    nearest = torch.cdist(codes, codes).fill_diagonal_(math.inf).topk(15, largest=False).indices
    commonest = nn.functional.one_hot(LABELS[nearest], 10).sum(1).argmax(1)
    share = (commonest == LABELS).double().mean().item()
    assert data["shareAmongOwnKind"] == pytest.approx(share)
    assert f"{round(100 * share)} %" in page.inner_text("#average")


def test_the_page_is_the_same_every_time_and_the_model_is_left_as_it_was(trained, written, tmp_path):
    before, random, path = copy.deepcopy(trained.train()), torch.get_rng_state(), tmp_path / "new" / "folder" / "page"
    assert write_explorer(trained, IMAGES, LABELS, str(path), snapshots=SNAPSHOTS) == path
    assert [*path.parent.iterdir()] == [path] and path.read_bytes() == written.read_bytes()
    assert trained.training and torch.equal(random, torch.get_rng_state())
    assert all(map(torch.equal, trained.state_dict().values(), before.state_dict().values()))


OtherVAE, OtherNormal, OtherBernoulli = (type("Other", (k,), {}) for k in (vae.VAE, vae.StandardNormal, vae.Bernoulli))
MODEL, NAN, ROW = vae.mlp_vae(2, (8,)), vae.mlp_vae(2, (8,)), SNAPSHOTS[0][0]
ENCODER, DECODER = MODEL.encoder, MODEL.decoder
nn.init.constant_(NAN.decoder[-1].bias, math.nan)
BAD = [
    ("VAE.*Linear", {"model": nn.Linear(784, 2)}),
    ("VAE.*Other", {"model": OtherVAE(ENCODER, DECODER, 2)}),
    ("2 latent dimensions.* 3", {"model": vae.mlp_vae(3, (8,))}),
    ("StandardNormal prior.*FlowPrior", {"model": vae.VAE(ENCODER, DECODER, 2, prior=vae.FlowPrior(2))}),
    ("StandardNormal prior.*Other", {"model": vae.VAE(ENCODER, DECODER, 2, prior=OtherNormal(2))}),
    ("Bernoulli likelihood.*Gaussian", {"model": vae.VAE(ENCODER, DECODER, 2, likelihood=vae.Gaussian())}),
    ("Bernoulli likelihood.*Other", {"model": vae.VAE(ENCODER, DECODER, 2, likelihood=OtherBernoulli())}),
    ("encoder.*mlp_vae", {"model": vae.VAE(nn.Sequential(ENCODER[0], nn.ReLU(), ENCODER[2]), DECODER, 2)}),
    ("encoder.*mlp_vae", {"model": vae.conv_vae(2, channels=2, hidden_dim=4)}),
    ("decoder.*mlp_vae", {"model": vae.VAE(ENCODER, nn.Sequential(*DECODER, nn.SiLU()), 2)}),
    ("weights.*not finite", {"model": NAN}),
    ("28 x 28", {"model": vae.mlp_vae(2, (8,), image_dim=100), "images": IMAGES[:, :100]}),
    ("from 0 to 1", {"images": IMAGES * 255}),
    (r"labels.*\(500,\)", {"labels": LABELS[:-1]}),
    ("labels.*from 0 to 9", {"labels": LABELS + 1}),
    ("labels.*from 0 to 9", {"labels": LABELS - 1}),
    ("int64", {"labels": LABELS * 0.5}),
    ("valid_elbo", {"snapshots": [({"epoch": 1}, torch.zeros(5, 2))]}),
    (r"\(K, 2\).*\(5, 3\)", {"snapshots": [(ROW, torch.zeros(5, 3))]}),
    (r"\(K, 2\).*\(501, 2\)", {"snapshots": [(ROW, torch.zeros(501, 2))]}),
    ("codes.*not finite", {"snapshots": [(ROW, torch.full((5, 2), math.nan))]}),
    ("explorer.*disk is full.*page.html", {}),
]


@pytest.mark.parametrize(("message", "given"), BAD)
def test_what_goes_wrong_is_named_and_an_older_page_stays(message, given, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "the disk is full")))
    page = tmp_path / "page.html"
    page.write_text("older")
    with pytest.raises((TypeError, ValueError, KeyError, OSError), match=message):
        write_explorer(**{"model": MODEL, "images": IMAGES, "labels": LABELS, "path": page, **given})
    assert [*tmp_path.iterdir()] == [page] and page.read_text() == "older"


def test_the_built_page_is_of_the_template_of_today_and_small_and_needs_nothing_else():
    before, after = TEMPLATE.read_text(encoding="utf-8").split(PLACEHOLDER)
    text = BUILT.read_text(encoding="utf-8")
    assert text.startswith(before) and text.endswith(after), "the template has changed: build the page again"
    elsewhere = ("http:", "https:", "src=", "@import", "url(", "fetch(", "XMLHttpRequest", "import(")
    assert len(text) <= 2_500_000 and not [word for word in elsewhere if word in before + after]


@pytest.fixture
def open_page(browser):
    """Open a file in a new page; at the end of the test no page may have logged an error or asked for another file."""
    faults = []

    def open_file(path, width=1280, height=800, reduced_motion="reduce", **options):
        size = {"width": width, "height": height}
        page = browser.new_context(viewport=size, reduced_motion=reduced_motion, **options).new_page()
        page.on("console", lambda message: message.type == "log" or faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or faults.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function("window.explorer")
        return page

    yield open_file
    for context in browser.contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page, written):
    return open_page(written)


def settle(page):
    """Wait until what was asked for is computed and drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def state(page, expression):
    """An expression in JavaScript of the fields of the page's state."""
    return page.evaluate(f"() => {{ with (explorer.state) return {expression}; }}")


def ink(page, name):
    """How many pixels of a canvas are not blank."""
    return page.locator(f"#{name}").evaluate("""canvas => { const { width, height } = canvas;
        const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        return copy.getImageData(0, 0, width, height).data.filter((v, i) => i % 4 === 3 && v > 40).length; }""")


def at(page, name, x, y):
    """A place on a canvas, given in shares of its side, in pixels of the window."""
    page.locator(name).scroll_into_view_if_needed()
    frame = page.locator(name).bounding_box()
    return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]


def hover(page, x, y, name="#plane"):
    page.mouse.move(*at(page, name, x, y))
    settle(page)


def drag(page, name, first, *others):
    """Press the mouse at the first place on a canvas, move to the others, and let go."""
    hover(page, *first, name)
    page.mouse.down()
    frame = page.locator(name).bounding_box()
    for x, y in others:
        page.mouse.move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
    page.mouse.up()
    settle(page)


def use(page, name, keys=""):
    """Click on an element; or, where keys are given, focus it and press them."""
    page.focus(name) if keys else page.click(name)
    for key in keys.split():
        page.keyboard.press(key)
    settle(page)


def check(page, name, keys, expression, expected):
    """Use an element, and look at the state after that."""
    use(page, name, keys)
    found = state(page, expression)
    assert found == expected or found == pytest.approx(expected), (name, keys, found)


def edges(page, name):
    """Where an element begins and ends, from above, in pixels of the window."""
    frame = page.locator(f"#{name}").bounding_box()
    return frame["y"], frame["y"] + frame["height"]


def arc(cx, cy, rx, ry, start, end, n=12):
    """Points of an ellipse from one angle to another, in degrees, clockwise from three o'clock."""
    angles = [math.radians(start + (end - start) * i / n) for i in range(n + 1)]
    return [(cx + rx * math.cos(angle), cy + ry * math.sin(angle)) for angle in angles]


# Strokes as a hand would draw them, in shares of the pad's side; y grows downwards.
STROKES = {
    0: [arc(0.5, 0.5, 0.22, 0.32, -70, 290)],
    1: [[(0.55, 0.18), (0.47, 0.82)]],
    2: [[*arc(0.5, 0.34, 0.19, 0.16, 190, 390), (0.3, 0.8), (0.74, 0.8)]],
    3: [[*arc(0.46, 0.33, 0.18, 0.16, 200, 440), *arc(0.46, 0.66, 0.22, 0.18, -80, 150)]],
    4: [[(0.36, 0.2), (0.3, 0.52), (0.68, 0.5)], [(0.66, 0.18), (0.6, 0.84)]],
    5: [[(0.38, 0.2), (0.34, 0.46), *arc(0.46, 0.62, 0.2, 0.18, -110, 150)], [(0.38, 0.2), (0.7, 0.18)]],
    6: [[(0.6, 0.16), (0.42, 0.38), *arc(0.48, 0.66, 0.17, 0.17, 190, -170)]],
    7: [[(0.28, 0.24), (0.7, 0.22), (0.46, 0.84)]],
    8: [[*arc(0.5, 0.33, 0.15, 0.15, 90, -270), *arc(0.5, 0.66, 0.18, 0.18, -90, 270)]],
    9: [[*arc(0.5, 0.36, 0.16, 0.17, 0, -360), (0.62, 0.84)]],
}


def draw(page, digit):
    for stroke in STROKES[digit]:
        drag(page, "#pad", *stroke)


@pytest.mark.parametrize("bias", [None, -15.0, 15.0])
def test_the_page_encodes_and_decodes_as_pytorch_does(bias, trained, tmp_path, open_page):
    """Also where logvar is near its bounds."""
    model, images, labels = copy.deepcopy(trained), MNIST.test_images[-100:], MNIST.test_labels[-100:]
    if bias is not None:
        model.encoder[-1].weight.data[2:] /= 10
        model.encoder[-1].bias.data[2:] = bias
    page = open_page(write_explorer(model, images, labels, tmp_path / "page.html"))
    script = "xs => xs.map(x => { const q = explorer.encode(x); return [...q.mu, ...q.logvar]; })"
    codes = torch.tensor(page.evaluate(script, images.tolist()))
    torch.testing.assert_close(codes, torch.cat(vae.encode_dataset(model, images), 1), atol=1e-2, rtol=0)
    z = torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    painted = torch.tensor(page.evaluate("zs => zs.map(z => [...explorer.pictureOf(z)])", z.tolist()))
    with torch.no_grad():
        torch.testing.assert_close(painted, torch.sigmoid(model.decode(z)), atol=1e-2, rtol=0)


def test_the_loss_of_the_page_is_that_of_a_finer_quadrature_pixel_by_pixel(trained, page):
    script = """xs => xs.map(x => { const loss = explorer.lossOver(x, explorer.encode(x));
        return [loss.total, loss.latent, ...loss.costs]; })"""
    found = torch.tensor(page.evaluate(script, MNIST.test_images[-100:].tolist()))
    posterior, x = vae.encode_dataset(trained, MNIST.test_images[-100:]), MNIST.test_images[-100:]
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(8))
    costs = torch.zeros_like(x)
    with torch.no_grad():
        for i, j in np.ndindex(8, 8):
            z = posterior[0] + torch.exp(posterior[1] / 2) * torch.stack([nodes[i], nodes[j]]).float()
            share = weights[i] * weights[j] / weights.sum() ** 2
            costs += share * nn.functional.binary_cross_entropy_with_logits(trained.decode(z), x, reduction="none")
        elbo = vae.elbo_by_quadrature(trained, x, *posterior)
    torch.testing.assert_close(found[:, 0], -elbo, atol=0.1, rtol=0)
    torch.testing.assert_close(found[:, 1], vae.kl_divergence(*posterior), atol=1e-2, rtol=0)
    torch.testing.assert_close(found[:, 2:], costs, atol=1e-2, rtol=0)
    torch.testing.assert_close(found[:, 1:].sum(1), found[:, 0], atol=1e-2, rtol=0)  # they add up to what is printed


def test_the_map_of_the_loss_is_that_of_pytorch_and_comes_at_once(trained, written, page):
    """-log p(x|z) - log p(z) at every place of the finest grid; its first picture is a coarser one."""
    x, script = (
        MNIST.test_images[-3:],
        """xs => {
        const start = performance.now();
        explorer.refineGrid(1e9, 8);
        const first = explorer.mapOfLoss(new Float32Array(xs[0])).side, seconds = (performance.now() - start) / 1000;
        explorer.refineGrid(1e9);
        return [first, seconds, xs.map(x => { const { side, values, cheapest, cheapestZ } =
            explorer.mapOfLoss(new Float32Array(x)); return [side, cheapest, ...cheapestZ, ...values]; })]; }""",
    )
    first, seconds, maps = page.evaluate(script, x.tolist())
    line = torch.linspace(-1, 1, 65) * reach_of(written)
    z = torch.stack(torch.meshgrid(-line, line, indexing="ij")[::-1], -1).view(-1, 2)  # rows go downwards
    for image, (side, cheapest, z1, z2, *values) in zip(x, maps, strict=True):
        with torch.no_grad():
            wanted = -trained.log_likelihood(image, z) - trained.prior.log_prob(z)
        torch.testing.assert_close(torch.tensor(values), wanted, atol=1e-2, rtol=1e-4)
        assert (
            side == 65 and cheapest == min(values) and [z1, z2] == pytest.approx(z[wanted.argmin()].tolist(), abs=1e-3)
        )
    assert first == 9 and seconds < 5


def test_the_search_finds_what_gradients_find(trained, page):
    """Of 20 test digits, the best q(z|x): never dearer than the encoder's, and as cheap as Adam's from six starts."""
    x = MNIST.test_images[-20:]
    script = """xs => xs.map(x => { x = new Float32Array(x);
        const search = explorer.searchBestCode(x, explorer.encode(x));
        let step = search.next();
        while (!step.done) step = search.next();
        return [explorer.lossOver(x, step.value).total, explorer.lossOver(x, explorer.encode(x)).total]; })"""
    found, encoder = torch.tensor(page.evaluate(script, x.tolist())).T
    seeded = torch.Generator().manual_seed(0)
    starts = torch.cat([vae.encode_dataset(trained, x)[0][None], 1.5 * torch.randn(5, 20, 2, generator=seeded)])
    mu, logvar = starts.clone().requires_grad_(), torch.full_like(starts, -4.0).requires_grad_()
    optimizer = torch.optim.Adam([mu, logvar], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = -vae.elbo_by_quadrature(trained, x.repeat(6, 1), mu.view(-1, 2), logvar.view(-1, 2), nodes=3).view(6, 20)
        loss.sum().backward()
        optimizer.step()
    assert (found <= encoder + 1e-3).all() and (found < encoder - 1).any()
    assert (found <= loss.min(0).values + 0.5).double().mean() >= 0.9, found - loss.min(0).values


def test_drawn_digits_come_back_as_themselves(open_page):
    """Of ten digits in seven slants, a classifier of MNIST names nearly all drawings, and 3 of 4 reconstructions."""
    page, data = open_page(BUILT), page_data(BUILT)
    plane = KNeighborsClassifier(15).fit(data["codes"].reshape(-1, 2), data["labels"])
    judge = KNeighborsClassifier(5).fit(MNIST.train_images[:20_000].numpy(), MNIST.train_labels[:20_000].numpy())
    script = """all => all.map(strokes => {
        const x = explorer.imageOfStrokes(strokes);
        return [[...x], [...explorer.pictureOf(explorer.encode(x).mu)]]; })"""
    slanted = []
    for digit, strokes in STROKES.items():
        draw(page, digit)
        votes = round(15 * plane.predict_proba([state(page, "[...posterior.mu]")]).max())  # by the codes of the page
        assert f"{votes} of the 15 nearest test digits" in page.inner_text("#x-text")
        use(page, "#clear")
        for slant in np.linspace(-0.2, 0.4, 7):
            slanted.append([[[x + slant * (0.5 - y), y] for x, y in stroke] for stroke in strokes])
    named = judge.predict(np.reshape(page.evaluate(script, slanted), (-1, 784))).reshape(-1, 2)  # of both in each pair
    drawings, reconstructions = np.mean(named == np.repeat(range(10), 7)[:, None], axis=0)
    assert drawings > 0.95 and reconstructions > 0.75


def test_drawings_are_prepared_as_mnist_was(page):
    """Box, centre of mass and amount of ink are those of MNIST, wherever and however large one draws."""

    def measure(images):
        sides = [images.view(-1, 28, 28).sum(dim) for dim in (1, 2)]  # ink by column, and by row
        centre = [(side @ (torch.arange(28) + 0.5) / side.sum(1)).mean() for side in sides]
        extent = torch.maximum(*(side.gt(0).sum(1) for side in sides)).float().mean()
        return torch.stack([*centre, extent, images.mean()])

    sizes = [[[[(0.05 + s * x, s * y) for x, y in c] for c in d] for d in STROKES.values()] for s in (1.0, 0.4)]
    drawings = [*sizes[0], *sizes[1], [[(0.9, 0.1)]]]
    images = torch.tensor(page.evaluate("all => all.map(s => [...explorer.imageOfStrokes(s)])", drawings))
    difference = (measure(images[:10]) - measure(MNIST.test_images)).abs()
    assert (difference < torch.tensor([0.1, 0.1, 0.7, 0.02])).all(), difference
    torch.testing.assert_close(images[:10], images[10:20], atol=1e-3, rtol=0)
    assert 0 < images[20].sum() < 12  # a dot stays a dot


def reach_of(path):
    """How far the plane of a page reaches: to 99 of 100 codes, and at least as far as 99 % of the prior."""
    furthest = np.abs(page_data(path)["codes"]).reshape(-1, 2).max(1)
    return max(3.4, np.sort(furthest)[int(0.99 * len(furthest))])


def z_of(x, y, path):
    reach = reach_of(path)
    return pytest.approx([(2 * x - 1) * reach, (1 - 2 * y) * reach], abs=0.02)


def test_hovering_previews_a_click_keeps_and_leaving_returns(written, page):
    hover(page, 0.6, 0.2)
    assert state(page, "[z, keptZ]") == [z_of(0.6, 0.2, written), [0, 0]]
    z1, z2 = state(page, "z")
    assert f"z = ({z1:.2f}, {z2:.2f})" in page.inner_text("#z-text") and ink(page, "decoded") > 100
    page.hover("#sample-prior")
    assert state(page, "z") == [0, 0]
    for places in ([(0.3, 0.4)], [(0.5, 0.5), (0.6, 0.6)]):  # a click; and z goes along with a button that is down
        drag(page, "#plane", *places)
        hover(page, 0.8, 0.8)
        assert state(page, "[z, keptZ]") == [z_of(0.8, 0.8, written), z_of(*places[-1], written)]
        page.hover("#sample-prior")
        assert state(page, "[z, keptZ]") == 2 * [z_of(*places[-1], written)]


def test_other_buttons_and_a_second_finger_do_not_move_z(written, open_page):
    page = open_page(written, has_touch=True)
    for button in ("right", "middle"):
        hover(page, 0.5, 0.5)
        page.mouse.down(button=button)
        hover(page, 0.2, 0.2)
        page.mouse.up(button=button)
    assert state(page, "keptZ") == [0, 0]
    page.hover("#sample-prior")
    fingers = page.context.new_cdp_session(page)
    one, two, moved = ([*at(page, "#plane", *place)] for place in ((0.3, 0.3), (0.7, 0.7), (0.7, 0.8)))
    for kind, *places in (["Start", one], ["Start", one, two], ["Move", one, moved], ["End", one], ["End"]):
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        fingers.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    assert state(page, "[z, keptZ]") == 2 * [z_of(0.3, 0.3, written)]


@pytest.mark.parametrize("factor", [0.2, 5])
def test_99_of_100_codes_decide_how_far_the_plane_reaches(factor, written, open_page, tmp_path):
    """One outlier does not; and however near the codes lie, the plane holds the prior."""
    path, text = tmp_path / "page.html", written.read_text(encoding="utf-8")
    scale = re.search(r'"codes": {"scale": ([^,]+)', text)[1]
    path.write_text(text.replace(scale, str(factor * float(scale)), 1), encoding="utf-8")
    reach = reach_of(path)
    assert (reach == 3.4) == (factor < 1) and np.abs(page_data(path)["codes"]).max() != reach
    check(open_page(path), "#plane", 200 * "Shift+ArrowRight ", "keptZ[0]", pytest.approx(reach, rel=1e-5))


def test_the_plane_can_show_what_it_decodes_to(open_page):
    page, reach, likeness = open_page(BUILT, height=1000), reach_of(BUILT), {}
    page.check("[value=digits]")
    script = """async ([cells, reach, aside]) => {
        for (let frame = 0; frame < 20; frame++) await new Promise(requestAnimationFrame);  // a row of digits each
        const plane = document.getElementById("plane"), cell = plane.width / 17;
        return cells.map(([column, row]) => {
            const context = new OffscreenCanvas(28, 28).getContext("2d");
            context.drawImage(plane, column * cell, row * cell, cell, cell, 0, 0, 28, 28);
            const seen = context.getImageData(0, 0, 28, 28).data.filter((_, i) => i % 4 === 3);
            const z = [(2 * column + 1 + aside) / 17 - 1, 1 - (2 * row + 1 + aside) / 17].map(v => reach * v);
            return [[...seen], [...explorer.pictureOf(z)]]; }); }"""
    cells = [(column, row) for column in (3, 4, 5, 11, 12, 13) for row in (6, 7, 9, 10)]  # few lines and letters there
    for aside in (-1, 0, 1):  # half a cell beside its middle
        likeness[aside] = np.mean([np.corrcoef(pair)[0, 1] for pair in page.evaluate(script, (cells, reach, aside))])
    assert likeness[0] > 0.5 and likeness[0] > max(likeness[-1], likeness[1]) + 0.02
    page.check("[value=dots]")
    seen, painted = np.array(page.evaluate(script, ([(14, 1)], reach, 0)))[0]
    assert seen.sum() < 255 * 0.2 * painted.sum()


def test_watch_it_learn(written, page, open_page, tmp_path):
    check(page, "[value=dots]", "", "background", "dots")
    everything = ink(page, "plane")
    check(page, "[value=learning]", "", "snapshot", 0)
    first, text = ink(page, "plane"), page.inner_text("#snapshot-text")
    assert "Epoch 1 of 5" in text and "cost 180.0" in text
    check(page, "#snapshot", "End", "snapshot", 2)
    assert "Epoch 5 of 5" in page.inner_text("#snapshot-text") and first != ink(page, "plane") != everything
    page.click("#play-learning")
    page.wait_for_function("explorer.state.playing?.name === 'learning' && explorer.state.snapshot === 0")
    check(page, "[value=dots]", "", "playing", None)
    assert page.is_hidden("#learning") and ink(page, "plane") == everything
    page = open_page(written, reduced_motion="no-preference")
    page.check("[value=learning]")  # it plays by itself
    page.wait_for_function("explorer.state.playing?.name === 'learning'")
    page = open_page(write_explorer(MODEL, IMAGES, LABELS, tmp_path / "page.html"))
    assert page.locator("[value=learning]").is_hidden()


def on_walk(page):
    """How far along the walk the kept z is, as its slider shows; None if it is not on the walk."""
    at = "Number(document.getElementById('walk-position').value)"  # read at once with the rest: it may be playing
    z, a, b, shown = map(np.array, state(page, f"[keptZ, walk.A, walk.B, {at}]"))
    t = (z - a) @ (b - a) / ((b - a) @ (b - a))
    assert shown == pytest.approx(t, abs=0.0051)
    return t if z == pytest.approx(a + t * (b - a)) else None


def test_a_walk_goes_from_one_chosen_point_to_the_other_and_z_stays_on_it(written, open_page):
    playing_at = "explorer.state.playing && document.getElementById('walk-position').value"
    for motion in ("no-preference", "reduce"):
        page = open_page(written, reduced_motion=motion)
        labels = [page.inner_text("#start-or-end-walk")]
        page.click("#start-or-end-walk")
        assert "A" in page.inner_text("#hint")
        page.mouse.dblclick(*at(page, "#plane", 0.3, 0.3))  # as one click: both ends at one place make no walk
        assert state(page, "walk.A && !walk.B") and not page.is_visible("#strip") and "B" in page.inner_text("#hint")
        labels.append(page.inner_text("#start-or-end-walk"))
        drag(page, "#plane", (0.7, 0.5))
        assert page.is_visible("#strip") and [page.inner_text("#start-or-end-walk")] == labels[1:] != labels[:1]
        if motion == "no-preference":
            page.wait_for_function(f"{playing_at} > 0.05")  # by itself
    assert state(page, "[walk.A, walk.B]") == [z_of(0.3, 0.3, written), z_of(0.7, 0.5, written)]
    assert state(page, "playing") is None and on_walk(page) == 0
    for key, t in {"End": 1, "Home": 0, "ArrowRight": 0.01}.items():
        use(page, "#walk-position", key)
        assert on_walk(page) == pytest.approx(t)
    hover(page, 0.9, 0.1)
    assert on_walk(page) == pytest.approx(0.01) and state(page, "z === keptZ")
    for place in ((0.5, 0.4), (0.5 - 0.1, 0.4 + 0.2)):  # halfway, and the same from beside the line
        drag(page, "#plane", place)
        assert on_walk(page) == pytest.approx(0.5, abs=0.01)
    use(page, "#play-walk")
    assert on_walk(page) > 0.49  # it goes on from where it is
    page.wait_for_function(f"{playing_at} > 0.51")
    check(page, "#play-walk", "", "playing", None)
    assert 0.5 < on_walk(page) < 0.95
    use(page, "#walk-position", "End")
    page.click("#play-walk")  # from the end, once more from the start
    page.wait_for_function(f"{playing_at} < 0.5")
    check(page, "#sample-prior", "", "[walk, playing]", [None, None])  # z goes elsewhere, and the walk is over
    assert page.is_hidden("#walk") and page.inner_text("#start-or-end-walk") == labels[0]


def test_undo_takes_back_every_change_of_the_pad(written, page):
    data, names = page_data(written), ("value-total", "magnified-caption", "costs-caption")
    blank = [page.inner_text(f"#{name}") for name in names]
    assert all(map(page.is_disabled, ("#undo", "#redo", "#clear"))) and ink(page, "seen") == 0
    draw(page, 4)
    drawing = state(page, "[strokes.length, ...x]")
    reconstruction, kl, loss = terms(page)
    assert reconstruction + kl == pytest.approx(loss, abs=0.11) and kl > 0 and drawing[0] == 2
    use(page, "#random")
    number, *x = state(page, "[testDigit, ...x]")
    np.testing.assert_allclose(x, data["images"].reshape(-1, 784)[number] / 255, atol=1e-6)
    assert f"is a {data['imageLabels'][number]}." in page.inner_text("#x-text")
    check(page, "#clear", "", "[strokes.length, x]", [0, None])
    assert ink(page, "seen") == ink(page, "costs") == 0 and [page.inner_text(f"#{name}") for name in names] == blank
    check(page, "#undo", "", "testDigit", number)
    check(page, "#plane", "Control+z", "[strokes.length, ...x]", drawing)  # the test digit goes, the drawing is back
    check(page, "#plane", "Meta+z", "strokes.length", 1)
    check(page, "#redo", "", "[strokes.length, ...x]", drawing)
    check(page, "#plane", "Control+y", "testDigit", number)
    check(page, "#plane", "Control+z Control+Shift+z", "testDigit", number)
    check(
        page, "#plane", "Control+z Control+z Control+z Control+z", "strokes.length", 0
    )  # nothing is left to take back
    assert page.is_disabled("#undo") and page.is_enabled("#redo")
    draw(page, 1)
    assert page.is_disabled("#redo")  # a new stroke, and what was taken back is gone


def test_what_is_drawn_is_seen(page):
    """The pen leaves the pad and comes back: two lines, both inside, and one step for Undo."""
    drag(page, "#pad", (0.2, 0.5), (0.5, 0.5), (1.4, 0.5), (1.4, 0.9), (0.99, 0.9), (0.5, 0.9))
    strokes = state(page, "strokes")
    assert [*map(len, strokes)] == [3, 2] and all(
        0.05 <= v <= 0.95 for stroke in strokes for point in stroke for v in point
    )
    assert strokes[1][0] == pytest.approx([0.95, 0.9], abs=0.01)
    page.keyboard.press("Control+z")
    assert state(page, "strokes") == []


@pytest.mark.parametrize(("button", "left"), [("clear", [0, True]), ("undo", [1, True]), ("random", [0, False])])
def test_a_button_that_is_pressed_during_a_stroke_ends_it(button, left, page):
    press, pad = f"document.getElementById('{button}').click()", "[strokes.length, testDigit === null]"
    draw(page, 1)
    hover(page, 0.3, 0.3, "#pad")
    page.mouse.down()
    hover(page, 0.5, 0.3, "#pad")
    page.evaluate(press)
    hover(page, 0.7, 0.7, "#pad")
    page.mouse.up()
    assert state(page, pad) == left
    use(page, "#pad", "Space ArrowDown")  # the same with the keyboard's pen
    page.evaluate(press)
    use(page, "#pad", "ArrowDown")
    assert not state(page, "keyPenDown")


def terms(page):
    """The numbers of the table: pixels, code, both together."""
    texts = [page.inner_text(f"#value-{name}") for name in ("reconstruction", "latent", "total")]
    return [float(text.replace(MINUS, "-")) for text in texts]


def test_drawing_and_plane_meet(page):
    def shown():
        picture = page.locator("#reconstruction").evaluate("canvas => canvas.toDataURL()")
        return page.inner_text("#reconstruction-caption"), picture

    assert all(page.is_disabled(name) for name in ("#to-plane", "#sample-posterior", "#walk-from"))
    draw(page, 3)
    mu, logvar = state(page, "[[...posterior.mu], [...posterior.logvar]]")
    caption, picture = shown()
    check(page, "#to-plane", "", "[z, keptZ, looksAt]", [mu, mu, "z"])
    at_mean = shown()
    assert at_mean[0] != caption and at_mean[1] == picture
    use(page, "#sample-posterior")
    assert state(page, "keptZ") != mu and shown()[0] == at_mean[0] and shown()[1] != picture
    check(page, "#looks-at [value=q]", "", "looksAt", "q")
    assert shown() == (caption, picture)
    for button, mean, sigma in (("sample-prior", 0, 1), ("sample-posterior", mu, np.exp(np.array(logvar) / 2))):
        click = f"document.getElementById('{button}').click()"
        draws = page.evaluate(f"Array.from({{ length: 5000 }}, () => ({click}, explorer.state.keptZ))")
        noise = (np.array(draws) - mean) / sigma
        assert np.abs(noise.mean(0)).max() < 0.07 and np.abs(noise.std(0) - 1).max() < 0.05
    use(page, "#walk-from")
    drag(page, "#plane", (0.8, 0.2))
    assert state(page, "walk.A") == mu and on_walk(page) == 0 and page.is_visible("#strip")
    check(page, "#sample-posterior", "", "walk", None)
    drag(page, "#pad", *STROKES[1][0])  # a change of the drawing is a new x
    assert state(page, "looksAt") == "q" and shown()[0] == caption


def test_everything_can_be_done_from_the_keyboard(page):
    for name in ("plane", "dots", "sample-prior", "start-or-end-walk", "pad", "random"):
        page.keyboard.press("Tab")
        focused = page.evaluate("(e => [e.id || e.value, getComputedStyle(e).outlineStyle])(document.activeElement)")
        assert focused == [name, "solid"]
    stroke = f"Space {8 * 'ArrowDown '} Space"
    check(page, "#plane", "ArrowRight Shift+ArrowUp", "z", [0.05, 0.25])
    check(page, "#start-or-end-walk", "Enter", "document.activeElement.id", "plane")
    check(page, "#plane", "Enter Shift+ArrowLeft Space", "[...walk.A, ...walk.B]", [0.05, 0.25, -0.2, 0.25])
    check(page, "#plane", "ArrowRight ArrowRight", "keptZ", [0.05, 0.25])  # there is nothing to the right of A
    check(page, "#plane", "ArrowLeft ArrowLeft ArrowUp", "keptZ", [-0.05, 0.25])  # and z stays on the line
    check(page, "#plane", "Escape", "walk", None)
    check(page, "[value=dots]", "ArrowRight", "background", "digits")
    check(page, "[value=digits]", "ArrowRight", "background", "loss")
    check(page, "[value=loss]", "ArrowRight", "background", "learning")
    check(page, "#undo", "Enter", "testDigit", None)  # what the loss was shown of
    check(page, "#snapshot", "ArrowRight", "snapshot", 1)
    check(page, "#pad", f"{stroke} ArrowLeft", "strokes.map(stroke => stroke.length)", [9])
    assert ink(page, "reconstruction") > 100
    back = "e => e.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', altKey: true, cancelable: true }))"
    assert page.locator("#plane").evaluate(back) and page.locator("#pad").evaluate(back)  # it is the browser's own
    for _ in range(3):  # a key that is held repeats
        page.keyboard.down("Space")
    page.keyboard.up("Space")
    assert state(page, "[strokes.length, keyPenDown]") == [2, True]
    check(page, "#undo", "Enter Enter", "[document.activeElement.id, strokes.length]", ["pad", 0])
    use(page, "#pad", stroke)
    use(page, "#better-code", "Enter")
    page.wait_for_function("explorer.state.better && !explorer.state.searching")
    assert page.evaluate("document.activeElement.id") == "better-code"
    check(page, "#to-plane", "Enter", "keptZ", state(page, "[...posterior.mu]"))


def swipe(page, start, end):
    """A finger goes down at one place of the window, moves to another in ten steps, and is lifted."""
    fingers = page.context.new_cdp_session(page)
    for step in range(11):
        x, y = (a + (b - a) * step / 10 for a, b in zip(start, end, strict=True))
        kind = "touchMove" if step else "touchStart"
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_draws_and_points(written, open_page):
    page = open_page(written, 360, 740, has_touch=True, is_mobile=True)
    page.locator("#plane").tap(position={"x": 100, "y": 60})
    assert state(page, "keptZ[0] < 0 && keptZ[1] > 0 && z === keptZ")
    page.locator("#pad").tap(position={"x": 100, "y": 60})
    settle(page)
    assert state(page, "strokes.length") == 1
    both = ["decoded", "plane"]
    for button, seen in (("#sample-posterior", ["reconstruction"]), ("#to-plane", both), ("#walk-from", both)):
        page.tap(button)  # brings these into view
        assert all(top > -1 and bottom <= 740 for top, bottom in (edges(page, name) for name in seen))
    page.tap("#better-code")
    page.wait_for_function("explorer.state.better")
    page.tap("#walk-from")
    page.locator("#plane").tap(position={"x": 250, "y": 200})
    assert state(page, "walk.A") == state(page, "[...q.mu]") and on_walk(page) is not None
    for name in ("digits", "learning"):
        page.tap(f"[value={name}]")
        assert state(page, "background") == name
    assert page.is_visible("#jump-to-pad") and not page.is_visible(".by-keyboard >> nth=0")
    page.evaluate("scrollTo(0, 0)")
    page.tap("#jump-to-pad")
    assert edges(page, "pad")[1] <= 740
    page.tap("#jump-to-plane")
    x, y = at(page, "#plane", 0.5, 0.6)
    before, kept = page.evaluate("scrollY"), state(page, "keptZ")
    swipe(page, (x, y), (x, y - 200))
    page.wait_for_function(f"scrollY > {before} + 100")  # a finger that moves up scrolls, and moves no z
    assert state(page, "keptZ") == kept
    x, y = at(page, "#plane", 0.3, 0.6)
    swipe(page, (x, y), (x + 150, y))
    settle(page)
    assert state(page, "keptZ") != kept
    x, y = at(page, "#pad", 0.5, 0.2)
    before = page.evaluate("scrollY")
    swipe(page, (x, y), (x, y + 150))
    assert page.evaluate("scrollY") == before and len(state(page, "strokes.at(-1)")) > 3


def test_a_screen_reader_is_told(page):
    assert page.get_attribute("#live", "aria-live") == "polite"
    unnamed = """[...document.querySelectorAll("button, input, canvas")]
        .filter(e => !((e.closest("label") ?? e).textContent.trim() || e.getAttribute("aria-label"))).map(e => e.id)"""
    assert page.evaluate(unnamed) == []
    use(page, "#plane", "ArrowRight")
    page.wait_for_function("document.getElementById('live').textContent.includes('z = (0.05, 0.00)')")
    page.click("#random")
    page.wait_for_function("/Loss .* nats.*Dearer than/.test(document.getElementById('live').textContent)")


def contrast(*colours):
    """Of two colours written rgb(r, g, b), as WCAG 2 defines it: from 1 to 21."""

    def luminance(colour):
        shares = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shares]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    darker, lighter = sorted(map(luminance, colours))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_dots_stand_out_in_light_and_dark(scheme, written, open_page):
    """4.5 and 3 to 1, as WCAG asks of text and of graphics; the dots are opaque, so that one sees their very colour."""
    page = open_page(written, color_scheme=scheme, device_scale_factor=3)
    settle(page)
    texts = page.evaluate("""() => {
        const ground = e => { const colour = e ? getComputedStyle(e).backgroundColor : "rgb(255, 255, 255)";
            return colour === "rgba(0, 0, 0, 0)" ? ground(e.parentElement) : colour; };
        return [...document.querySelectorAll("h1, h2, p, button, label, legend, figcaption, caption, th, td")]
            .map(e => [e.textContent, getComputedStyle(e).color, ground(e)]); }""")
    assert [text for text, *colours in texts if contrast(*colours) < 4.5] == [] and len(texts) > 20
    paper, colours, seen = page.evaluate("""() => { const plane = document.getElementById("plane"), seen = new Map();
        const data = plane.getContext("2d").getImageData(0, 0, plane.width, plane.height).data;
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) {
            const colour = [...data.slice(i, i + 3)].join(" ");
            seen.set(colour, (seen.get(colour) ?? 0) + 1); }
        const colours = explorer.data.colors.map((_, digit) => explorer.digitColour(digit));
        return [getComputedStyle(plane).backgroundColor, colours, [...seen]]; }""")
    assert all(contrast(colour, paper) >= 3 and dict(seen)[colour[4:-1]] >= 3 for colour in colours)
    body = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(set(colours)) == 10 and (contrast(body, "rgb(0, 0, 0)") > 10) == (scheme == "light")


def test_two_quick_taps_are_no_double_tap(written, open_page):
    """A short touch of the pad and Clear at once: a browser that zooms on a double tap would drop the click."""
    page = open_page(written, 390, 800, has_touch=True, is_mobile=True)
    assert page.evaluate("getComputedStyle(document.documentElement).touchAction") == "manipulation"
    for _ in range(5):
        page.locator("#pad").tap(position={"x": 100, "y": 200})
        page.locator("#clear").tap()
        settle(page)
        assert state(page, "strokes.length") == 0


def test_the_pen_follows_all_that_happened_within_a_frame(page):
    drag(page, "#pad", (0.2, 0.2))
    page.locator("#pad").evaluate("""pad => {
        const { left, top, width } = pad.getBoundingClientRect();
        const event = (kind, x, between) => { const made = new PointerEvent(kind, { pointerId: 7, button: 0, buttons: 1,
            clientX: left + x * width, clientY: top + width / 2, coalescedEvents: between }); return made; };
        pad.setPointerCapture = () => {};
        pad.dispatchEvent(event("pointerdown", 0.3));
        pad.dispatchEvent(event("pointermove", 0.7, [0.4, 0.5, 0.6, 0.7].map(x => event("pointermove", x))));
        pad.dispatchEvent(event("pointerup", 0.7)); }""")
    assert [x for x, _ in state(page, "strokes.at(-1)")] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7], abs=1e-3)


SCRIBBLE = [(0.1 + 0.8 * (i % 2), 0.1 + 0.8 * i / 12) for i in range(13)]


def test_the_loss_is_seen_pixel_by_pixel_and_term_by_term(written, page):
    """Pictures, bars and numbers are of one loss: of q(z|x), or of z wherever it goes. A scribble is told so."""
    use(page, "#random")
    texts = page.inner_text("#bar-text"), page.inner_text("#costs-caption"), page.inner_text("#loss")
    share, total = int(re.search(r"(\d+) %", texts[0])[1]), terms(page)[2]
    quantiles = page_data(written)["lossQuantiles"]
    assert quantiles[share] - 0.1 <= total and (share == 100 or total <= quantiles[share + 1] + 0.1)
    costs = np.sort(page.evaluate("[...explorer.lossShown().costs]"))[::-1]
    assert int(re.search(r"(\d+) %", texts[1])[1]) == pytest.approx(100 * costs[:78].sum() / costs.sum(), abs=0.6)
    assert terms(page)[0] == pytest.approx(costs.sum(), abs=0.06) and ink(page, "costs") > 50 and "KL" in texts[2]
    width = "e => e.getBoundingClientRect().width"
    bars = [page.locator(f"#{name}-bar").evaluate(width) for name in ("reconstruction", "latent")]
    assert bars[0] / bars[1] == pytest.approx(terms(page)[0] / terms(page)[1], rel=0.05)
    over_q, x = terms(page), state(page, "[...x]")
    hover(page, 0.9, 0.1)
    z = state(page, "z")
    assert terms(page)[1] == pytest.approx((z[0] ** 2 + z[1] ** 2) / 2 + math.log(2 * math.pi), abs=0.06)
    assert terms(page)[2] == pytest.approx(page.evaluate("([x, z]) => explorer.lossAt(x, z).total", [x, z]), abs=0.06)
    assert "log p(x, z)" in page.inner_text("#loss") and "KL" not in page.inner_text("#loss")
    assert page.is_checked("#looks-at [value=z]") and page.is_hidden("#bar-average")  # a density is no loss
    page.hover("#sample-prior")
    settle(page)
    assert terms(page) == over_q  # the mouse has left the plane
    use(page, "#plane", "ArrowRight")
    assert terms(page)[1] == pytest.approx(0.05**2 / 2 + math.log(2 * math.pi), abs=0.06)
    check(page, "#looks-at [value=q]", "", "looksAt", "q")
    assert terms(page) == over_q
    use(page, "#clear")
    drag(page, "#pad", *SCRIBBLE)
    assert "hardly a digit" in page.inner_text("#bar-text")


def test_the_plane_shows_the_loss_of_this_digit_at_once_and_then_finer(page):
    page.evaluate("explorer.refineGrid(0)")
    page.check("[value=loss]")  # on an empty pad it takes a test digit, whose removal leaves nothing to show
    assert state(page, "testDigit") is not None and page.is_visible("#loss-legend")
    page.wait_for_function("explorer.mapOfLoss(explorer.state.x).side === 65")
    settle(page)
    coloured = """plane => { const { width, height } = plane, seen = new Set();
        const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(plane, 0, 0);
        const data = copy.getImageData(0, 0, width, height).data;
        for (let i = 0; i < data.length; i += 4) seen.add(data.slice(i, i + 4).join(" "));
        return [...document.querySelectorAll("#bands li")].filter(band => {
            const probe = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
            probe.fillStyle = getComputedStyle(band).backgroundImage.match(/(color|rgb)a?\\([^)]*\\)/)[0];
            probe.fillRect(0, 0, 1, 1);
            return [...seen].some(text => text.split(" ").every((v, i) =>
                Math.abs(v - probe.getImageData(0, 0, 1, 1).data[i]) <= 3)); }).length; }"""
    assert page.locator("#plane").evaluate(coloured) >= 6  # of the eight colours that the legend names
    first = page.locator("#plane").evaluate("plane => plane.toDataURL()")
    use(page, "#clear")
    assert page.is_hidden("#bands") and "Draw a digit" in page.inner_text("#loss-legend")
    draw(page, 1)
    assert page.locator("#plane").evaluate("plane => plane.toDataURL()") != first


def test_a_better_code_is_found_and_named(written, open_page):
    """The search walks from the encoder's q(z|x) to its own, says what was missed, and the way back is one click."""
    page = open_page(written, reduced_motion="no-preference")
    missed = page.evaluate("""() => Array.from({ length: 12 }, (_, digit) => {
        const x = Float32Array.from(explorer.data.images.subarray(784 * digit, 784 * (digit + 1)), byte => byte / 255);
        const search = explorer.searchBestCode(x, explorer.encode(x));
        let step = search.next();
        while (!step.done) step = search.next();
        return explorer.lossOver(x, explorer.encode(x)).total - step.value.loss; })""")
    assert min(missed) < 0.9 and max(missed) > 1.1
    for choose in (np.argmin, np.argmax):
        digit, gap = choose(missed), missed[choose(missed)]
        page.evaluate(f"location.hash = 'digit={digit}'")
        page.wait_for_function(f"explorer.state.testDigit === {digit} && !explorer.state.padChanged")
        encoder = terms(page)[2]
        page.click("#better-code")
        at_end = "explorer.state.q.mu[0] === explorer.state.better.mu[0]" if gap > 1 else "true"
        page.wait_for_function(f"explorer.state.better && {at_end}")
        settle(page)
        text, found = page.inner_text("#search-text"), terms(page)[2]
        assert encoder - found == pytest.approx(gap if gap > 1 else 0, abs=0.11)
        assert state(page, "posterior !== q") == (gap > 1)  # for less it does not walk
        assert ("miss" in text and f"{found:.1f}" in text and "15 nearest test digits" in text) == (gap > 1), text
        if gap > 1:
            page.click("#better-code")
            settle(page)
            assert terms(page)[2] == encoder and page.is_hidden("#search-text")
    page.click("#better-code")
    page.click("#random")  # another digit, and the search is over
    page.wait_for_timeout(300)
    assert state(page, "[searching, better]") == [False, None]


def test_reload_back_and_a_shared_link_keep_what_is_shown(written, open_page):
    page, named = open_page(written), "[background, testDigit, keptZ, looksAt, walk?.B ?? null, strokes.length]"
    draw(page, 5)
    x, loss = np.array(state(page, "[...x]")), terms(page)
    page.check("[value=loss]")
    page.wait_for_function("location.hash.includes('ink=') && location.hash.includes('view=loss')")
    address, seen = page.evaluate("location.href"), state(page, named)
    assert len(address) < 1500
    page.reload()
    page.wait_for_function("window.explorer?.state.x")
    assert state(page, named) == seen and np.abs(np.array(state(page, "[...x]")) - x).max() < 0.1
    assert terms(page)[2] == pytest.approx(loss[2], rel=0.01)
    page.goto("about:blank")
    page.go_back()
    page.wait_for_function("window.explorer?.state.x")
    assert state(page, named) == seen
    check(page, "#looks-at [value=z]", "", "looksAt", "z")
    page.wait_for_function("location.hash.includes('at=z')")
    page.reload()
    page.wait_for_function("window.explorer?.state.x")
    assert state(page, "looksAt") == "z"
    use(page, "#random")
    page.click("#start-or-end-walk")
    use(page, "#plane", "Shift+ArrowUp Enter Shift+ArrowLeft Enter")
    page.check("[value=learning]")
    use(page, "#snapshot", "End")
    page.wait_for_function("/digit=.*walk=/.test(location.hash) && location.hash.includes('snapshot=2')")
    seen, other = state(page, named), open_page(written)
    other.evaluate("hash => { location.hash = hash; }", page.evaluate("location.hash"))
    other.wait_for_function("explorer.state.x")
    assert state(other, named) == seen and state(other, "snapshot") == 2 and other.is_visible("#strip")
    other.evaluate("location.hash = 'digit=9'; history.replaceState(null, '', '#digit=8')")  # an address that is late
    other.wait_for_function("explorer.state.testDigit === 9")
    for part, shown, hidden in (("plane", "plane", "#pad"), ("digit", "pad", "#plane")):
        other.evaluate(f"location.hash = 'part={part}&digit=7'")
        other.wait_for_function(f"document.body.dataset.part === '{part}' && explorer.state.testDigit === 7")
        settle(other)
        assert other.is_hidden(hidden) and other.is_hidden("header") and ink(other, shown)
        assert part == "digit" or other.locator("#plane").evaluate("e => e.clientWidth") == pytest.approx(460, abs=3)
    for nonsense in (
        "view=x&digit=999&z=a,b&walk=1&snapshot=9&ink=%%%",
        "digit=-1",
        "z=1e999,0&ink=A",
        "view=learning&snapshot=-5",
    ):
        other.evaluate("hash => { location.hash = hash; }", nonsense)
        settle(other)
        assert state(other, "[testDigit, keptZ, walk]") == [None, [0, 0], None]


def test_no_label_covers_another(written, page):
    """Numerals, the circles' shares, q(z|x), z, A and B."""
    page.evaluate("""() => { const fillText = CanvasRenderingContext2D.prototype.fillText; window.drawn = [];
        CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
            if (this.canvas.id === "plane") drawn.push([text, x, y, this.measureText(text).width]);
            fillText.call(this, text, x, y); }; }""")
    for digit in range(12):
        page.evaluate("digit => { drawn.length = 0; location.hash = `digit=${digit}&walk=0.5,0.5,-0.5,-0.5`; }", digit)
        page.wait_for_function(f"explorer.state.testDigit === {digit} && !explorer.state.padChanged")
        page.evaluate("drawn.length = 0; dispatchEvent(new HashChangeEvent('hashchange', { newURL: location.href }))")
        settle(page)
        labels = {
            label[0]: label for label in page.evaluate("drawn") if not re.fullmatch(f"{MINUS}?[0-3]|z.", label[0])
        }
        labels |= {label[0]: label for label in page.evaluate("drawn")[6:] if label[0] in "0123456789"}
        assert len(labels) > 10
        for (_, x, y, width), (_, u, v, other) in itertools.combinations(labels.values(), 2):
            assert abs(x - u) >= (width + other) / 2 or abs(y - v) >= 11, labels


def test_what_is_printed_has_the_colours_of_the_screen(written, open_page):
    """A browser leaves out backgrounds in print: from a dark screen that would be white on white."""
    page = open_page(written, color_scheme="dark")
    page.emulate_media(media="print")
    kept = "[...document.querySelectorAll('html, body, canvas')].map(e => getComputedStyle(e).printColorAdjust)"
    assert set(page.evaluate(kept)) == {"exact"}


def test_what_matters_is_on_one_screen_and_the_results_are_above_the_hand(written, open_page):
    page = open_page(written, 360, 640, has_touch=True, is_mobile=True)
    for result in ("costs", "reconstruction", "seen"):
        assert edges(page, result)[1] < edges(page, "pad")[0]
    assert edges(page, "pad")[1] - edges(page, "costs")[0] <= 640
    assert edges(page, "decoded")[1] < edges(page, "plane")[0]
    assert edges(page, "plane")[1] - edges(page, "decoded")[0] <= 640
    page = open_page(written, 1120, 650)  # here too the picture is above the plane
    assert edges(page, "plane")[1] - edges(page, "decoded")[0] <= 650
    page = open_page(written, 1366, 650)
    for view in ("dots", "loss", "learning"):
        page.check(f"[value={view}]")
        for name in ("plane", "decoded", "pad", "magnified", "reconstruction", "costs", "value-total", "walk-from"):
            assert edges(page, name)[1] <= 650, (view, name)
        page.click("#start-or-end-walk")
        use(page, "#plane", "Enter Shift+ArrowLeft Enter")
        for name in ("strip", "play-walk", "start-or-end-walk", "sample-prior"):
            assert edges(page, name)[1] <= 650, (view, name)
        page.click("#start-or-end-walk")
    page.set_viewport_size({"width": 1366, "height": 500})  # another height alone, and the plane stays sharp
    settle(page)
    assert page.locator("#plane").evaluate("e => e.width - e.clientWidth") == 0


@pytest.mark.parametrize("width", [320, 360, 414, 768, 859, 860, 1024, 1280, 1920])
def test_nothing_is_cut_off_at_any_width(width, written, open_page):
    page = open_page(written, width)
    for name in ("#random", "[value=loss]", "[value=learning]", "#start-or-end-walk"):
        page.click(name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    use(page, "#plane", "Enter Shift+ArrowLeft Enter")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut_off = """width => [...document.querySelectorAll("header *, main *")].filter(e => {
        const box = e.getBoundingClientRect(), overfull = e.scrollWidth > e.clientWidth + 1;
        return box.left < 0 || box.right > width + 0.5 || e.matches("p, button, label, figcaption, td, th") && overfull;
    }).map(e => e.id || e.textContent)"""
    assert page.evaluate(cut_off, width) == []
    assert page.evaluate("document.getElementById('plane').clientWidth") >= min(290, width - 34)
    shape = "e => e.clientWidth / e.clientHeight"
    for name in ("plane", "decoded", "pad", "seen", "magnified", "reconstruction", "costs"):
        assert page.locator(f"#{name}").evaluate(shape) == pytest.approx(1, abs=0.02), f"{name} is not square"
    assert page.locator("#strip").evaluate(shape) == pytest.approx(11, rel=0.1)


def test_a_notebook_shows_the_page_in_a_frame(written, open_page, monkeypatch):
    """A few lines that name the file, wherever the notebook's folder lies."""
    shown = []
    monkeypatch.setattr("explorer.explorer.display", lambda data, raw: shown.append(data if raw else None))
    outer = written.parent.parent / "outer.html"
    show_explorer(written.relative_to(outer.parent))
    frame = shown[0]["text/html"]
    assert 'title="' in frame and len(frame) < 500 and "page.html" in shown[0]["text/plain"]
    outer.write_text(f"<!doctype html><script>explorer = true</script>{frame}", encoding="utf-8")
    inner = open_page(outer).frames[1]
    inner.wait_for_function("window.explorer")
    inner.click("#random")
    inner.wait_for_function("explorer.state.x && document.getElementById('value-total').textContent.includes('.')")
