"""The explorer: the page is written safely, computes what PyTorch computes, and can be used by everyone.

The browser is a Chromium found on the machine, or else the one that playwright has installed. Where there is none the
tests that need it are skipped, with a reason; where the environment variable CI is set they fail instead.
"""

import base64
import errno
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import vae_utils
from vae_utils import (
    conv_vae,
    encode_dataset,
    evaluate,
    fit,
    kl_divergence,
    load_mnist,
    log_bernoulli,
    mlp_vae,
    reparameterize,
    show_explorer,
    write_explorer,
)

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "explorer" / "template.html"
BUILT = ROOT / "explorer" / "explorer.html"
WIDTHS = (360, 414, 768, 859, 860, 1024, 1280, 1920)


@pytest.fixture(scope="module")
def mnist():
    return load_mnist(ROOT / "data", download=False)


@pytest.fixture(scope="module")
def trained(mnist):
    """A small model after a short training: its numbers are of the size that real ones have."""
    torch.manual_seed(0)
    model = mlp_vae(2, (48, 32))
    fit(model, mnist.train_images[:6000], epochs=2, progress=False)
    return model


@pytest.fixture(scope="module")
def written(trained, mnist, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    return write_explorer(trained, mnist.test_images[:500], mnist.test_labels[:500], path, template=TEMPLATE)


def page_data(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def unpack(packed):
    return np.frombuffer(base64.b64decode(packed["int16"]), dtype="<i2") * packed["scale"]


# The Python side


def arguments(model=None, n=30):
    generator = torch.Generator().manual_seed(0)
    return model or mlp_vae(2, (8,)), torch.rand(n, 784, generator=generator), torch.arange(n) % 10


def test_the_page_carries_model_codes_and_images(trained, mnist, written):
    data, images, labels = page_data(written), mnist.test_images[:500], mnist.test_labels[:500]
    weights = [np.abs(unpack(data["encoder"][0]["weight"]) - trained.encoder.hidden[0].weight.detach().numpy().ravel())]
    weights += [np.abs(unpack(data["logits"]["bias"]) - trained.decoder.logits.bias.detach().numpy())]
    assert max(map(np.max, weights)) < 1e-4
    codes = encode_dataset(trained, images)[0].numpy()
    np.testing.assert_allclose(unpack(data["codes"]).reshape(-1, 2), codes, atol=2e-4)
    assert list(base64.b64decode(data["labels"])) == labels.tolist()
    shown = np.frombuffer(base64.b64decode(data["images"]), np.uint8).reshape(-1, 784)
    every = (images * 255).round().to(torch.uint8).numpy()
    places = [np.flatnonzero((every == image).all(axis=1))[0] for image in shown]
    assert len(set(places)) == 200 and labels[places].tolist() == list(base64.b64decode(data["imageLabels"]))
    assert data["averageElbo"] == evaluate(trained, images)["elbo"]


def test_the_same_seed_gives_the_same_page_and_another_seed_other_images(tmp_path):
    model, images, labels = arguments(n=300)
    pages = [write_explorer(model, images, labels, tmp_path / f"{i}.html", template=TEMPLATE, seed=s)
             for i, s in enumerate((0, 0, 1))]  # fmt: skip
    first, again, other = (page.read_bytes() for page in pages)
    assert first == again
    assert page_data(pages[0])["images"] != page_data(pages[2])["images"] and other != first


def test_the_model_is_left_as_it_was(tmp_path):
    model, images, labels = arguments()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    write_explorer(model, images, labels, tmp_path / "page.html", template=TEMPLATE)
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_the_page_is_written_into_a_new_folder_and_its_path_returned(tmp_path):
    path = tmp_path / "new" / "folder" / "page.html"
    assert write_explorer(*arguments(), str(path), template=str(TEMPLATE)) == path
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]


def relu_model():
    model = mlp_vae(2, (8, 8))
    model.encoder.hidden[3] = torch.nn.ReLU()
    return model


def nan_model():
    model = mlp_vae(2, (8,))
    torch.nn.init.constant_(model.decoder.logits.bias, math.nan)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (mlp_vae(3, (8,)), "2 latent dimensions, and this model has 3"),
        (conv_vae(2, channels=2, hidden_dim=4), "mlp_vae"),
        (vae_utils.VAE(mlp_vae(2, (8,)).encoder, conv_vae(2, channels=2, hidden_dim=4).decoder), "mlp_vae"),
        (relu_model(), "mlp_vae"),
        (nan_model(), "not finite"),
    ],
)
def test_a_model_that_the_page_cannot_compute_is_refused(model, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_explorer(*arguments(model), tmp_path / "page.html", template=TEMPLATE)
    assert not list(tmp_path.iterdir())


def test_images_and_labels_must_belong_together(tmp_path):
    model, images, labels = arguments()
    for wrong in (labels[:-1], labels + 1, labels - 1, labels.float() + 0.5, labels[:, None]):
        with pytest.raises((ValueError, TypeError), match=r"labels must (have shape \(30,\)|be a)"):
            write_explorer(model, images, wrong, tmp_path / "page.html", template=TEMPLATE)
    with pytest.raises(ValueError, match="from 0 to 1"):
        write_explorer(model, images * 255, labels, tmp_path / "page.html", template=TEMPLATE)


def test_a_missing_or_damaged_template_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no template at .*absent\.html.*explorer/template\.html"):
        write_explorer(*arguments(), tmp_path / "page.html", template=tmp_path / "absent.html")
    damaged = tmp_path / "damaged.html"
    for text, times in (("<html>", 0), ("/*EXPLORER_DATA*/" * 2, 2)):
        damaged.write_text(text)
        with pytest.raises(ValueError, match=rf"damaged\.html.*exactly once.*{times} times"):
            write_explorer(*arguments(), tmp_path / "page.html", template=damaged)


def test_a_path_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "page.html", tmp_path / "folder"):
        with pytest.raises(OSError, match=rf"explorer could not be written.*another place.*{path.name}"):
            write_explorer(*arguments(), path, template=TEMPLATE)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_an_older_page_survives_a_failed_write(tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    page.write_text("older")

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"could not be written \(No space left.*still there"):
        write_explorer(*arguments(), page, template=TEMPLATE)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("page.html", "older")]


def test_show_explorer_embeds_the_page_whole(written, monkeypatch):
    shown = []
    monkeypatch.setattr(vae_utils, "display", lambda data, raw: shown.append((data, raw)))
    show_explorer(written, height=700)
    (data, raw), text = shown[0], written.read_text(encoding="utf-8")
    assert raw and data["text/html"].startswith("<iframe srcdoc=") and 'height="700"' in data["text/html"]
    assert len(data["text/html"]) < 1.1 * len(text) + 1000
    assert data["text/plain"].startswith(str(written))


def test_the_built_page_is_of_the_template_of_today_and_small_and_needs_nothing_else():
    before, after = TEMPLATE.read_text(encoding="utf-8").split(vae_utils.EXPLORER_PLACEHOLDER)
    text = BUILT.read_text(encoding="utf-8")
    assert text.startswith(before) and text.endswith(after), "the template has changed: build the page again"
    assert BUILT.stat().st_size <= 2_500_000
    for word in ("http:", "https:", "src=", "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert word not in before + after


# The browser


def launch(playwright):
    """Chromium: the machine's own, else playwright's. Without its sandbox, which containers and root do not have."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found and not Path(playwright.chromium.executable_path).exists():
        reason = f"no browser: none of {', '.join(names)} is on the path, and playwright has none"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api") if not os.environ.get("CI") else None
    if playwright is None:
        import playwright.sync_api as playwright
    with playwright.sync_playwright() as running:
        browser = launch(running)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a file in a new page; at the end of the test no page may have logged an error or asked for another file."""
    faults, contexts = [], []

    def open_file(path, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request", lambda request: faults.append(request.url) if request.url[:5] not in ("file:", "data:") else 0
        )
        page.goto(path.as_uri())
        page.wait_for_function("window.explorer")
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert faults == []


def settle(page):
    """Wait until what was asked for is computed and drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def ink(page, name):
    """How many pixels of a canvas are not blank."""
    return page.evaluate(
        """name => { const canvas = document.getElementById(name);
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((v, i) => i % 4 === 3 && v > 40).length; }""",
        name,
    )


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


def draw(page, strokes):
    """Replay strokes with the mouse."""
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    for stroke in strokes:
        for i, (x, y) in enumerate(stroke):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if i == 0:
                page.mouse.down()
        page.mouse.up()
    settle(page)


def test_the_page_decodes_as_pytorch_does(trained, written, open_page):
    z = torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    painted = open_page(written).evaluate("zs => zs.map(z => [...explorer.paint(z)])", z.tolist())
    with torch.no_grad():
        wanted = torch.sigmoid(trained.decode(z))
    torch.testing.assert_close(torch.tensor(painted), wanted, atol=1e-2, rtol=0)


def encode_in(page, images):
    script = "xs => xs.map(x => { const q = explorer.encode(x); return [...q.mu, ...q.logvar]; })"
    return torch.tensor(page.evaluate(script, images.tolist())).split(2, dim=1)


def test_the_page_encodes_as_pytorch_does(trained, written, mnist, open_page):
    images = mnist.test_images[-100:]
    mu, logvar = encode_in(open_page(written), images)
    wanted_mu, wanted_logvar = encode_dataset(trained, images)
    torch.testing.assert_close(mu, wanted_mu, atol=1e-2, rtol=0)
    torch.testing.assert_close(logvar, wanted_logvar, atol=1e-2, rtol=0)


@pytest.mark.parametrize("bias", [-15.0, 2.0, 15.0])
def test_the_bounds_on_logvar_are_in_the_page(mnist, tmp_path, open_page, bias):
    model = mlp_vae(2, (8,))
    torch.nn.init.constant_(model.encoder.logvar.bias, bias)
    page = write_explorer(model, mnist.test_images[:50], mnist.test_labels[:50], tmp_path / "p.html", template=TEMPLATE)
    logvar = encode_in(open_page(page), mnist.test_images[:5])[1]
    torch.testing.assert_close(logvar, encode_dataset(model, mnist.test_images[:5])[1], atol=1e-2, rtol=0)


def test_the_elbo_of_the_page_is_the_average_over_draws(trained, written, mnist, open_page):
    images = mnist.test_images[:20]
    script = """xs => xs.map(x => { const bound = explorer.elbo(x, explorer.encode(x));
        return [bound.value, bound.reconstruction, bound.kl]; })"""
    value, reconstruction, kl = torch.tensor(open_page(written).evaluate(script, images.tolist())).T
    mu, logvar = encode_dataset(trained, images)
    with torch.no_grad():
        z = reparameterize(
            mu.expand(2000, -1, -1), logvar.expand(2000, -1, -1), generator=torch.Generator().manual_seed(0)
        )
        draws = log_bernoulli(images, trained.decode(z))
    error = 5 * draws.std(0) / math.sqrt(len(draws)) + 0.05
    assert ((reconstruction - draws.mean(0)).abs() < error).all()
    torch.testing.assert_close(kl, kl_divergence(mu, logvar), atol=1e-2, rtol=0)
    torch.testing.assert_close(value, reconstruction - kl)


def test_drawn_digits_come_back_as_themselves(mnist, open_page):
    """Judged by a classifier on the reconstruction, 5 nearest of 20,000 training images: at least 8 of 10 are right.

    What the page says of the plane, the majority of the 15 nearest test codes, is held against the codes it carries.
    """
    page, data = open_page(BUILT), page_data(BUILT)
    codes, labels = unpack(data["codes"]).reshape(-1, 2), list(base64.b64decode(data["labels"]))
    plane = KNeighborsClassifier(15).fit(codes, labels)
    judge = KNeighborsClassifier(5).fit(mnist.train_images[:20_000].numpy(), mnist.train_labels[:20_000].numpy())
    right = []
    for digit, strokes in STROKES.items():
        draw(page, strokes)
        mu = page.evaluate("[...explorer.state.posterior.mu]")
        right.append(judge.predict([page.evaluate("mu => [...explorer.paint(mu)]", mu)])[0] == digit)
        share = plane.predict_proba([mu])[0].max()
        assert f"{round(share * 15)} of the 15 nearest test digits" in page.inner_text("#x-text")
        page.click("#clear")
    assert sum(right) >= 8, [digit for digit, ok in enumerate(right) if not ok]


def test_drawings_are_prepared_as_mnist_was(written, mnist, open_page):
    """Box, centre of mass and amount of ink are those of MNIST, wherever and however large one draws."""
    page = open_page(written)
    grid = torch.arange(28) + 0.5

    def measure(images):
        pictures = images.view(-1, 28, 28)
        mass = pictures.sum((1, 2))
        centre = torch.stack([(pictures.sum(1) * grid).sum(1) / mass, (pictures.sum(2) * grid).sum(1) / mass])
        extents = [pictures.amax(dim).gt(0).sum(1) for dim in (1, 2)]
        return centre.mean(1), torch.stack(extents).amax(0).float().mean(), images.mean()

    prepared = {}
    for size in (1.0, 0.4):
        strokes = [[[(0.05 + size * x, size * y) for x, y in s] for s in digit] for digit in STROKES.values()]
        prepared[size] = torch.tensor(page.evaluate("all => all.map(s => [...explorer.prepare(s)])", strokes))
        centre, extent, amount = measure(prepared[size])
        wanted_centre, wanted_extent, wanted_amount = measure(mnist.test_images)
        torch.testing.assert_close(centre, wanted_centre, atol=0.1, rtol=0)
        assert abs(extent - wanted_extent) <= 0.7 and abs(amount - wanted_amount) < 0.02
    torch.testing.assert_close(prepared[1.0], prepared[0.4], atol=1e-3, rtol=0)


def test_a_dot_stays_a_dot(written, open_page):
    image = open_page(written).evaluate("[...explorer.prepare([[[0.9, 0.1]]])]")
    assert 0 < sum(image) < 12 and not any(map(math.isnan, image))


def test_pointing_at_the_plane_decodes_there(trained, written, open_page):
    page = open_page(written)
    box = page.locator("#plane").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2 - 90)
    settle(page)
    z = page.evaluate("explorer.state.z")
    assert z[0] > 0.3 and z[1] == pytest.approx(1.5 * z[0], rel=1e-3)
    assert f"z = ({z[0]:.2f}, {z[1]:.2f})" in page.inner_text("#z-text")
    assert ink(page, "decoded") > 100


def test_undo_clear_and_a_test_digit(written, open_page):
    page = open_page(written)
    assert page.is_disabled("#undo") and page.is_disabled("#clear") and ink(page, "seen") == 0
    draw(page, STROKES[4])
    assert page.evaluate("explorer.state.strokes.length") == 2
    whole = page.evaluate("[...explorer.state.x]")
    numbers = [
        float(page.inner_text(f"#value-{name}").replace("\N{MINUS SIGN}", "-"))
        for name in ("reconstruction", "kl", "elbo")
    ]
    assert numbers[0] - numbers[1] == pytest.approx(numbers[2], abs=0.11) and numbers[2] < 0
    page.click("#random")
    settle(page)
    shown = page.evaluate("[explorer.state.testDigit, ...explorer.state.x]")
    data = page_data(written)
    pixels = np.frombuffer(base64.b64decode(data["images"]), np.uint8).reshape(-1, 784)[shown[0]]
    np.testing.assert_allclose(shown[1:], pixels / 255, atol=1e-6)
    assert f"is a {base64.b64decode(data['imageLabels'])[shown[0]]}." in page.inner_text("#x-text")
    page.click("#undo")  # the test digit goes, the drawing is back
    settle(page)
    assert page.evaluate("[...explorer.state.x]") == whole
    page.click("#undo")
    settle(page)
    assert page.evaluate("explorer.state.strokes.length") == 1
    page.click("#clear")
    settle(page)
    assert page.evaluate("[explorer.state.strokes.length, explorer.state.x]") == [0, None]
    assert ink(page, "seen") == 0 and page.inner_text("#value-elbo") == "\N{EN DASH}"


def test_samples_come_from_the_prior(written, open_page):
    page = open_page(written)
    script = (
        "Array.from({ length: 2000 }, () => { document.getElementById('sample').click(); return explorer.state.z; })"
    )
    z = torch.tensor(page.evaluate(script))
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.12, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=0.1, rtol=0)


def test_a_walk_goes_from_one_chosen_point_to_the_other(written, open_page):
    page = open_page(written, reduced_motion="reduce")
    box = page.locator("#plane").bounding_box()
    page.click("#choose")
    assert page.get_attribute("#choose", "aria-pressed") == "true" and "A" in page.inner_text("#message")
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"])
    assert page.get_attribute("#choose", "aria-pressed") == "false" and page.is_visible("#strip")
    assert not page.evaluate("explorer.state.playing")  # as who wants less motion asks
    A, B = page.evaluate("[explorer.state.walk.A, explorer.state.walk.B]")
    assert page.evaluate("explorer.state.z") == A and A != B
    page.focus("#along")
    page.keyboard.press("End")
    assert page.evaluate("explorer.state.z") == B
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expected = [0.99 * a + 0.01 * b for a, b in zip(A, B, strict=True)]
    assert page.evaluate("explorer.state.z") == pytest.approx(expected)
    page.click("#play")
    page.wait_for_function("explorer.state.playing && explorer.state.z[0] !== explorer.state.walk.A[0]")
    page.click("#play")
    assert not page.evaluate("explorer.state.playing")


def test_a_walk_plays_by_itself_where_motion_is_welcome(written, open_page):
    page = open_page(written)
    box = page.locator("#plane").bounding_box()
    page.click("#choose")
    for share in (0.3, 0.7):
        page.mouse.click(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"])
    page.wait_for_function("explorer.state.playing && explorer.state.z[0] > explorer.state.walk.A[0]")


def test_everything_can_be_done_from_the_keyboard(written, open_page):
    page = open_page(written, reduced_motion="reduce")
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid", f"focus on {reached[-1]} cannot be seen"
    assert reached == ["plane", "sample", "choose", "pad", "random"]
    page.focus("#plane")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    assert page.evaluate("explorer.state.z") == pytest.approx([0.05, 0.25])
    page.focus("#choose")
    page.keyboard.press("Enter")
    page.focus("#plane")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press(" ")
    assert page.evaluate("explorer.state.walk.B[0] - explorer.state.walk.A[0]") == pytest.approx(-0.25)
    page.focus("#pad")
    page.keyboard.press(" ")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert page.evaluate("explorer.state.strokes[0].length") == 9 and ink(page, "reconstruction") > 100


def test_a_finger_draws_and_points(written, open_page):
    page = open_page(written, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.locator("#plane").tap(position={"x": 100, "y": 60})
    z = page.evaluate("explorer.state.z")
    assert z[0] < 0 < z[1]
    page.locator("#pad").tap(position={"x": 100, "y": 60})
    settle(page)
    assert page.evaluate("explorer.state.strokes.length") == 1
    for name in ("plane", "pad"):
        assert page.evaluate("name => getComputedStyle(document.getElementById(name)).touchAction", name) == "none"


def test_a_screen_reader_is_told(written, open_page):
    page = open_page(written)
    assert page.get_attribute("#live", "aria-live") == "polite"
    unnamed = """[...document.querySelectorAll("button, input, canvas")]
        .filter(e => !(e.textContent.trim() || e.getAttribute("aria-label"))).map(e => e.id)"""
    assert page.evaluate(unnamed) == []
    page.focus("#plane")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.getElementById('live').textContent.includes('z = (0.05, 0.00)')")
    page.click("#random")
    page.wait_for_function("/ELBO .* nats/.test(document.getElementById('live').textContent)")


CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => { const c = getComputedStyle(e).backgroundColor;
    return c !== "rgba(0, 0, 0, 0)" ? rgb(c) : e.parentElement ? ground(e.parentElement) : [255, 255, 255]; };
  const ratio = e => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); };
  return [...document.querySelectorAll("h1, h2, p, button, figcaption, caption, th, td")]
    .map(e => [e.textContent, ratio(e)]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(scheme, written, open_page):
    page = open_page(written, color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background[4:].split(",")[0]) > 128) == (scheme == "light")
    for text, ratio in page.evaluate(CONTRAST):
        assert ratio >= 4.5, text


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_at_any_width(width, written, open_page):
    page = open_page(written, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    page.click("#random")
    page.click("#choose")
    page.focus("#plane")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """width => [...document.querySelectorAll("main *")].filter(e => e.getClientRects().length)
        .map(e => [e.id || e.textContent, e.getBoundingClientRect()])
        .filter(([_, box]) => box.left < 0 || box.right > width + 0.5).map(([name]) => name)"""
    assert page.evaluate(outside, width) == []
    assert page.evaluate("document.getElementById('plane').clientWidth") >= 290
    overfull = (
        "[...document.querySelectorAll('p, button, figcaption, td, th')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    )
    assert page.evaluate(f"{overfull}.filter(e => !e.matches('.hidden-text')).map(e => e.textContent)") == []
    shape = "e => e.clientWidth / e.clientHeight"
    for name in ("plane", "decoded", "pad", "seen", "near", "reconstruction"):
        assert page.locator(f"#{name}").evaluate(shape) == pytest.approx(1, abs=0.02), f"{name} is not square"
    assert page.locator("#strip").evaluate(shape) == pytest.approx(11, rel=0.1)


def test_the_page_works_inside_a_notebook(written, open_page, monkeypatch, tmp_path):
    """In the frame that show_explorer displays, which is kept apart from the page around it."""
    shown = []
    monkeypatch.setattr(vae_utils, "display", lambda data, raw: shown.append(data["text/html"]))
    show_explorer(written)
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html><script>explorer = true</script>{shown[0]}", encoding="utf-8")
    frame = open_page(outer).frames[1]
    frame.wait_for_function("window.explorer")
    frame.click("#random")
    frame.wait_for_function("explorer.state.x && document.getElementById('value-elbo').textContent.includes('.')")
