"""The playground's page: it trains while knobs are turned, and judges a guess by what it measured."""

import json
import re
from html import escape

import pytest
import torch
from pages import CUT_OFF, faint
from small_explorer import MNIST, data_of
from small_playground import BUILT, open_script, unpacked

from explorer.explorer import BEFORE_DATA, page_source, show_explorer
from explorer.playground import write_playground


@pytest.fixture
def open_page(open_window):
    """The built page, once it has measured what it begins with."""

    def open_page(address="", **options):
        return open_window(f"{BUILT.as_uri()}#{address}", until="document.querySelector('#cost b')", **options)

    return open_page


def wait_for(page, step):
    page.wait_for_function("step => document.getElementById('step-text').textContent === `step ${step}`", arg=step)


def numbers(page):
    """All that is measured and shown in words; in the formula it is of the batches since the last report."""
    return {name: page.inner_text(f"#{name}") for name in ("cost", "map-text", "digits", "formula")}


def measured(page):
    return {name: text for name, text in numbers(page).items() if name != "formula"}


def hash_is(page, address):
    page.wait_for_function("address => location.hash === `#${address}`", arg=address)


def test_the_built_page_is_of_the_sources_of_today_small_and_carries_what_write_playground_packs():
    before, after = page_source("playground").split("/*DATA*/")
    page = BUILT.read_text(encoding="utf-8")
    assert page.startswith(before) and page.endswith(after), "update_page('explorer/playground.html', 'playground')"
    assert before.endswith(BEFORE_DATA) and len(page.encode()) < 2e6
    _, images, held = unpacked(BUILT)
    assert len(images) == 4000 and len(held) == 500 and set(images.unique().tolist()) == {0, 1}
    grey = MNIST.train_images[:4000].double()
    assert not images[grey == 0].any() and images[grey == 1].all()  # a draw of these images
    assert images.mean().item() == pytest.approx(grey.mean().item(), rel=0.01)


def test_write_playground_packs_what_it_is_given_and_leaves_chance_as_it_was(tmp_path):
    """Its images as a draw of them, its own model trained, the weights to 16 bits."""
    images, valid, labels = MNIST.train_images[:256], MNIST.train_images[-200:], MNIST.train_labels[-200:]
    state = torch.get_rng_state()
    path = write_playground(images, valid, labels, tmp_path / "new" / "page.html")
    assert torch.equal(state, torch.get_rng_state())
    model, packed, held = unpacked(path)
    assert packed.shape == (256, 784) and held.shape == (200, 784)
    with torch.no_grad():
        cost = -model.log_likelihood(packed, model.encode(packed).mu).mean().item()
        average = packed.mean(0).clamp(1e-3, 1 - 1e-3)
        entropy = -(packed * average.log() + (1 - packed) * (1 - average).log()).sum(1).mean().item()
        said = -(held * average.log() + (1 - held) * (1 - average).log()).sum(1).mean().item()
    assert cost < entropy  # it has learned
    assert json.loads(data_of(path))["averageDigit"] == pytest.approx(said, abs=1e-3)
    for given, message in [
        ((images[:60], valid, labels), "images must .* at least 64, not .*60"),
        ((images[:, :100], valid, labels), "images must .*784.* not .*100"),
        ((images, valid[:100], labels[:100]), "valid_images must .* at least 200"),
        ((images, valid, labels[:9]), "valid_labels must .*200"),
        ((images, valid, labels + 1), "valid_labels must .* from 0 to 9"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_playground(*given, tmp_path / "bad.html")
    assert not (tmp_path / "bad.html").exists()


def test_it_trains_stops_and_begins_again_to_the_same_numbers(open_page):
    page = open_page("from=new")
    start = numbers(page)
    page.click("#one-step")
    wait_for(page, 1)
    page.click("#play")
    page.wait_for_function("parseInt(document.getElementById('step-text').textContent.slice(5)) >= 20")
    page.click("#play")
    stopped = page.wait_for_function("document.getElementById('step-text').textContent.match(/^step \\d+$/)?.[0]")
    stopped = stopped.json_value()
    page.wait_for_timeout(500)
    assert page.inner_text("#step-text") == stopped
    end, step = measured(page), int(stopped.split()[1])
    assert end["cost"] != start["cost"]
    page.click("#again")
    wait_for(page, 0)
    assert numbers(page) == start
    again = open_page(f"from=new&steps={step}")  # not in two parts
    wait_for(again, step)
    assert measured(again) == end
    other = open_page(f"seed=2&from=new&steps={step}")
    wait_for(other, step)
    assert measured(other)["cost"] != end["cost"]


def test_a_turned_knob_acts_at_its_step_and_the_address_brings_the_run_back(open_page):
    page = open_page("from=new&steps=10")
    wait_for(page, 10)
    page.click("#beta-marks button:has-text('12')")
    page.click("label:has-text('mean over pixels')")
    page.uncheck("#noise")
    page.wait_for_function("location.hash.includes('10:beta12,point,mean')")
    page.check("#noise")  # and the whole KL is paid again
    page.wait_for_function("location.hash.includes('10:beta12,mean')")
    page.uncheck("#noise")
    page.wait_for_function("location.hash.includes('10:beta12,point,mean')")
    for step in (11, 12):
        page.click("#one-step")
        wait_for(page, step)
    address = "seed=1&from=new&run=0:;10:beta12,point,mean&steps=12"
    hash_is(page, address)
    shared = open_page(address)
    wait_for(shared, 12)
    assert measured(shared) == measured(page)
    unturned = open_page("from=new&steps=12")
    wait_for(unturned, 12)
    assert measured(unturned)["cost"] != measured(page)["cost"]


SPREAD = "+ σ² - 1 - log σ²"  # what the KL has beside mu squared, with plain hyphens for its minus signs
KNOBS = {  # what is turned: what is struck through, what the address calls it
    "#beta-marks button:has-text('0')": (["β ·", f"½ Σ (μ² {SPREAD})"], "beta0"),
    "label:has(input[name=price][value=mu])": ([SPREAD], "mu"),
    "#noise": ([SPREAD, "\N{GREEK SMALL LETTER SIGMA}·ε"], "point"),
    "label:has-text('mean over pixels')": ([], "mean"),
    "label:has-text('squared error')": ([], "squares1"),
}


def test_the_formula_is_that_of_the_knobs(open_page):
    """Each alone. Without sigma the KL cannot be had; sigma_x only shows with the squared error; marks are exact."""
    for knob, (struck, word) in KNOBS.items():
        page = open_page()
        assert page.locator("#formula s").count() == 0 and page.is_hidden("#sigma-x-knob")
        page.locator(knob).first.click()
        page.wait_for_function("word => location.hash.includes(`run=0:${word}&`)", arg=word)
        outer = page.locator("#formula s:not(s s)").all_inner_texts()
        assert [text.replace("\N{MINUS SIGN}", "-") for text in outer] == struck, knob
        assert page.is_disabled('input[name="price"][value="kl"]') == (word == "point")
        assert page.is_visible("#sigma-x-knob") == (word == "squares1")
        assert ("mean" in page.inner_text("#formula")) == (word == "mean")
        assert ("x̂" in page.inner_text("#formula")) == (word == "squares1")
    page.check("#learned")
    page.wait_for_function("location.hash.includes('squareslearned')")
    assert page.is_disabled("#sigma-x")


def test_a_garbled_address_opens_the_page_as_at_first(open_page):
    at_first = numbers(open_page())
    for address in (
        "seed=-3&steps=x",
        "run=0:betaNaN,what,digits7",
        "run=;;a:b;3&from=elsewhere",
        "steps=-5&run=0",
        "%",
    ):
        page = open_page(address)
        assert numbers(page) == at_first and page.inner_text("#step-text") == "step 0", address
    page = open_page("run=5:beta1000;2:digits50,squares9&steps=6")  # in order, and within their bounds
    wait_for(page, 6)
    hash_is(page, "seed=1&from=trained&run=0:;2:squares1,digits50;5:beta40&steps=6")
    for word, kept in (("squares0", "squares0.1"), ("squares", "squares0.1"), ("squareslearned", "squareslearned")):
        hash_is(open_page(f"run=0:{word}"), f"seed=1&from=trained&run=0:{kept}&steps=0")


def row(step, pixels=150.0, kl=5.0, sigma=0.1, outside=0.1, training=140.0):
    cost = {"kl": kl, "square": 1.0, "code": kl}
    held, training = cost | {"pixels": pixels}, cost | {"pixels": training}
    return {"step": step, "held": held, "training": training, "sigma": sigma, "outside": outside}


# What was measured, and which of the answers is then right.
MEASURED = {
    "vae": [([row(0, 310, 3), row(300, 170, kl)], right) for kl, right in ((1.9, 0), (2.1, 1), (7.9, 1), (8.1, 2))],
    "autoencoder": [
        ([row(0), row(300, outside=o)], right) for o, right in ((0.04, 0), (0.06, 1), (0.29, 1), (0.31, 2))
    ],
    "sigma": [([row(0, sigma=0.13), row(300, sigma=s)], right) for s, right in ((0.04, 0), (0.06, 1), (0.51, 2))],
    "mu": [([row(0), row(200, sigma=s)], right) for s, right in ((0.06, 0), (0.08, 1), (0.14, 1), (0.16, 2))],
    "beta4": [([row(0, kl=6.0), row(200, kl=kl)], right) for kl, right in ((1.4, 0), (1.6, 1), (2.9, 1), (3.1, 2))],
    "beta40": [([row(0, kl=6.0), row(200, kl=kl)], right) for kl, right in ((3.1, 0), (2.9, 1), (0.6, 1), (0.4, 2))],
    "mean": [
        ([row(0), row(50, 190), row(150, 180)], 0),
        ([row(0), row(50, 190), row(150, 204)], 1),
        ([row(0), row(50, 222), row(150, 204)], 2),
    ],
    "squares": [([row(0, kl=5.0), row(200, kl=kl)], right) for kl, right in ((4.4, 0), (4.6, 1), (5.4, 1), (5.6, 2))],
    "fifty": [
        ([row(0, 300), row(200, 150, training=141)], 0),
        ([row(0, 300), row(200, 151), row(400, 160, training=100)], 1),
        ([row(0, 300), row(200, 213), row(400, 477, training=41)], 2),
    ],
    "rescue": [
        ([row(0), row(150, kl=0.1), row(step, kl=1.1), row(450)], right)
        for step, right in ((170, 0), (180, 1), (300, 1))
    ]
    + [([row(0), row(150, kl=0.1), row(310, kl=1.1), row(450)], 2), ([row(0), row(450, kl=0.2)], 2)],
}


def test_each_answer_can_be_right_and_a_sentence_says_what_was_measured(open_window):
    """Each number in it is one of those measured, or made of them; no question has an answer that is never right."""
    worker = open_script(open_window, "settings.js")
    questions = {each["id"]: each for each in worker.evaluate("() => QUESTIONS")}
    assert [*questions] == [*MEASURED]
    judge = "([id, rows]) => QUESTIONS.find(question => question.id === id).judge(rows, 205)"
    for name, cases in MEASURED.items():
        assert {right for _, right in cases} == {*range(len(questions[name]["answers"]))}, name
        for rows, right in cases:
            verdict = worker.evaluate(judge, [name, rows])
            assert verdict["right"] == right, (name, rows)
            measured = [value for each in rows for value in (each["sigma"], 100 * each["outside"], each["step"])]
            measured += [value for each in rows for part in ("held", "training") for value in each[part].values()]
            first, last = rows[0], rows[-1]
            measured += [205, 1, 784, each["step"] - 150 if (each := next(
                (r for r in rows if r["step"] > 150 and r["held"]["kl"] > 1), None)) else 0]  # fmt: skip
            measured += [100 * last["held"]["kl"] / first["held"]["kl"]]
            for said in re.findall(r"\d+\.?\d*", verdict["says"]):
                places = len(said.partition(".")[2])
                near = min(abs(float(said) - value) for value in measured)
                assert near <= 0.5 * 10**-places + 1e-9, (name, said, verdict["says"])


def test_what_the_page_itself_measures_is_what_the_rows_say(open_window):
    """Median sigma, and the share outside the circle of 99 % of the prior."""
    worker = open_script(open_window, "settings.js")
    generator = torch.Generator().manual_seed(0)
    mu, logvar = 2 * torch.randn(501, 2, generator=generator), torch.randn(501, 2, generator=generator)
    script = """([mu, logvar, noise]) => rowOf({ step: 3, settings: { noise }, heldCost: { kl: 1, square: 2 },
        trainingCost: { kl: 3, square: 4 }, mu: Float64Array.from(mu), logvar: Float64Array.from(logvar) })"""
    numbers = [mu.flatten().tolist(), logvar.flatten().tolist()]
    found, pointwise = (worker.evaluate(script, [*numbers, noise]) for noise in (True, False))
    outside = torch.distributions.Chi2(2).cdf(mu.square().sum(1)).gt(0.99).double().mean().item()
    assert found["outside"] == pytest.approx(outside)
    assert found["sigma"] == pytest.approx(logvar.div(2).exp().flatten().sort().values[501].item(), rel=1e-6)
    assert found["step"] == 3
    assert [each[part]["code"] for each in (found, pointwise) for part in ("held", "training")] == [1, 3, 2, 4]


def test_a_question_waits_for_the_guess_plays_and_marks_it(open_page):
    page = open_page("question=mean")
    assert page.is_disabled("#play") and page.inner_text("#step-text") == "step 0"
    page.click("#answers button >> nth=0")
    wait_for(page, 150)
    text, asked = page.inner_text("#verdict"), page.inner_text("#question-text")
    right, wrong = (page.inner_text(f"#answers [data-mark={mark}]") for mark in ("right", "wrong"))
    assert wrong == page.inner_text("#answers button >> nth=0") != right
    assert text.startswith(f"It was: {right}.") and page.inner_text("#live") == text
    measured = page.inner_text("#cost .pixels").split()[-1]
    assert f"at the end {float(measured):.0f};" in text
    page.click("#again")  # the same run, and the same verdict, which was not there meanwhile
    wait_for(page, 0)
    assert page.inner_text("#verdict") == "" and page.locator("#answers [data-mark]").count() == 0
    wait_for(page, 150)
    assert page.inner_text("#verdict") == text and page.inner_text("#question-text") == asked
    page.reload()
    page.wait_for_selector("#answers [data-mark=right]")
    assert page.inner_text("#verdict") == text
    page.click("#again")
    page.wait_for_function("parseInt(document.getElementById('step-text').textContent.slice(5)) >= 10")
    page.click("#beta-marks button:has-text('4') >> nth=0")  # in the middle: training goes on, past the question's end
    page.wait_for_function("document.querySelectorAll('#answers button').length === 0")
    page.wait_for_function("parseInt(document.getElementById('step-text').textContent.slice(5)) >= 170")
    page.click("#play")
    page.wait_for_function("document.getElementById('play').textContent === 'Train'")


def test_the_readers_own_digit_is_encoded_and_costs_something(open_page):
    page = open_page()
    rows = page.locator(".digit p")
    assert "draw" in rows.nth(0).inner_text()
    box = page.locator(".pad").bounding_box()
    page.mouse.move(box["x"] + 24, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + 22, box["y"] + 40, steps=5)
    page.mouse.up()
    page.wait_for_function("document.querySelector('.digit p').textContent.includes('pixels')")
    assert float(re.search(r"pixels ([\d.]+)", rows.nth(0).inner_text())[1]) < 120  # a stroke is a 1, a cheap digit
    others = rows.nth(1).inner_text()
    page.click("#other-digits")
    page.wait_for_function("text => document.querySelectorAll('.digit p')[1].innerText !== text", arg=others)
    assert page.locator(".pad").bounding_box() == box  # it has not moved under the hand
    page.click("#clear")
    page.wait_for_function("document.querySelector('.digit p').textContent.includes('draw')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("width", "height"), [(390, 844), (640, 800), (768, 1024), (900, 800), (1280, 800), (1440, 900)]
)
def test_nothing_is_cut_off_or_faint_and_all_is_on_one_screen(scheme, width, height, open_page):
    page = open_page("run=0:squares1", width=width, height=height, color_scheme=scheme)  # with all knobs
    assert page.evaluate(CUT_OFF) == [] and faint(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width >= 1280:
        bottoms = page.locator("main > :not(details)").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().bottom)"
        )
        assert max(bottoms) <= height
    if width < 900:  # the buttons are in reach wherever the reader is
        page.evaluate("scrollTo(0, 500)")
        assert page.locator("#play").bounding_box()["y"] > height - 110


def test_all_but_the_pad_works_from_the_keyboard_and_has_a_name(open_page):
    page = open_page()
    names = page.locator("button, input, canvas").evaluate_all(
        "all => all.filter(e => e.checkVisibility() && !(e.getAttribute('aria-label') || e.textContent.trim() || "
        "e.labels?.[0]?.textContent.trim())).map(e => e.outerHTML)"
    )
    assert names == []
    page.focus("#beta")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash.includes('beta1.')")
    page.keyboard.press("Home")
    page.wait_for_function("location.hash.includes('beta0&')")
    assert page.get_attribute("#beta", "aria-valuetext") == "0"
    page.focus("#play")
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('play').textContent === 'Pause'")
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('play').textContent === 'Train'")


def test_without_javascript_a_sentence_says_why_nothing_moves(open_window):
    page = open_window(BUILT.as_uri(), java_script_enabled=False)
    assert "needs JavaScript" in page.inner_text("noscript")


@pytest.mark.parametrize("sandbox", ["", ' sandbox="allow-scripts"'], ids=["plain", "sandboxed"])
def test_it_trains_in_a_notebook_that_is_shown_without_it(sandbox, shown, tmp_path, open_window):
    """Embedded, in a frame within a frame: it has no address there, and its worker no file."""
    show_explorer(BUILT, embed=True)
    outer = tmp_path / "outer.html"
    outer.write_text(f'<iframe{sandbox} width="1200" height="1000" srcdoc="{escape(shown[0]["text/html"])}"></iframe>')
    page = open_window(outer.as_uri(), 1280, 1100)
    frame = page.frame_locator("iframe").frame_locator("iframe")
    frame.locator("#one-step").click()
    frame.locator("#step-text", has_text="step 1").wait_for()
    assert frame.locator("#cost b").count() == 2
