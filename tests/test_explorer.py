"""The explorer: the page is written safely, computes what PyTorch computes, and can be used by everyone.

The browser is a Chromium found on the machine, or else the one that playwright has installed. Where there is none the
tests that need it are skipped; where the environment variable CI is set they fail instead.
"""

import copy
import errno
import json
import math
import os
import shutil
from base64 import b64decode
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from playwright.sync_api import sync_playwright
from sklearn.neighbors import KNeighborsClassifier

import vae_utils as vae
from explorer.explorer import PLACEHOLDER, TEMPLATE, show_explorer, write_explorer

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "explorer" / "explorer.html"


@pytest.fixture(scope="module")
def mnist():
    return vae.load_mnist(ROOT / "data", download=False)


@pytest.fixture(scope="module")
def trained(mnist):
    """A small model after a short training: its numbers are of the size that real ones have."""
    torch.manual_seed(0)
    model = vae.mlp_vae(2, (48, 32))
    vae.fit(model, mnist.train_images[:6000], epochs=2, progress=False)
    return model


@pytest.fixture(scope="module")
def written(trained, mnist, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    return write_explorer(trained, mnist.test_images[:500], mnist.test_labels[:500], path)


def page_data(path):
    """What a page carries, with its numbers unpacked."""

    def numbers(item):
        return np.frombuffer(b64decode(item["int16"]), "<i2") * item["scale"] if "int16" in item else item

    text = path.read_text(encoding="utf-8").split('<script type="application/json" id="data">')[1].split("</script>")[0]
    data = json.loads(text, object_hook=numbers)
    return data | {key: np.frombuffer(b64decode(data[key]), np.uint8) for key in ("labels", "images", "imageLabels")}


def test_the_page_carries_model_codes_and_images(trained, mnist, written):
    data, images, labels = page_data(written), mnist.test_images[:500], mnist.test_labels[:500]
    first, last = trained.encoder.hidden[0].weight.detach(), trained.decoder.logits.bias.detach()
    np.testing.assert_allclose(data["encoder"][0]["weight"], first.flatten(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(data["logits"]["bias"], last, rtol=0, atol=1e-4)
    np.testing.assert_allclose(data["codes"], vae.encode_dataset(trained, images)[0].flatten(), atol=2e-4)
    assert data["labels"].tolist() == labels.tolist()
    every = (images * 255).round().to(torch.uint8).numpy()
    places = [np.flatnonzero((every == image).all(axis=1))[0] for image in data["images"].reshape(-1, 784)]
    assert len(set(places)) == 200 and data["imageLabels"].tolist() == labels[places].tolist()
    assert data["averageElbo"] == vae.evaluate(trained, images)["elbo"]


MODEL, IMAGES = vae.mlp_vae(2, (8,)), torch.rand(300, 784, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(300) % 10


def test_the_seed_decides_and_the_model_is_left_as_it_was(tmp_path):
    model, state = copy.deepcopy(MODEL).train(), torch.get_rng_state()
    paths = [tmp_path / "new" / "folder" / name for name in ("a.html", "b.html", "c.html")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        assert write_explorer(model, IMAGES, LABELS, str(path), template=str(TEMPLATE), seed=seed) == path
    assert sorted(paths[0].parent.iterdir()) == paths
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert (page_data(paths[0])["images"] != page_data(paths[2])["images"]).any()
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, model.state_dict().values(), MODEL.state_dict().values()))


CONV = vae.conv_vae(2, channels=2, hidden_dim=4)
RELU, NAN = vae.mlp_vae(2, (8, 8)), vae.mlp_vae(2, (8,))
RELU.encoder.hidden[3] = torch.nn.ReLU()
torch.nn.init.constant_(NAN.decoder.logits.bias, math.nan)
BAD = [
    ("model", torch.nn.Linear(784, 2), TypeError, "must be a VAE"),
    ("model", vae.mlp_vae(3, (8,)), ValueError, "2 latent dimensions.* 3"),
    ("model", RELU, ValueError, "mlp_vae"),
    ("model", CONV, ValueError, "mlp_vae"),
    ("model", vae.VAE(MODEL.encoder, CONV.decoder), ValueError, "mlp_vae"),
    ("model", NAN, ValueError, "not finite"),
    ("images", IMAGES * 255, ValueError, "from 0 to 1"),
    ("images", IMAGES[:, :-1], ValueError, r"shape \(N, 784\)"),
    ("images", IMAGES.double(), TypeError, "float32"),
    ("labels", LABELS[:-1], ValueError, r"shape \(300,\)"),
    ("labels", LABELS + 1, ValueError, "from 0 to 9"),
    ("labels", LABELS - 1, ValueError, "from 0 to 9"),
    ("labels", LABELS + 0.5, TypeError, "whole numbers"),
    ("labels", LABELS.tolist(), TypeError, "must be a tensor"),
    ("seed", 0.5, TypeError, "whole number"),
    ("seed", -1, ValueError, "0 or more"),
    ("template", Path("absent.html"), FileNotFoundError, r"absent\.html.*explorer/template\.html"),
    ("template", "<html>", ValueError, "exactly once.* 0 times"),
    ("template", 2 * PLACEHOLDER, ValueError, "exactly once.* 2 times"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_bad_input_is_named_and_an_older_page_stays(name, value, error, message, tmp_path):
    page, template = tmp_path / "page.html", tmp_path / "template.html"
    page.write_text("older")
    if isinstance(value, str):
        template.write_text(value)
        value = template
    with pytest.raises(error, match=rf"{name}\b.*{message}"):
        write_explorer(**{"model": MODEL, "images": IMAGES, "labels": LABELS, "path": page, name: value})
    assert {*tmp_path.iterdir()} <= {page, template} and page.read_text() == "older"


def test_an_older_page_survives_a_write_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "no space left on the disk")))
    page = tmp_path / "page.html"
    page.write_text("older")
    for path in (page, page / "not a folder"):
        with pytest.raises(OSError, match=rf"explorer could not be written.*left as it was.*{path.name}"):
            write_explorer(MODEL, IMAGES, LABELS, path)
        assert [(entry, entry.read_text()) for entry in tmp_path.iterdir()] == [(page, "older")]


def test_the_built_page_is_of_the_template_of_today_and_small_and_needs_nothing_else():
    before, after = TEMPLATE.read_text(encoding="utf-8").split(PLACEHOLDER)
    text = BUILT.read_text(encoding="utf-8")
    assert text.startswith(before) and text.endswith(after), "the template has changed: build the page again"
    elsewhere = ("http:", "https:", "src=", "@import", "url(", "fetch(", "XMLHttpRequest", "import(")
    assert len(text) <= 2_500_000 and not [word for word in elsewhere if word in before + after]


@pytest.fixture(scope="module")
def browser():
    """Chromium: the machine's own, else playwright's. Without its sandbox, which containers and root do not have."""
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if not found and not Path(playwright.chromium.executable_path).exists():
            give_up = pytest.fail if os.environ.get("CI") else pytest.skip
            give_up("no browser: no chromium and no google-chrome is on the path, and playwright has none")
        with playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"]) as browser:
            yield browser


@pytest.fixture
def open_page(browser):
    """Open a file in a new page; at the end of the test no page may have logged an error or asked for another file."""
    faults = []

    def open_file(path, **options):
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}).new_page()
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


def settle(page):
    """Wait until what was asked for is computed and drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def ink(page, name):
    """How many pixels of a canvas are not blank."""
    script = """name => { const canvas = document.getElementById(name);
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((v, i) => i % 4 === 3 && v > 40).length; }"""
    return page.evaluate(script, name)


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


def drag(page, name, *places):
    """Press the mouse at the first place on a canvas, in shares of its side, move to the others, and let go."""
    page.locator(name).scroll_into_view_if_needed()
    box = page.locator(name).bounding_box()
    for i, (x, y) in enumerate(places):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if i == 0:
            page.mouse.down()
    page.mouse.up()
    settle(page)


def use(page, name, *keys):
    """Click on an element; or, where keys are given, focus it and press them."""
    page.focus(name) if keys else page.click(name)
    for key in keys:
        page.keyboard.press(key)
    settle(page)


@pytest.mark.parametrize("bias", [None, -15.0, 2.0, 15.0])
def test_the_page_encodes_and_decodes_as_pytorch_does(bias, trained, mnist, tmp_path, open_page):
    """Also where the bounds bend logvar: near them, between the bend and the ceiling, and far outside."""
    model, images, labels = copy.deepcopy(trained), mnist.test_images[-100:], mnist.test_labels[-100:]
    if bias is not None:
        model.encoder.logvar.weight.data /= 10
        torch.nn.init.constant_(model.encoder.logvar.bias, bias)
    page = open_page(write_explorer(model, images, labels, tmp_path / "page.html"))
    script = "xs => xs.map(x => { const q = explorer.encode(x); return [...q.mu, ...q.logvar]; })"
    codes = torch.tensor(page.evaluate(script, images.tolist()))
    torch.testing.assert_close(codes, torch.cat(vae.encode_dataset(model, images), 1), atol=1e-2, rtol=0)
    z = torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    painted = torch.tensor(page.evaluate("zs => zs.map(z => [...explorer.paint(z)])", z.tolist()))
    with torch.no_grad():
        torch.testing.assert_close(painted, torch.sigmoid(model.decode(z)), atol=1e-2, rtol=0)


def test_the_elbo_of_the_page_is_the_average_over_draws(trained, written, mnist, open_page):
    images = mnist.test_images[:20]
    script = "xs => xs.map(x => Object.values(explorer.elbo(x, explorer.encode(x))))"
    value, reconstruction, kl = torch.tensor(open_page(written).evaluate(script, images.tolist())).T
    mu, logvar = vae.encode_dataset(trained, images)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = vae.reparameterize(mu.expand(2000, -1, -1), logvar.expand(2000, -1, -1), generator=generator)
        draws = vae.log_bernoulli(images, trained.decode(z))
    assert ((reconstruction - draws.mean(0)).abs() < 5 * draws.std(0) / math.sqrt(2000) + 0.05).all()
    torch.testing.assert_close(kl, vae.kl_divergence(mu, logvar), atol=1e-2, rtol=0)
    torch.testing.assert_close(value, reconstruction - kl)


def test_drawn_digits_come_back_as_themselves(mnist, open_page):
    """Of ten digits in 13 slants, a classifier of MNIST names nearly all drawings, and 3 of 4 reconstructions."""
    page, data = open_page(BUILT), page_data(BUILT)
    plane = KNeighborsClassifier(15).fit(data["codes"].reshape(-1, 2), data["labels"])
    judge = KNeighborsClassifier(5).fit(mnist.train_images[:20_000].numpy(), mnist.train_labels[:20_000].numpy())
    script = "s => { const x = explorer.prepare(s); return [[...x], [...explorer.paint(explorer.encode(x).mu)]]; }"
    right = []
    for digit, strokes in STROKES.items():
        for stroke in strokes:
            drag(page, "#pad", *stroke)
        mu = page.evaluate("[...explorer.state.posterior.mu]")
        votes = round(15 * plane.predict_proba([mu]).max())  # by the codes that the page carries
        assert f"{votes} of the 15 nearest test digits" in page.inner_text("#x-text")
        use(page, "#clear")
        for slant in np.linspace(-0.2, 0.4, 13):
            slanted = [[[x + slant * (0.5 - y), y] for x, y in stroke] for stroke in strokes]
            right.append(judge.predict(page.evaluate(script, slanted)) == digit)
    drawings, reconstructions = np.mean(right, axis=0)
    assert drawings > 0.95 and reconstructions > 0.75


def test_drawings_are_prepared_as_mnist_was(written, mnist, open_page):
    """Box, centre of mass and amount of ink are those of MNIST, wherever and however large one draws."""
    page, prepared = open_page(written), []

    def measure(images):
        sides = [images.view(-1, 28, 28).sum(dim) for dim in (1, 2)]  # ink by column, and by row
        centre = [(side @ (torch.arange(28) + 0.5) / side.sum(1)).mean() for side in sides]
        extent = torch.maximum(*(side.gt(0).sum(1) for side in sides)).float().mean()
        return torch.stack([*centre, extent, images.mean()])

    for size in (1.0, 0.4):
        strokes = [[[(0.05 + size * x, size * y) for x, y in s] for s in digit] for digit in STROKES.values()]
        prepared.append(torch.tensor(page.evaluate("all => all.map(s => [...explorer.prepare(s)])", strokes)))
        differences = (measure(prepared[-1]) - measure(mnist.test_images)).abs()
        assert (differences < torch.tensor([0.1, 0.1, 0.7, 0.02])).all(), differences
    torch.testing.assert_close(*prepared, atol=1e-3, rtol=0)
    dot = page.evaluate("[...explorer.prepare([[[0.9, 0.1]]])]")  # stays a dot
    assert 0 < sum(dot) < 12 and not any(map(math.isnan, dot))


def test_the_plane_decodes_where_one_points_and_samples_from_the_prior(written, open_page):
    page = open_page(written)
    box = page.locator("#plane").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2 - 90)
    settle(page)
    z = page.evaluate("explorer.state.z")
    assert z[0] > 0.3 and z[1] == pytest.approx(1.5 * z[0], rel=1e-3)
    assert f"z = ({z[0]:.2f}, {z[1]:.2f})" in page.inner_text("#z-text") and ink(page, "decoded") > 100
    script = "Array.from({ length: 10000 }, () => (document.getElementById('sample').click(), explorer.state.z))"
    samples = torch.tensor(page.evaluate(script))
    assert samples.mean(0).abs().max() < 0.05 and (samples.std(0) - 1).abs().max() < 0.05


def test_undo_clear_and_a_test_digit(written, open_page):
    page, data = open_page(written), page_data(written)
    assert page.is_disabled("#undo") and page.is_disabled("#clear") and ink(page, "seen") == 0
    for stroke in STROKES[4]:
        drag(page, "#pad", *stroke)
    assert page.evaluate("explorer.state.strokes.length") == 2
    whole = page.evaluate("[...explorer.state.x]")
    texts = [page.inner_text(f"#value-{name}") for name in ("reconstruction", "kl", "elbo")]
    reconstruction, kl, elbo = (float(text.replace("\N{MINUS SIGN}", "-")) for text in texts)
    assert reconstruction - kl == pytest.approx(elbo, abs=0.11) and elbo < 0
    use(page, "#random")
    number, *x = page.evaluate("[explorer.state.testDigit, ...explorer.state.x]")
    np.testing.assert_allclose(x, data["images"].reshape(-1, 784)[number] / 255, atol=1e-6)
    assert f"is a {data['imageLabels'][number]}." in page.inner_text("#x-text")
    use(page, "#undo")  # the test digit goes, the drawing is back
    assert page.evaluate("[...explorer.state.x]") == whole
    use(page, "#undo")
    assert page.evaluate("explorer.state.strokes.length") == 1
    use(page, "#clear")
    assert page.evaluate("[explorer.state.strokes.length, explorer.state.x]") == [0, None]
    assert ink(page, "seen") == 0 and page.inner_text("#value-elbo") == "\N{EN DASH}"


def test_a_walk_goes_from_one_chosen_point_to_the_other(written, open_page):
    for motion in ("no-preference", "reduce"):
        page = open_page(written, reduced_motion=motion)
        page.click("#choose")
        assert page.get_attribute("#choose", "aria-pressed") == "true" and "A" in page.inner_text("#message")
        drag(page, "#plane", (0.3, 0.3))
        drag(page, "#plane", (0.7, 0.5))
        assert page.get_attribute("#choose", "aria-pressed") == "false" and page.is_visible("#strip")
        if motion == "no-preference":  # it plays by itself
            page.wait_for_function("explorer.state.playing && explorer.state.z[0] > explorer.state.walk.A[0]")
    z, A, B = page.evaluate("[explorer.state.z, explorer.state.walk.A, explorer.state.walk.B]")
    assert not page.evaluate("explorer.state.playing") and z == A and A != B
    use(page, "#along", "End")
    assert page.evaluate("explorer.state.z") == B
    use(page, "#along", "Home", "ArrowRight")
    assert page.evaluate("explorer.state.z") == pytest.approx([0.99 * a + 0.01 * b for a, b in zip(A, B, strict=True)])
    page.click("#play")
    page.wait_for_function("explorer.state.playing && explorer.state.z[0] !== explorer.state.walk.A[0]")
    page.click("#play")
    assert not page.evaluate("explorer.state.playing")


def test_everything_can_be_done_from_the_keyboard(written, open_page):
    page = open_page(written, reduced_motion="reduce")
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached += page.evaluate("[document.activeElement].map(e => [e.id, getComputedStyle(e).outlineStyle])")
    assert reached == [[name, "solid"] for name in ("plane", "sample", "choose", "pad", "random")]
    use(page, "#plane", "ArrowRight", "Shift+ArrowUp")
    assert page.evaluate("explorer.state.z") == pytest.approx([0.05, 0.25])
    use(page, "#choose", "Enter")
    use(page, "#plane", "Enter", "Shift+ArrowLeft", " ")
    assert page.evaluate("explorer.state.walk.B[0] - explorer.state.walk.A[0]") == pytest.approx(-0.25)
    use(page, "#pad", " ", *8 * ["ArrowDown"], " ", "ArrowLeft")
    assert page.evaluate("explorer.state.strokes[0].length") == 9 and ink(page, "reconstruction") > 100


def test_a_finger_draws_and_points(written, open_page):
    page = open_page(written, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.locator("#plane").tap(position={"x": 100, "y": 60})
    assert page.evaluate("explorer.state.z[0] < 0 && explorer.state.z[1] > 0")
    page.locator("#pad").tap(position={"x": 100, "y": 60})
    settle(page)
    assert page.evaluate("explorer.state.strokes.length") == 1
    script = "['plane', 'pad'].map(name => getComputedStyle(document.getElementById(name)).touchAction)"
    assert page.evaluate(script) == ["none", "none"]


def test_a_screen_reader_is_told(written, open_page):
    page = open_page(written)
    assert page.get_attribute("#live", "aria-live") == "polite"
    unnamed = """[...document.querySelectorAll("button, input, canvas")]
        .filter(e => !(e.textContent.trim() || e.getAttribute("aria-label"))).map(e => e.id)"""
    assert page.evaluate(unnamed) == []
    use(page, "#plane", "ArrowRight")
    page.wait_for_function("document.getElementById('live').textContent.includes('z = (0.05, 0.00)')")
    page.click("#random")
    page.wait_for_function("/ELBO .* nats/.test(document.getElementById('live').textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(scheme, written, open_page):
    page = open_page(written, color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background[4:].split(",")[0]) > 128) == (scheme == "light")
    faint = """() => {
      const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = e => { const c = getComputedStyle(e).backgroundColor;
        return c !== "rgba(0, 0, 0, 0)" ? rgb(c) : e.parentElement ? ground(e.parentElement) : [255, 255, 255]; };
      const lights = e => [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
      const contrast = ([a, b]) => (a + 0.05) / (b + 0.05);
      return [...document.querySelectorAll("h1, h2, p, button, figcaption, caption, th, td")]
        .filter(e => contrast(lights(e)) < 4.5).map(e => e.textContent); }"""
    assert page.evaluate(faint) == []


@pytest.mark.parametrize("width", [360, 414, 768, 859, 860, 1024, 1280, 1920])
def test_nothing_is_cut_off_at_any_width(width, written, open_page):
    page = open_page(written, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    page.click("#random")
    page.click("#choose")
    use(page, "#plane", "Enter", "Shift+ArrowLeft", "Enter")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut_off = """width => [...document.querySelectorAll("header *, main *")].filter(e => {
        const box = e.getBoundingClientRect(), overfull = e.scrollWidth > e.clientWidth + 1;
        return box.left < 0 || box.right > width + 0.5 || e.matches("p, button, figcaption, td, th") && overfull;
    }).map(e => e.id || e.textContent)"""
    assert page.evaluate(cut_off, width) == []
    assert page.evaluate("document.getElementById('plane').clientWidth") >= 290
    shape = "e => e.clientWidth / e.clientHeight"
    for name in ("plane", "decoded", "pad", "seen", "near", "reconstruction"):
        assert page.locator(f"#{name}").evaluate(shape) == pytest.approx(1, abs=0.02), f"{name} is not square"
    assert page.locator("#strip").evaluate(shape) == pytest.approx(11, rel=0.1)


def test_the_page_works_inside_a_notebook(written, open_page, monkeypatch, tmp_path):
    """In the frame that show_explorer displays: a few lines that name the file, wherever the notebook's folder lies."""
    shown = []
    monkeypatch.setattr("explorer.explorer.display", lambda data, raw: shown.append(data if raw else None))
    (tmp_path / "some where").mkdir()
    shutil.copy(written, tmp_path / "some where" / "page.html")
    show_explorer(Path("some where") / "page.html", height=700)
    frame = shown[0]["text/html"]
    assert 'height="700"' in frame and len(frame) < 500 and "page.html" in shown[0]["text/plain"]
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html><script>explorer = true</script>{frame}", encoding="utf-8")
    inner = open_page(outer).frames[1]
    inner.wait_for_function("window.explorer")
    inner.click("#random")
    inner.wait_for_function("explorer.state.x && document.getElementById('value-elbo').textContent.includes('.')")
