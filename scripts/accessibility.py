"""Accessibility check of the HTML pages in Chromium: on a phone and a desk, light and dark, by keyboard.

    python scripts/accessibility.py --axe .browser/node_modules/axe-core/axe.min.js report.html trace.html

Asserts that at 360 pixels nothing scrolls sideways and no column is cut, the keyboard reaches tables and what opens,
and, with axe-core's file, that axe reports no violation. Exit code 1 lists the problems. ``--out`` stores images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = {"phone": (360, 740), "desk": (1280, 900)}
SCHEMES = ("light", "dark")
_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
_CUT = """() => [...document.querySelectorAll('main *')].filter(e => !e.closest('.wide') && !e.closest('svg')
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
_SCROLLED = """() => window.innerWidth > 500 ? [] : [...document.querySelectorAll('.wide')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.getAttribute('aria-label'))"""
_STOPS = "() => document.querySelectorAll('summary, .wide').length"
_LINKS = "() => document.querySelectorAll('a[href], button, input, select, textarea').length"
_AT = "() => document.activeElement.matches('summary, .wide') ? 1 : 0"
_SMALL = """() => [...document.querySelectorAll('main *')].filter(e => e.childNodes.length && !e.closest('svg')
    && parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.outerHTML.slice(0, 80))"""
_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def problems(page: Any, address: str, axe: str | None) -> Iterator[str]:
    """Yield the problems of the page as it is shown now."""
    if (beyond := page.evaluate(_WIDE)) > 0:
        yield f"{address}: the page scrolls sideways by {beyond} pixels"
    for cut in page.evaluate(_CUT):
        yield f"{address}: cut off at the right: {cut}"
    for box in page.evaluate(_SCROLLED):
        yield f"{address}: columns of the table {box!r} are cut off"
    for small in page.evaluate(_SMALL):
        yield f"{address}: too small to read: {small}"
    stops, reached = page.evaluate(_STOPS), 0
    page.locator("body").focus()
    for _ in range(stops * 2 + 5 + page.evaluate(_LINKS)):
        page.keyboard.press("Tab")
        reached += page.evaluate(_AT)
        if reached == stops:
            break
    if reached < stops:
        yield f"{address}: the keyboard reaches {reached} of {stops} stops"
    if axe is not None:
        page.evaluate(axe)
        report = page.evaluate("options => axe.run(document, options)", _RULES)
        for violation in report["violations"]:
            nodes = "; ".join(node["html"][:100] for node in violation["nodes"][:3])
            yield f"{address}: axe: {violation['id']} ({violation['impact']}): {violation['help']}: {nodes}"


def look(files: list[Path], axe: str | None, chromium: str, out: Path | None) -> list[str]:
    """Return the problems of all pages in all sizes and schemes."""
    from playwright.sync_api import sync_playwright

    result: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for file in files:
            for size, (width, height) in SIZES.items():
                for scheme in SCHEMES:
                    page = browser.new_page(
                        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
                    )
                    page.goto(file.resolve().as_uri())
                    closed = page.locator("details:not([open]) > summary")
                    for _ in range(min(3, closed.count())):
                        closed.first.click()  # which opens it: the next one is then the first that is closed
                    result += problems(page, f"{file.name} on a {size}, {scheme}", axe)
                    if out is not None:
                        out.mkdir(parents=True, exist_ok=True)
                        page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
                        page.screenshot(path=out / f"{file.stem}-{size}-{scheme}.png")
                    page.close()
        browser.close()
    return result


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axe", type=Path, help="axe-core's axe.min.js; without it, only our own assertions")
    parser.add_argument("--out", type=Path, help="a folder for pictures")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("pages", nargs="+", type=Path)
    arguments = parser.parse_args()
    axe = arguments.axe.read_text() if arguments.axe else None
    result = look(arguments.pages, axe, arguments.chromium, arguments.out)
    for problem in result:
        sys.stderr.write(f"{problem}\n")
    sys.exit(1 if result else 0)


if __name__ == "__main__":
    main()
