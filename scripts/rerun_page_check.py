"""Check of the support door's page in Chromium, on a phone and a desk: look, form, answer, refusal, way back.

    python scripts/rerun_page_check.py --url http://127.0.0.1:8080/rerun --header x-amzn-oidc-data=…

It sends the form twice, once with a reason that is refused. Exit code 1 lists the problems.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accessibility import SCHEMES, problems

SIZES = {"phone": (390, 844), "desk": (1440, 900)}
_STYLED = "() => getComputedStyle(document.querySelector('button')).borderRadius"


def check(page: Any, url: str, size: str, axe: str | None) -> Iterator[str]:
    """Yield the problems of the form, the refusal and the answer."""
    page.goto(url)
    yield from problems(page, f"form on a {size}", axe)
    if page.evaluate(_STYLED) == "0px":
        yield f"form on a {size}: the style is not applied"
    if page.get_by_label("Business date").locator("option").count() < 1:
        yield f"form on a {size}: no business date is offered"
    page.locator("#reason").fill("account 062-000 1234 5678 is missing")
    page.get_by_role("button", name="Run it again").click()
    yield from problems(page, f"refusal on a {size}", axe)
    if "account" not in page.get_by_role("alert").inner_text():
        yield f"refusal on a {size}: the reason of the refusal is missing"
    page.get_by_role("link", name="Back to the forms").click()
    page.locator("#reason").fill("the recipient has no file of this date")
    page.get_by_role("button", name="Run it again").click()
    yield from problems(page, f"answer on a {size}", axe)
    if not page.get_by_role("link", name="Open the run").get_attribute("href"):
        yield f"answer on a {size}: no link to the run"
    page.get_by_role("link", name="Back to the forms").click()
    if page.get_by_role("button", name="Run it again").count() != 1:
        yield f"answer on a {size}: the link back does not lead to the forms"


def main() -> None:
    """Run the command line."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", required=True, help="name=value, sent with every request")
    parser.add_argument("--axe", type=Path, help="axe-core's axe.min.js; without it, only our own assertions")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    name, _, value = arguments.header.partition("=")
    axe = arguments.axe.read_text() if arguments.axe else None
    result: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        for size, (width, height) in SIZES.items():
            for scheme in SCHEMES:
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    extra_http_headers={name: value},
                    reduced_motion="reduce",
                )
                result += check(context.new_page(), arguments.url, f"{size}, {scheme}", axe)
                context.close()
        browser.close()
    for problem in result:
        sys.stderr.write(f"{problem}\n")
    sys.exit(1 if result else 0)


if __name__ == "__main__":
    main()
