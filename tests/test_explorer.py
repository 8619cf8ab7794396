"""The explorer's page: it is written safely, says what it has computed, and can be used by everyone."""

import copy
import math
import os
import re
from base64 import b64decode
from html import escape
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from pages import CUT_OFF, contrast, faint
from PIL import ImageColor
from sklearn.neighbors import KNeighborsClassifier
from small_explorer import MNIST, ROOT, STROKES, model_of, open_maths, page_data, search_best_codes, small_model
from torch import nn

import vae_utils as vae
from explorer.explorer import PLACEHOLDER, page_source, show_explorer, update_page, write_explorer

BUILT = ROOT / "explorer" / "explorer.html"
REACH = 3.4  # of the plane, where the codes lie within 99 % of the prior

IMAGES, LABELS = MNIST.test_images[:500], MNIST.test_labels[:500]
# What a callback of fit keeps: the codes of the first 100 images after three epochs.
SNAPSHOTS = [
    ({"epoch": epoch, "valid_elbo": elbo}, torch.randn(100, 2, generator=torch.Generator().manual_seed(epoch)))
    for epoch, elbo in {1: -180.04, 2: -160.0, 5: -150.0}.items()
]


@pytest.fixture(scope="module")
def trained():
    return small_model()


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "some where" / "page.html"
    return write_explorer(trained, IMAGES, LABELS, path, snapshots=SNAPSHOTS)


def test_the_page_carries_codes_images_and_what_they_cost(trained, written, page):
    data = page_data(written)
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
        losses = -vae.elbo_by_quadrature(trained, IMAGES, trained.encode(IMAGES))  # a finer rule
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
    path.write_text(written.read_text(encoding="utf-8").replace("latent", "", 9), encoding="utf-8")
    update_page(path)
    assert path.read_bytes() == written.read_bytes()
    assert trained.training and torch.equal(random, torch.get_rng_state())
    assert all(map(torch.equal, trained.state_dict().values(), before.state_dict().values()))


OtherVAE, OtherNormal, OtherPosterior = (
    type("Other", (kind,), {}) for kind in (vae.VAE, vae.StandardNormal, vae.DiagonalNormal)
)
MODEL, NAN = vae.mlp_vae(2, (8,)), vae.mlp_vae(2, (8,))
ENCODER, DECODER = MODEL.encoder, MODEL.decoder
nn.init.constant_(NAN.decoder[-1].bias, math.nan)
BAD = [
    ("VAE.*Other", {"model": OtherVAE(ENCODER, DECODER, 2)}),
    ("2 latent dimensions.* 3", {"model": vae.mlp_vae(3, (8,))}),
    ("DiagonalNormal posterior.*Other", {"model": vae.VAE(ENCODER, DECODER, 2, posterior=OtherPosterior(2))}),
    ("StandardNormal prior.*Other", {"model": vae.VAE(ENCODER, DECODER, 2, prior=OtherNormal(2))}),
    ("Bernoulli likelihood.*Gaussian", {"model": vae.VAE(ENCODER, DECODER, 2, likelihood=vae.Gaussian())}),
    ("encoder.*mlp_vae", {"model": vae.VAE(nn.Sequential(ENCODER[0], nn.ReLU(), ENCODER[2]), DECODER, 2)}),
    ("weights.*not finite", {"model": NAN}),
    ("28 x 28", {"model": vae.mlp_vae(2, (8,), image_dim=100), "images": IMAGES[:, :100]}),
    (r"labels.*\(500,\)", {"labels": LABELS[:-1]}),
    ("labels.*from 0 to 9", {"labels": LABELS + 1}),
    ("labels.*from 0 to 9", {"labels": LABELS - 1}),
    (r"\(K, 2\).*\(501, 2\)", {"snapshots": [(SNAPSHOTS[0][0], torch.zeros(501, 2))]}),
    ("codes.*not finite", {"snapshots": [(SNAPSHOTS[0][0], torch.full((9, 2), math.inf))]}),
    ("explorer.*disk is full.*page.html", {}),
]


@pytest.mark.parametrize(("message", "given"), BAD)
def test_what_goes_wrong_is_named_and_an_older_page_stays(message, given, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "the disk is full")))
    page = tmp_path / "page.html"
    page.write_text("older")
    with pytest.raises((TypeError, ValueError, OSError), match=message):
        write_explorer(**{"model": MODEL, "images": IMAGES, "labels": LABELS, "path": page, **given})
    assert [*tmp_path.iterdir()] == [page] and page.read_text() == "older"


def test_the_built_page_is_of_the_sources_of_today_and_small():
    before, after = page_source("explorer").split(PLACEHOLDER)
    text = BUILT.read_text(encoding="utf-8")
    assert text.startswith(before) and text.endswith(after), "the sources have changed: build the page again"
    assert len(text) <= 2_500_000


@pytest.fixture
def open_page(open_window):
    """Open a file and wait until the explorer in it computes, with an empty pad."""

    def open_page(path, *size, address="digit=none", **options):
        return open_window(f"{path.as_uri()}#{address}", *size, until="window.explorer", **options)

    return open_page


@pytest.fixture
def page(open_page, written):
    return open_page(written)


def settle(page):
    """Wait until what was asked for is computed and drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def state(page, expression):
    """An expression in JavaScript of the fields of the page's state."""
    return page.evaluate(f"() => {{ with (explorer.state) return {expression}; }}")


def pixels(page, name):
    """What a canvas shows: red, green, blue and opacity from 0 to 1, (height, width, 4)."""
    return imread(BytesIO(b64decode(page.locator(f"#{name}").evaluate("canvas => canvas.toDataURL()").split(",")[1])))


def ink(page, name):
    """How many pixels of a canvas are not blank."""
    return (pixels(page, name)[..., 3] > 0.16).sum()


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
    for place in others:
        page.mouse.move(*at(page, name, *place))
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


BARS = ("reconstruction", "latent")


def draw(page, digit):
    for stroke in STROKES[digit]:
        drag(page, "#pad", *stroke)


def z_of(x, y):
    """The z at a place of the plane, given in shares of its side."""
    return pytest.approx([(2 * x - 1) * REACH, (1 - 2 * y) * REACH], abs=0.02)


def test_hovering_previews_a_click_keeps_and_leaving_returns(written, page):
    hover(page, 0.6, 0.2)
    assert state(page, "[z, keptZ]") == [z_of(0.6, 0.2), [0, 0]]
    (z1, z2), data = state(page, "z"), page_data(written)
    near = KNeighborsClassifier(15).fit(data["codes"].reshape(-1, 2), data["labels"]).predict_proba([[z1, z2]]).max()
    shown = page.inner_text("#z-text")
    assert f"z = ({z1:.2f}, {z2:.2f}): " in shown and f"({round(15 * near)} of the 15 nearest)" in shown
    assert ("several kinds" in shown) == (near < 0.5)
    assert ink(page, "decoded") > 100
    page.mouse.click(*at(page, "#plane", 0.2, 0.2), button="right")  # only the left button keeps a place
    page.hover("#sample-prior")
    assert state(page, "[z, keptZ]") == [[0, 0], [0, 0]]
    for places in ([(0.3, 0.4)], [(0.5, 0.5), (0.6, 0.6)]):  # a click; and z goes along with a button that is down
        drag(page, "#plane", *places)
        hover(page, 0.8, 0.8)
        assert state(page, "[z, keptZ]") == [z_of(0.8, 0.8), z_of(*places[-1])]
        page.hover("#sample-prior")
        assert state(page, "[z, keptZ]") == 2 * [z_of(*places[-1])]


def test_99_of_100_codes_decide_how_far_the_plane_reaches(written, open_page, tmp_path):
    """Where they lie as far out as the prior, and farther: one outlier does not."""
    path, text = tmp_path / "page.html", written.read_text(encoding="utf-8")
    scale = re.search(r'"codes": {"scale": ([^,]+)', text)[1]
    path.write_text(text.replace(scale, str(5 * float(scale)), 1), encoding="utf-8")
    furthest = np.sort(np.abs(page_data(path)["codes"]).reshape(-1, 2).max(1))
    assert REACH < furthest[495] < furthest[499]
    check(open_page(path), "#plane", 200 * "Shift+ArrowRight ", "keptZ[0]", furthest[495])


def test_the_plane_can_show_what_it_decodes_to(open_page, open_window):
    """17 x 17 digits: each cell looks like what the decoder paints in its middle, and not beside it."""
    page, maths = open_page(BUILT, 1280, 1000), open_maths(open_window, BUILT)
    page.check("[value=digits]")
    for _ in range(10):  # each frame adds a row
        settle(page)
    opacity = pixels(page, "plane")[..., 3]
    spots = (np.linspace(0.001, 0.999, 17 * 28) * len(opacity)).astype(int)
    shown = opacity[np.ix_(spots, spots)].reshape(17, 28, 17, 28).swapaxes(1, 2).ravel()
    lines = [REACH * (2 * (np.arange(17) + 0.5 + aside) / 17 - 1) for aside in (0, -0.5, 0.5)]
    codes = [[[z1, -z2] for z2 in line for z1 in line] for line in lines]
    script = "codes => codes.flatMap(z => [...pictureOf(model, z)])"
    likeness = [np.corrcoef(shown, maths.evaluate(script, each))[0, 1] for each in codes]
    assert likeness[0] == max(likeness) > 0.55


def test_watch_it_learn(written, page, open_page):
    settle(page)  # the plane has another size before the texts around it are there
    everything = ink(page, "plane")
    check(page, "[value=learning]", "", "snapshot", 0)
    first = ink(page, "plane")
    assert "Epoch 1 of 5: test digits cost 180.0" in page.inner_text("#snapshot-text")
    check(page, "#snapshot", "End", "snapshot", 2)
    assert "Epoch 5 of 5" in page.inner_text("#snapshot-text") and first != ink(page, "plane") != everything
    check(page, "[value=dots]", "", "background", "dots")
    assert page.is_hidden("#learning") and ink(page, "plane") == everything
    page = open_page(written, reduced_motion="no-preference")
    page.check("[value=learning]")  # it plays by itself
    page.wait_for_function("explorer.state.playing?.name === 'learning'")
    check(page, "[value=dots]", "", "playing", None)


def on_walk(page):
    """How far along the walk the slider is; the kept z is there too."""
    at = "Number(document.getElementById('walk-position').value)"  # read at once with the rest: it may be playing
    z, a, b, t = map(np.array, state(page, f"[keptZ, walk.A, walk.B, {at}]"))
    assert z == pytest.approx(a + t * (b - a), abs=0.02)
    return t


def test_a_walk_goes_from_one_chosen_point_to_the_other_and_z_stays_on_it(written, open_page):
    page = open_page(written, reduced_motion="no-preference")
    playing_at = "explorer.state.playing && document.getElementById('walk-position').value"
    page.click("#start-or-end-walk")
    page.mouse.dblclick(*at(page, "#plane", 0.3, 0.3))  # as one click: both ends at one place make no walk
    assert state(page, "walk.A && !walk.B") and not page.is_visible("#strip") and "(B)" in page.inner_text("#hint")
    drag(page, "#plane", (0.7, 0.5))
    page.wait_for_function(f"{playing_at} > 0.05")  # by itself
    check(page, "#play-walk", "", "playing", None)
    assert page.is_visible("#strip") and page.inner_text("#start-or-end-walk") == "End the walk"
    assert state(page, "[walk.A, walk.B]") == [z_of(0.3, 0.3), z_of(0.7, 0.5)]
    use(page, "#walk-position", "End")
    assert on_walk(page) == 1
    use(page, "#walk-position", "Home ArrowRight")
    hover(page, 0.9, 0.1)
    assert on_walk(page) == pytest.approx(0.01) and state(page, "z === keptZ")
    for place in ((0.5, 0.4), (0.5 - 0.1, 0.4 + 0.2)):  # halfway, and the same from beside the line
        drag(page, "#plane", place)
        assert on_walk(page) == pytest.approx(0.5, abs=0.01)
    use(page, "#play-walk")  # it goes on from where it is
    assert 0.49 < on_walk(page) < 0.95
    check(page, "#play-walk", "", "playing", None)
    use(page, "#walk-position", "End")
    page.click("#play-walk")  # from the end, once more from the start
    page.wait_for_function(f"{playing_at} < 0.5")
    check(page, "#sample-prior", "", "[walk, playing]", [None, None])  # z goes elsewhere, and the walk is over
    assert page.is_hidden("#walk") and page.inner_text("#start-or-end-walk") == "Walk A to B"


def test_undo_takes_back_every_change_of_the_pad(written, page):
    data = page_data(written)
    assert all(map(page.is_disabled, ("#undo", "#redo", "#clear")))
    drag(page, "#pad", (0.2, 0.5), (0.5, 0.5), (1.4, 0.5), (1.4, 0.9), (0.99, 0.9), (0.5, 0.9))
    first, second = state(page, "strokes")  # the pen leaves the pad and comes back: two lines, both inside
    assert len(first) == 2 and all(0.05 <= v <= 0.95 for point in first for v in point)
    assert second == [pytest.approx([x, 0.9], abs=0.01) for x in (0.95, 0.5)]
    check(page, "#plane", "Control+z", "strokes", [])
    draw(page, 4)
    drawing = state(page, "[strokes.length, ...x]")
    use(page, "#random")
    number, *x = state(page, "[testDigit, ...x]")
    np.testing.assert_allclose(x, data["images"].reshape(-1, 784)[number] / 255, atol=1e-6)
    assert f"is a {data['imageLabels'][number]}." in page.inner_text("#x-text")
    check(page, "#clear", "", "[strokes.length, x]", [0, None])
    assert ink(page, "seen") == ink(page, "costs") == 0 and page.inner_text("#value-total") == "\N{EN DASH}"
    check(page, "#plane", "Control+z", "testDigit", number)
    check(page, "#undo", "", "[strokes.length, ...x]", drawing)  # the test digit goes, the drawing is back
    check(page, "#plane", "Meta+z", "strokes.length", 1)
    check(page, "#redo", "", "[strokes.length, ...x]", drawing)
    check(page, "#plane", "Control+y Control+z Control+Shift+z", "testDigit", number)
    check(page, "#plane", 4 * "Control+z ", "strokes.length", 0)  # nothing is left to take back
    assert page.is_disabled("#undo") and page.is_enabled("#redo")
    draw(page, 1)
    assert page.is_disabled("#redo")  # a new stroke, and what was taken back is gone
    strokes = state(page, "strokes")
    hover(page, 0.3, 0.3, "#pad")
    page.mouse.down()
    page.keyboard.press("Control+z")  # in the middle of a stroke, which ends there
    hover(page, 0.5, 0.3, "#pad")
    page.mouse.up()
    assert state(page, "strokes") == strokes
    check(page, "#pad", "Space ArrowDown Control+z ArrowDown", "[keyPenDown, strokes]", [False, strokes])  # the same


def terms(page):
    """The numbers of the table: pixels, code, both together."""
    return [float(text) for text in page.locator("#loss td").all_inner_texts()]


def test_drawing_and_plane_meet(page):
    def shown():
        return page.inner_text("#reconstruction-caption"), pixels(page, "reconstruction").tolist()

    assert all(page.is_disabled(name) for name in ("#to-plane", "#sample-posterior", "#walk-from", "#better-code"))
    draw(page, 3)
    mu, logvar = state(page, "[[...posterior.mu], [...posterior.logvar]]")
    caption, picture = shown()
    check(page, "#to-plane", "", "[z, keptZ, looksAt]", [mu, mu, "z"])
    at_mean = shown()
    assert at_mean[0] != caption and at_mean[1] == picture
    use(page, "#sample-posterior")
    assert state(page, "keptZ") != mu and shown()[0] == at_mean[0] and shown()[1] != picture
    for button, mean, sigma in (("sample-prior", 0, 1), ("sample-posterior", mu, np.exp(np.array(logvar) / 2))):
        click = f"document.getElementById('{button}').click()"
        draws = page.evaluate(f"Array.from({{ length: 5000 }}, () => ({click}, explorer.state.keptZ))")
        noise = (np.array(draws) - mean) / sigma
        assert np.abs(noise.mean(0)).max() < 0.07 and np.abs(noise.std(0) - 1).max() < 0.05
    use(page, "#walk-from")
    drag(page, "#plane", (0.8, 0.2))
    assert state(page, "walk.A") == mu and on_walk(page) == 0 and page.is_visible("#strip")
    drag(page, "#pad", *STROKES[1][0])  # a change of the drawing is a new x
    assert state(page, "looksAt") == "q" and shown()[0] == caption


def test_everything_can_be_done_from_the_keyboard(page):
    for name in ("plane", "dots", "sample-prior", "start-or-end-walk", "pad", "random"):
        page.keyboard.press("Tab")
        focused = page.evaluate("(e => [e.id || e.value, getComputedStyle(e).outlineStyle])(document.activeElement)")
        assert focused == [name, "solid"]
    check(page, "#plane", "ArrowRight Shift+ArrowUp", "z", [0.05, 0.25])
    check(page, "#start-or-end-walk", "Enter", "document.activeElement.id", "plane")
    check(page, "#plane", "Enter Shift+ArrowLeft Space", "[...walk.A, ...walk.B]", [0.05, 0.25, -0.2, 0.25])
    check(page, "#plane", "ArrowRight ArrowRight", "keptZ", [0.05, 0.25])  # there is nothing to the right of A
    check(page, "#plane", "ArrowLeft ArrowLeft ArrowUp", "keptZ", [-0.05, 0.25])  # and z stays on the line
    check(page, "#plane", "Escape", "walk", None)
    check(page, "#pad", f"Space {8 * 'ArrowDown '} Space ArrowLeft", "strokes.map(stroke => stroke.length)", [9])
    back = "e => e.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', altKey: true, cancelable: true }))"
    assert page.locator("#plane").evaluate(back) and page.locator("#pad").evaluate(back)  # it is the browser's own
    for _ in range(3):  # a key that is held repeats
        page.keyboard.down("Space")
    page.keyboard.up("Space")
    assert state(page, "[strokes.length, keyPenDown]") == [2, True]
    check(page, "#undo", "Enter Enter", "[document.activeElement.id, strokes.length]", ["pad", 0])


def swipe(page, name, start, dx, dy):
    """A finger goes down at a place on a canvas, moves so many pixels in ten steps, and is lifted."""
    (x, y), fingers = at(page, name, *start), page.context.new_cdp_session(page)
    for step in range(11):
        kind, place = "touchMove" if step else "touchStart", {"x": x + dx * step / 10, "y": y + dy * step / 10}
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(page)


def test_a_finger_draws_and_points(written, open_page):
    page = open_page(written, 360, 740, has_touch=True, is_mobile=True)
    page.locator("#pad").tap(position={"x": 100, "y": 60})
    settle(page)
    both = ["decoded", "plane"]
    for button, seen in (("#sample-posterior", ["reconstruction"]), ("#to-plane", both), ("#walk-from", both)):
        page.tap(button)  # brings these into view
        assert all(top > -1 and bottom <= 740 for top, bottom in (edges(page, name) for name in seen))
    page.locator("#plane").tap(position={"x": 250, "y": 200})
    assert state(page, "walk.A") == state(page, "[...q.mu]") and on_walk(page) == 0
    page.tap("#start-or-end-walk")
    page.tap("#jump-to-pad")
    assert edges(page, "pad")[1] <= 740 and not page.is_visible(".by-keyboard >> nth=0")
    page.tap("#jump-to-plane")
    before, places = page.evaluate("scrollY"), []
    for dx, dy in ((0, -150), (150, 0)):  # z follows a finger, and the page stays
        swipe(page, "#plane", (0.4, 0.7), dx, dy)
        places.append(state(page, "keptZ"))
    (x1, y1), (x2, y2) = places
    assert y1 > y2 + 1 and x2 > x1 + 1 and page.evaluate("scrollY") == before
    swipe(page, "#pad", (0.5, 0.2), 0, 150)
    assert len(state(page, "strokes")) == 2
    (x1, y1), (x2, y2) = state(page, "strokes.at(-1)")
    assert abs(x2 - x1) < 0.01 and y2 - y1 > 0.4


def test_a_screen_reader_is_told(page):
    assert page.get_attribute("#live", "aria-live") == "polite"
    unnamed = """[...document.querySelectorAll("button, input, canvas")]
        .filter(e => !((e.closest("label") ?? e).textContent.trim() || e.getAttribute("aria-label"))).map(e => e.id)"""
    assert page.evaluate(unnamed) == []
    use(page, "#plane", "ArrowRight")
    page.wait_for_function("document.getElementById('live').textContent.includes('z = (0.05, 0.00)')")
    loss = r"/Loss .* nats.*(Dearer|Cheaper) than/.test(document.getElementById('live').textContent)"
    draw(page, 3)
    page.wait_for_function(loss)
    use(page, "#pad", "Space ArrowDown ArrowDown Space")  # the pen is lifted, and the loss is told
    page.wait_for_function(f"{loss} && document.getElementById('live').textContent.includes('Pen lifted')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_dots_stand_out_in_light_and_dark(scheme, written, open_page):
    """Dots 3 to 1, as WCAG asks of graphics; they are opaque, so that one sees their very colour."""
    page = open_page(written, color_scheme=scheme, device_scale_factor=3)
    settle(page)
    assert faint(page) == []
    body, paper = (page.locator(e).evaluate("e => getComputedStyle(e).backgroundColor") for e in ("body", "#plane"))
    assert (contrast(body, "rgb(0, 0, 0)") > 10) == (scheme == "light")
    shown = (255 * pixels(page, "plane")).round()
    colours = page.evaluate("explorer.digitColours()")
    for colour in colours:
        dots = (shown == [*map(int, re.findall(r"\d+", colour)), 255]).all(-1)
        assert contrast(colour, paper) >= 3 and dots.sum() >= 3 and colours.count(colour) == 1


def test_the_loss_is_seen_pixel_by_pixel_and_term_by_term(trained, written, page):
    """Pictures, bars and numbers are of one loss: of q(z|x), or of z wherever it goes. A scribble is told so."""
    draw(page, 3)
    bar_text, caption = page.inner_text("#bar-text"), page.inner_text("#costs-caption")
    over_q, quantiles = terms(page), page_data(written)["lossQuantiles"]
    side, share = re.search(r"(Dearer|Cheaper) than (\d+) %", bar_text).groups()
    assert (side == "Dearer") == (over_q[2] > quantiles[50])
    share = int(share) if side == "Dearer" else 100 - int(share)
    assert quantiles[share] - 0.1 <= over_q[2] and (share == 100 or over_q[2] <= quantiles[share + 1] + 0.1)
    costs = np.sort(page.evaluate("[...explorer.lossShown().costs]"))[::-1]
    assert int(re.search(r"(\d+) %", caption)[1]) == pytest.approx(100 * costs[:78].sum() / costs.sum(), abs=0.6)
    assert over_q[0] == pytest.approx(costs.sum(), abs=0.06) and ink(page, "costs") > 50
    assert over_q[0] + over_q[1] == pytest.approx(over_q[2], abs=1e-6)  # as shown, to the last digit
    bars = [page.locator(f"#{name}-bar").bounding_box()["width"] for name in BARS]
    assert bars[0] / bars[1] == pytest.approx(over_q[0] / over_q[1], rel=0.05)
    hover(page, 0.9, 0.1)
    x, z = (torch.tensor(state(page, f"[...{name}]")) for name in "xz")
    with torch.no_grad():
        pixels, code = -trained.log_likelihood(x, z).item(), -trained.prior.log_prob(z).item()
    assert terms(page) == pytest.approx([pixels, code, pixels + code], abs=0.1)
    assert "log p(x, z)" in page.inner_text("#loss") and "KL" not in page.inner_text("#loss")
    assert page.is_checked("#looks-at [value=z]") and page.is_hidden("#bar-average")  # a density is no loss
    hover(page, 0.5, 0.5, "#pad")
    assert terms(page) == over_q  # the mouse has left the plane
    use(page, "#clear")
    drag(page, "#pad", *[(0.1 + 0.8 * (i % 2), 0.1 + 0.8 * i / 12) for i in range(13)])
    assert "hardly a digit" in page.inner_text("#bar-text")


def test_the_plane_shows_the_loss_of_this_digit_at_once_and_then_finer(page):
    use(page, "[value=loss]")  # on an empty pad it takes a test digit, whose removal leaves nothing to show
    assert state(page, "testDigit") is not None and page.is_visible("#loss-legend")
    page.wait_for_function("explorer.grid.done === 65 * 65")
    settle(page)
    shown = pixels(page, "plane")
    bands = page.locator("#bands li").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundImage)")
    colours = [[*map(float, re.findall(r"[\d.]+", band.split(")")[0]))] for band in bands]
    seen = [(np.abs(shown[..., :3] - colour).max(-1) < 0.012).mean() > 0.003 for colour in colours]
    assert len(seen) == 8 and sum(seen) >= 6  # of the colours that the legend names
    use(page, "#clear")
    assert page.is_hidden("#bands") and "Draw a digit" in page.inner_text("#loss-legend")
    draw(page, 1)
    assert (pixels(page, "plane") != shown).mean() > 0.1


def test_a_better_code_is_found_and_named(written, open_page, open_window):
    """The search walks from the encoder's q(z|x) to its own, says what was missed, and the way back is one click."""
    page = open_page(written, reduced_motion="no-preference")
    maths = open_maths(open_window, written)
    *_, missed = search_best_codes(maths, torch.from_numpy(page_data(written)["images"].reshape(-1, 784)[:12] / 255))
    assert missed.min() < 0.9 and missed.max() > 1.1
    for digit, named in ((missed.argmin(), False), (missed.argmax(), True)):  # for less than a nat it does not walk
        page.evaluate(f"location.hash = 'digit={digit}'")
        page.wait_for_function(f"explorer.state.testDigit === {digit} && !explorer.state.padChanged")
        encoder = terms(page)[2]
        page.click("#better-code")
        at_end = "explorer.state.q.mu[0] === explorer.state.better.mu[0]" if named else "true"
        page.wait_for_function(f"explorer.state.better && {at_end}")
        settle(page)
        text, found = page.inner_text("#search-text"), terms(page)[2]
        assert encoder - found == pytest.approx(missed[digit].item() if named else 0, abs=0.11)
        assert ("miss" in text and f"{found:.1f}" in text and "15 nearest" in text) == named, text
        seen = "[[...q.mu], document.getElementById('bar-text').textContent]"
        before, picture = state(page, seen), pixels(page, "costs")
        page.wait_for_function("location.hash.includes('found=')")
        page.reload()  # what has been found is kept, to the last pixel
        page.wait_for_function("window.explorer?.state.better")
        settle(page)
        assert page.inner_text("#search-text") == text and terms(page)[2] == found
        assert state(page, seen) == before and np.array_equal(pixels(page, "costs"), picture)
    use(page, "#better-code")
    assert terms(page)[2] == encoder and page.is_hidden("#search-text")
    page.click("#better-code")
    page.click("#random")  # another digit, and the search is over
    page.wait_for_timeout(300)
    assert state(page, "[searching, better]") == [None, None]


def show_digit(page, address):
    """Go to an address with a test digit, and wait until it is computed."""
    page.evaluate("address => { location.hash = address; }", address)
    digit = re.search(r"digit=(\d+)", address)[1]
    page.wait_for_function(f"explorer.state.testDigit === {digit} && !explorer.state.padChanged")
    settle(page)


def come_to_rest(page, done=None):
    """Forget what has been done but for this, move z, wait until a screen reader is told, and look what is done."""
    page.evaluate(
        "done => { explorer.state.done = done; document.getElementById('live').textContent = ''; }", done or {}
    )
    use(page, "#plane", "ArrowRight")
    page.wait_for_function("document.getElementById('live').textContent")
    return state(page, "done")


def losses_of(model, x):
    """Minus the ELBO of each image by the page's rule."""
    with torch.no_grad():
        return -vae.elbo_by_quadrature(model, x, model.encode(x), nodes=3)


def test_a_scribble_is_called_one_before_a_search_and_after_it(trained, written, page):
    """By the encoder's loss beside those of the test digits; and a dot, which costs little, by its ink."""
    data = page_data(written)
    images = torch.from_numpy(data["images"].reshape(-1, 784) / 255).float()
    percents = np.searchsorted(data["lossQuantiles"], losses_of(trained, images).numpy()) - 1
    for least, most, words in ((97, 100, "hardly a digit"), (91, 96, "an odd digit, or none"), (50, 89, "the mark is")):
        digit = np.flatnonzero((least <= percents) & (percents <= most))[0]
        show_digit(page, f"digit={digit}")
        before = page.inner_text("#bar-text")
        page.click("#better-code")
        page.wait_for_function("explorer.state.better")
        settle(page)
        for text in (before, page.inner_text("#bar-text")):
            assert f"Dearer than {percents[digit]} %" in text and words in text
    use(page, "#clear")
    drag(page, "#pad", (0.5, 0.5))
    assert "Less ink" in page.inner_text("#bar-text")


EIGHT = [
    [(0.62, 0.26), (0.48, 0.16), (0.36, 0.3), (0.62, 0.62), (0.6, 0.8), (0.42, 0.82), (0.36, 0.66), (0.62, 0.34)],
    [(0.62, 0.34), (0.62, 0.26)],
]
# How wide, and how far slanted to the right: some of them do what the page gives to try, and some do not.
HANDS = {
    3: [(1, 0), (2.1, 0), (2.1, 0.1)],
    4: [(0.8, 0), (1.3, 0), (1.3, 0.15), (1.8, 0), (1, 0.5)],  # the second and the last come back as something else
    8: [(1, 0), (0.8, 0.3), (0.8, 0.5)],
}


def test_the_page_sees_what_the_reader_has_tried(open_page):
    """A 4, a cheap 8 and a dear digit by its code, by what comes back, and by its loss: as PyTorch and k neighbours."""
    page, data = open_page(BUILT), page_data(BUILT)
    model, finder = model_of(data), KNeighborsClassifier(15).fit(data["codes"].reshape(-1, 2), data["labels"])

    def kind_of(x):
        """The digit that most neighbours of its code are, and most neighbours of the picture's code; else none."""
        with torch.no_grad():
            mu = model.encode(x).mu
            shares = finder.predict_proba(torch.cat([mu, model.encode(model.decode(mu).sigmoid()).mu]))
        kinds = {share.argmax() if share.max() > 0.5 else None for share in shares}
        return kinds.pop() if len(kinds) == 1 else None

    def draw_by_hand(digit, width, slant):
        for stroke in EIGHT if digit == 8 else STROKES[digit]:
            drag(page, "#pad", *[(0.5 + width * (x - 0.5) - slant * (y - 0.5), y) for x, y in stroke])

    every = []
    for digit, width, slant in [(digit, *hand) for digit, hands in HANDS.items() for hand in hands]:
        draw_by_hand(digit, width, slant)
        done, x = come_to_rest(page), state(page, "[...x]")
        x = torch.tensor([x])
        kind, loss = kind_of(x), losses_of(model, x).item()
        tasks = {"try-4": kind == 4, "try-8": kind == 8 and loss < 110, "try-dear": kind is not None and loss > 300}
        assert {*done} == {name for name, seen in tasks.items() if seen}, (digit, width, slant, kind, loss, done)
        every.append([*tasks.values()])
        numbers = {"try-8": f"{loss:.1f}", "try-dear": f"{loss:.1f}, as a {kind}"}
        for name, text in done.items():
            assert numbers.get(name, "15 nearest are 4s") in text
            assert text in page.inner_text(f"#{name}") and text in page.inner_text("#live")
        use(page, "#clear")
    assert np.any(every, 0).all() and not np.all(every, 0).any()  # each can be done, and is not done always
    draw_by_hand(8, 0.8, 0.5)
    page.mouse.down()
    assert come_to_rest(page) == {}  # the pen may go on
    page.mouse.up()
    assert [*come_to_rest(page)] == ["try-8"] and come_to_rest(page, {"try-8": "as before"})["try-8"] != "as before"
    assert "Done" not in page.inner_text("#live") and page.inner_text("#tasks-done") == "1 of 5 done"  # it is told once
    for digit in np.flatnonzero(np.isin(data["imageLabels"], [4, 8]))[:9]:
        show_digit(page, f"digit={digit}")
        assert come_to_rest(page) == {}


def test_a_walk_over_a_hill_among_one_kind_is_seen(open_page):
    """Both ends and the digit among one kind, and on the way at least 10 nats more than at either end."""
    page, data = open_page(BUILT, address="digit=0"), page_data(BUILT)
    model, codes, labels = model_of(data), data["codes"].reshape(-1, 2), data["labels"]
    finder, found = KNeighborsClassifier(15).fit(codes, labels), {}
    share = torch.linspace(0, 1, 61)[:, None]
    for digit in range(20):
        x = torch.from_numpy(data["images"].reshape(-1, 784)[digit] / 255).float()
        with torch.no_grad():
            A = model.encode(x[None]).mu
            for B in torch.tensor(codes[digit::500]).float():
                z = (1 - share) * A + share * B
                cost = -model.log_likelihood(x, z) - model.prior.log_prob(z)
                shares, over = finder.predict_proba(torch.stack([A[0], B])), cost.max() - max(cost[0], cost[-1])
                one_kind = shares.min(1).size and shares[0].argmax() == shares[1].argmax() and shares.max(1).min() > 0.6
                if over > 12 or over < 8:
                    found[bool(one_kind), bool(over > 12)] = digit, [*A[0].tolist(), *B.tolist()]
    assert len(found) == 4
    for (one_kind, over), (digit, walk) in found.items():
        show_digit(page, f"digit={digit}&walk={','.join(f'{v:.4f}' for v in walk)}")
        assert [*come_to_rest(page)] == (["try-walk"] if one_kind and over else []), (digit, walk)


def test_the_reader_may_guess_before_it_is_shown(page):
    """Nothing tells where the code lies until one has guessed; right three times in a row is told once."""
    told = ("magnified", "reconstruction", "costs")
    assert page.is_hidden("#guess")
    check(page, "#guess-first", "Space", "asking", False)
    right = 0
    for digit in (3, 1, 0, 2):
        if right or digit != 3:
            use(page, "#clear")
        assert page.is_disabled("#guess-buttons button >> nth=0")
        unknown = ink(page, "plane")
        draw(page, digit)
        assert not any(ink(page, name) for name in told) and ink(page, "plane") == unknown
        assert "nearest" not in page.inner_text("#x-text") and page.inner_text("#guess-text") == ""
        assert all(page.is_disabled(name) for name in ("#to-plane", "#walk-from", "#better-code"))
        answer = page.evaluate("""() => { const { codes, labels } = explorer.data, { mu } = explorer.state.posterior;
            return [...labels.keys()].map(i => [Math.hypot(codes[2 * i] - mu[0], codes[2 * i + 1] - mu[1]), labels[i]])
                .sort((a, b) => a[0] - b[0]).slice(0, 15).map(pair => pair[1]); }""")
        given = max(answer, key=answer.count) if digit != 3 else (max(answer, key=answer.count) + 1) % 10
        use(page, f"#guess-buttons button >> nth={given}", "Enter")
        right += digit != 3
        assert f"You said {given}" in page.inner_text("#guess-text")
        assert f"Right: {right} of {right + 1}" in page.inner_text("#guess-text")
        assert all(ink(page, name) for name in told) and ink(page, "plane") != unknown
        assert "nearest" in page.inner_text("#x-text") and page.is_enabled("#to-plane")
        assert state(page, "document.activeElement.id") == "pad"
        page.wait_for_function(f"document.getElementById('live').textContent.includes('You said {given}')")
        for name in ("live", "try-guess"):
            assert ("Done: 3 in a row" in page.inner_text(f"#{name}")) == (right == 3)
    use(page, "#guess-first")
    draw(page, 4)
    assert page.is_hidden("#guess") and ink(page, "magnified") and "nearest" in page.inner_text("#x-text")


def test_reload_back_and_a_shared_link_keep_what_is_shown(written, open_page):
    shown = "[background, testDigit, keptZ, looksAt, walk?.B ?? null, strokes.length, snapshot]"
    page = open_page(written)
    bends = [(0.5 + 0.1 * math.sin(t / 5), 0.45 + t / 600) for t in range(60)]
    drag(page, "#pad", *bends)  # small, and with more points than it needs
    check(page, "#looks-at [value=z]", "", "looksAt", "z")
    page.check("[value=loss]")
    page.wait_for_function("['ink=', 'view=loss', 'at=z'].every(part => location.hash.includes(part))")
    x, loss, seen = state(page, "[...x]"), terms(page), state(page, shown)
    for leave in (page.reload, lambda: (page.goto("about:blank"), page.go_back())):
        leave()
        page.wait_for_function("window.explorer?.state.x")
        settle(page)
        assert state(page, shown) == seen and state(page, "[...x]") == x and terms(page) == loss
    for i in range(9):
        drag(page, "#pad", *[(0.5 + 0.4 * math.sin(i + 50 * t), 0.5 + 0.4 * math.cos(i + 71 * t)) for t in range(130)])
    assert "too long" in page.inner_text("#x-text")
    page.wait_for_function("!location.hash.includes('ink=')")
    use(page, "#random")
    page.click("#start-or-end-walk")
    use(page, "#plane", "Shift+ArrowUp Enter Shift+ArrowLeft Enter")
    page.check("[value=learning]")
    use(page, "#snapshot", "End")
    page.wait_for_function("/digit=.*walk=/.test(location.hash) && location.hash.includes('snapshot=2')")
    seen, other = state(page, shown), open_page(written)
    go = "hash => { location.hash = hash; }"
    other.evaluate(go, page.evaluate("location.hash"))
    other.wait_for_function("explorer.state.x")
    assert state(other, shown) == seen and other.is_visible("#strip")
    for part, there, hidden in (("plane", "plane", "#pad"), ("digit", "pad", "#plane")):
        other.evaluate(go, f"part={part}&digit=7")
        other.wait_for_function(f"document.body.dataset.part === '{part}' && explorer.state.testDigit === 7")
        settle(other)
        assert other.is_hidden(hidden) and other.is_hidden("header") and ink(other, there)
    for nonsense in ("view=x&digit=999&z=a,b&walk=1&snapshot=9&ink=%%%", "digit=-1&walk=1,1,1,1", "z=1e999,0&ink=A"):
        other.evaluate(go, nonsense)
        settle(other)
        assert state(other, "[testDigit, keptZ, walk]") == [None, [0, 0], None]


@pytest.mark.parametrize(("width", "height"), [(320, 640), (859, 800), (860, 800), (1366, 650)])
def test_nothing_is_cut_off_and_what_matters_is_on_one_screen(width, height, written, open_page):
    page = open_page(written, width, height)
    for view in ("loss", "learning"):
        page.check(f"[value={view}]")
        for name in ("plane", "decoded", "pad", "magnified", "reconstruction", "costs", "value-total", "walk-from"):
            assert height != 650 or edges(page, name)[1] <= height, (view, name)
    page.click("#start-or-end-walk")
    use(page, "#plane", "Enter Shift+ArrowLeft Enter")
    assert height != 650 or edges(page, "strip")[1] <= height
    assert page.evaluate("document.documentElement.scrollWidth") <= width and page.evaluate(CUT_OFF) == []
    for canvas in page.locator("canvas:not(#strip, #curve)").all():
        assert canvas.evaluate("e => e.clientWidth / e.clientHeight") == pytest.approx(1, abs=0.02), "not square"
    if width == 320:  # the hand covers no result
        for first, hand in (("costs", "pad"), ("decoded", "plane")):
            assert edges(page, first)[1] < edges(page, hand)[0] and edges(page, hand)[1] <= edges(page, first)[0] + 640
    page.set_viewport_size({"width": width, "height": height - 100})  # another height alone, and the plane stays sharp
    settle(page)
    assert page.locator("#plane").evaluate("e => e.width - e.clientWidth") == 0


def test_the_page_opens_with_a_digit_its_code_and_its_cost(written, open_page):
    page, data = open_page(written, address=""), page_data(written)
    settle(page)
    digit, mu, z, looks_at = state(page, "[testDigit, [...posterior.mu], z, looksAt]")
    assert data["imageLabels"][digit] == 3 and z == mu and looks_at == "q" and terms(page)[2] > 0
    assert all(ink(page, name) > 50 for name in ("decoded", "magnified", "seen", "reconstruction", "costs"))
    use(page, "#clear")
    page.wait_for_function("location.hash.includes('digit=none')")
    page.reload()  # what has been cleared stays so
    page.wait_for_function("window.explorer")
    assert state(page, "[x, testDigit]") == [None, None]


def has_colour(page, name, colour):
    """Whether more than a few pixels of a canvas that are not faint have this colour, but for its rounding."""
    shown = (255 * pixels(page, name)).round().astype(int)
    near = np.abs(shown[..., :3] - ImageColor.getrgb(colour)).max(-1) < 6
    return (near & (shown[..., 3] > 40)).sum() > 5


def test_a_walk_shows_what_the_digit_costs_on_the_way(trained, written, open_page):
    """Blue is the pixels' share and orange the code's, as in the notebook, at their places and of their heights."""
    page = open_page(written, address="digit=5&walk=-1,0.5,1,-0.5")
    settle(page)
    page.mouse.move(0, 0)
    shown = (255 * pixels(page, "curve")).round().astype(int)
    blue, orange = ((shown[..., :3] == ImageColor.getrgb(colour)).all(-1) for colour in (vae.BLUE, vae.ORANGE))
    x, height = torch.tensor(state(page, "[...x]")), len(shown)
    z = torch.stack([torch.linspace(-1, 1, 61), torch.linspace(0.5, -0.5, 61)], 1)
    with torch.no_grad():
        pixel_cost, code = -trained.log_likelihood(x, z), -trained.prior.log_prob(z)
    for i in (10, 30, 50):
        column, scale = round(i / 60 * shown.shape[1]), (height - 22) / (pixel_cost + code).max()
        assert blue[:, column].sum() == pytest.approx((pixel_cost[i] * scale).item(), abs=2)
        assert orange[:, column].sum() == pytest.approx((code[i] * scale).item(), abs=2)
    bars = [page.locator(f"#{name}-bar").evaluate("e => getComputedStyle(e).backgroundColor") for name in BARS]
    assert bars == [f"rgb{ImageColor.getrgb(colour)}" for colour in (vae.BLUE, vae.ORANGE)]
    assert has_colour(page, "curve", vae.BLUE) and has_colour(page, "curve", vae.ORANGE)
    assert not any(has_colour(page, name, colour) for name in ("costs", "plane") for colour in (vae.BLUE, vae.ORANGE))


def test_in_forced_colours_one_sees_what_is_chosen_and_dark_pages_are_printed_dark_on_white(written, open_page):
    page = open_page(written, forced_colors="active", address="digit=1")
    backgrounds = [
        page.locator(f"label:has([value={name}])").evaluate("e => getComputedStyle(e).backgroundColor")
        for name in ("dots", "digits")
    ]
    assert contrast(*backgrounds) > 2
    page.check("[value=loss]")

    def shown(name):
        return imread(BytesIO(page.locator(name).screenshot()))[..., :3]

    chosen, bands = shown("label:has([value=loss])"), [shown(f"#bands li >> nth={i}")[6].mean(0) for i in (0, 4)]
    assert np.ptp(chosen[len(chosen) // 2, 16:60]) > 0.4  # its text can be read
    assert np.abs(bands[0] - bands[1]).max() > 0.2  # and the legend has its colours
    page = open_page(written, color_scheme="dark", address="digit=1")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    ink_colour = pixels(page, "seen")[pixels(page, "seen")[..., 3] > 0.9][:, :3]
    assert ink_colour.max() < 0.3
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert pixels(page, "seen")[pixels(page, "seen")[..., 3] > 0.9][:, :3].min() > 0.7


@pytest.mark.parametrize("width", [320, 390, 859, 860])
def test_nothing_moves_under_the_hand(width, written, open_page):
    """The pad at the first stroke, at the next digit and after a search; the plane in a frame when a walk begins."""
    page = open_page(written, width, 740)
    before = page.locator("#pad").evaluate("e => e.getBoundingClientRect().top + scrollY")
    for change in ("", "#random", "#better-code"):
        page.click(change) if change else draw(page, 3)
        page.wait_for_function("explorer.state.searching === null && !explorer.state.padChanged")
        settle(page)
        assert page.locator("#pad").evaluate("e => e.getBoundingClientRect().top + scrollY") == before, change
    page.evaluate("document.body.toggleAttribute('data-framed', true)")
    size = page.locator("#plane").bounding_box()["width"]
    page.click("#start-or-end-walk")
    use(page, "#plane", "Enter Shift+ArrowLeft Enter")
    assert page.is_visible("#strip") and page.locator("#plane").bounding_box()["width"] == size


def test_a_notebook_shows_the_page_in_a_frame_and_says_where_it_lies(shown):
    """A few lines, wherever the notebook's folder lies."""
    show_explorer(Path("some where", "page.html"))
    frame = shown[0]["text/html"]
    assert 'src="some%20where/page.html"' in frame and 'title="' in frame and len(frame) < 500
    for text in (re.sub("<[^>]+>", "", frame), shown[0]["text/plain"]):
        assert "some where/page.html" in text


@pytest.mark.parametrize("sandbox", ["", ' sandbox="allow-scripts"'], ids=["plain", "sandboxed"])
def test_an_embedded_page_computes_in_a_notebook_that_is_shown_without_it(
    sandbox, shown, written, tmp_path, open_window
):
    """In a frame within a frame, as Kaggle and Colab show an output. It cannot have an address there, and goes on."""
    show_explorer(written, embed=True)
    outer = tmp_path / "outer.html"
    outer.write_text(f'<iframe{sandbox} width="1200" height="1000" srcdoc="{escape(shown[0]["text/html"])}"></iframe>')
    page = open_window(outer.as_uri(), 1280, 1100)
    frame = page.frame_locator("iframe").frame_locator("iframe").locator("body").element_handle().owner_frame()
    frame.wait_for_function("window.explorer")
    place = frame.locator("#pad").bounding_box()  # in the window
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 4
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 9, y + place["height"] / 2)
    page.mouse.up()
    frame.wait_for_function("explorer.state.x && explorer.lossShown().total > 0")
    frame.evaluate("() => new Promise(done => setTimeout(done, 500))")  # behind the timer that writes the address
