"""What is looked for on every page: text that is too faint to read, and what the window cuts off."""

import re

# All text that is shown, with its colour and that of what is behind it.
COLOURS = """() => {
    const behind = e => { const colour = e ? getComputedStyle(e).backgroundColor : "rgb(255, 255, 255)";
        return colour === "rgba(0, 0, 0, 0)" ? behind(e.parentElement) : colour; };
    const hasText = e => [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && hasText(e))
        .map(e => [e.outerHTML.slice(0, 99), getComputedStyle(e).color, behind(e)]); }"""
# What ends to the right of the window, and no box around it can be scrolled to show it.
CUT_OFF = """() => [...document.querySelectorAll("body *:not(svg *)")].filter(e => {
    if (e.getBoundingClientRect().right <= innerWidth + 1) return false;
    do e = e.parentElement; while (e && getComputedStyle(e).overflowX === "visible");
    return !e || getComputedStyle(e).overflowX === "hidden";
}).map(e => e.outerHTML.slice(0, 99))"""


def contrast(*colours):
    """Of two colours written rgb(r, g, b), as WCAG 2 defines it: from 1 to 21."""

    def luminance(colour):
        shares = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted(map(luminance, colours))
    return (lighter + 0.05) / (darker + 0.05)


def faint(page):
    """Text whose contrast to what is behind it is below the 4.5 to 1 that WCAG asks for."""
    texts = page.evaluate(COLOURS)
    assert texts
    return [element for element, *colours in texts if contrast(*colours) < 4.5]
