"""Write images/playground.png and images/playground.webp: the playground after training, and a model that is rescued.

    pip install -r requirements-dev.txt
    python tools/playground_pictures.py

The animation shows the question "Rescue it", with a picture of about every tenth step. It takes half a minute.
"""

import io
import re
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "explorer" / "playground.html").as_uri()
WIDTH, MILLISECONDS, LAST = 800, 180, 2500  # of the animation, of a picture, of the last one


def picture(page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def main() -> None:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
        page.goto(f"{PAGE}#question=rescue")
        page.wait_for_selector("#cost b")
        pictures, shown, step = [picture(page)], 0, 0
        page.click("#answers button >> nth=1")
        while step < 450:
            step = int(re.search(r"step (\d+)", page.inner_text("#step-text"))[1])
            if step >= shown + 10:
                pictures.append(picture(page))
                shown = step
            page.wait_for_timeout(20)
        browser.close()
    pictures[-1].quantize(256, dither=Image.Dither.NONE).save(ROOT / "images" / "playground.png", optimize=True)
    first, *others = (
        one.resize((WIDTH, WIDTH * one.height // one.width), Image.Resampling.LANCZOS) for one in pictures
    )
    times = [MILLISECONDS] * len(others) + [LAST]
    first.save(
        ROOT / "images" / "playground.webp",
        save_all=True,
        append_images=others,
        duration=times,
        loop=0,
        quality=50,
        method=6,
    )


if __name__ == "__main__":
    main()
