"""Browser check of the Dagster UI for people on call and analysts, which also takes the images of docs/images.

Needs Chromium (Debian: ``apt-get install chromium``) and ``pip install playwright`` in a separate environment: neither
is a dependency. With a running UI (``classfeed demo``, then ``classfeed up``):

    python scripts/screenshots.py --url http://127.0.0.1:3000 --out docs/images

Every look asserts before it takes its image; exit code 1 names the failed looks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOCATION = "/locations/__repository__@classfeed"
LOOKS: dict[str, Callable[[Any, str], None]] = {}
_SECOND = 1000


def look(function: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    """Register a look by its name, which is also its image's name."""
    LOOKS[function.__name__] = function
    return function


def _see(page: Any, *texts: str) -> None:
    for text in texts:
        page.get_by_text(text).first.wait_for(timeout=45 * _SECOND)


def _show_markdown(page: Any, name: str) -> None:
    row = page.locator("tr").filter(has=page.get_by_text(name, exact=True))
    row.get_by_text("[Show Markdown]").first.click()


@look
def graph(page: Any, url: str) -> None:
    """Check the asset graph, group by group: from top to bottom, which is large enough to read."""
    page.set_viewport_size({"width": 1100, "height": 760})
    page.add_init_script(
        """localStorage.setItem("dagster-nav-collapsed", "true");
        localStorage.setItem("asset-graph-direction", '"vertical"')"""
    )
    page.goto(f"{url}/asset-groups")
    _see(page, "bigsite", "landing", "domains", "class_super")
    page.get_by_placeholder("Jump to").locator("xpath=following::button[1]").click()  # hides the list of groups
    page.wait_for_timeout(6 * _SECOND)


@look
def lineage(page: Any, url: str) -> None:
    """Check the lineage of the delivery."""
    page.goto(f"{url}/assets/class_super/document?view=lineage&lineageScope=upstream")
    _see(page, "document", "quarantine", "account_balances")
    page.wait_for_timeout(10 * _SECOND)


@look
def columns(page: Any, url: str) -> None:
    """Check a domain's columns: type, meaning, source columns in bigsite, personal data."""
    page.goto(f"{url}/assets/class/movement_transactions")
    _see(page, "Columns")
    page.get_by_placeholder("Filter columns").fill("amount")  # the list draws only what is in view
    _see(page, "cash_transaction.amount", "bigsite: trade.net_amount")
    page.get_by_placeholder("Filter columns").scroll_into_view_if_needed()


@look
def preview(page: Any, url: str) -> None:
    """Check one date's figures, charts and masked rows."""
    page.goto(f"{url}/assets/class/investment_holdings?view=events")
    _see(page, "dagster/row_count")
    _show_markdown(page, "preview")
    _see(page, "•••")
    page.keyboard.press("Escape")
    page.wait_for_timeout(_SECOND)
    _show_markdown(page, "market_value_AUD_by_type")
    page.locator("img[src^='data:image/svg']").first.wait_for(timeout=30 * _SECOND)
    page.wait_for_timeout(_SECOND)


@look
def check(page: Any, url: str) -> None:
    """Check a failed check: business date, affected portfolios, problem, remedy."""
    page.goto(f"{url}/assets/class/investment_holdings?view=checks&checkDetail=units_ledger")
    _see(page, "units_ledger", "docs/runbook.md#units-ledger")
    page.get_by_text("Execution history").first.click()
    _see(page, "Failed")
    page.wait_for_timeout(2 * _SECOND)
    page.locator("tr", has_text="Failed").first.get_by_text("Show metadata").or_(
        page.locator("tr", has_text="Failed").first.get_by_role("button").first
    ).first.click(timeout=5 * _SECOND)
    page.get_by_text("[Show Markdown]").first.click()
    _see(page, "problem")
    page.wait_for_timeout(_SECOND)


def _choose(page: Any, url: str, partitions: str) -> None:
    """Open the job's own dialogue, with a date or a range of dates."""
    page.goto(f"{url}{LOCATION}/jobs/class_super_job")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Show all partitions").click()
    box = page.locator("[role=dialog] input[type=text], input[placeholder*='artition']").first
    box.fill(partitions)
    box.press("Enter")


def _ended(page: Any, text: str, minutes: int = 8) -> None:
    page.get_by_text(text, exact=True).first.wait_for(timeout=minutes * 60 * _SECOND)


@look
def rerun(page: Any, url: str) -> None:
    """Re-run one date by hand: it succeeds and delivers nothing twice."""
    _choose(page, url, "2023-01-04")
    _see(page, "1 partition")
    page.get_by_role("button", name="Launch 1 run").click()
    page.wait_for_timeout(3 * _SECOND)
    page.goto(f"{url}/runs")
    page.locator("a[href^='/runs/']").first.click()
    _ended(page, "Success")
    page.reload()  # the page of a running run may stop before its last events
    _ended(page, "Success")
    page.wait_for_timeout(6 * _SECOND)


@look
def backfill(page: Any, url: str) -> None:
    """Check the preview of a range of dates, one run a date."""
    _choose(page, url, "[2023-01-03...2023-01-04]")
    _see(page, "2 partitions", "Launch backfill")


@look
def backfilled(page: Any, url: str) -> None:
    """Launch the same range: its page has each date's run."""
    _choose(page, url, "[2023-01-03...2023-01-04]")
    page.get_by_role("button", name="Launch backfill").click()
    page.wait_for_timeout(3 * _SECOND)
    page.goto(f"{url}/runs?view=backfills")
    page.locator("a[href*='/runs/b/']").first.click()
    _ended(page, "100% completed")
    page.get_by_text("Succeeded", exact=True).nth(1).wait_for(timeout=90 * _SECOND)  # its status and a column
    page.wait_for_timeout(2 * _SECOND)


@look
def sensors(page: Any, url: str) -> None:
    """Check the list of schedules and sensors, with their latest ticks."""
    page.goto(f"{url}/automation")
    _see(page, "repair", "class_super_morning")
    page.wait_for_timeout(15 * _SECOND)


@look
def history(page: Any, url: str) -> None:
    """Turn a sensor on: the history of its ticks, each with its action or skip reason."""
    page.goto(f"{url}{LOCATION}/sensors/class_super_reconciliation_sensor")
    _see(page, "class_super_reconciliation_sensor")
    switch = page.locator("tr", has_text="Running").locator("input[type=checkbox]").first
    switch.wait_for(state="attached", timeout=45 * _SECOND)
    if not switch.is_checked():
        switch.dispatch_event("click")
    page.get_by_role("button", name="1hr").or_(page.get_by_text("1hr", exact=True)).first.click()
    page.locator("tr", has_text="View logs").first.wait_for(timeout=300 * _SECOND)
    _see(page, "requested")
    page.wait_for_timeout(3 * _SECOND)
    switch.dispatch_event("click")  # off again: a laptop's sensors are


def take(url: str, folder: Path, only: list[str], browser_path: str) -> list[str]:
    """Take every look (or ``only`` some); return the names of failed looks, with the reasons."""
    from playwright.sync_api import Error, sync_playwright

    failed: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, function in LOOKS.items():
            if only and name not in only:
                continue
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(90 * _SECOND)
            try:
                function(page, url)
            except Error as error:
                failed.append(f"{name}: {str(error).splitlines()[0]}")
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()
    return failed


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "images")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("looks", nargs="*", help=f"which; default: {', '.join(LOOKS)}")
    arguments = parser.parse_args()
    failed = take(arguments.url, arguments.out, arguments.looks, arguments.chromium)
    for failure in failed:
        sys.stderr.write(f"{failure}\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
