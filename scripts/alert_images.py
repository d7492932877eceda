"""Renderer of docs/images/alert-*.png: messages as Slack shows them, from the blocks that are sent to Slack.

    .venv/bin/python scripts/alert_images.py

Needs a browser as scripts/screenshots.py does (``make browser`` sets one up). Only the appearance is imitated here; the
text comes from the product, derived from the example facts of the tests' ``sample_incidents``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import html
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from classfeed_dagster.alerting.incidents import Incident, Thread  # noqa: E402
from classfeed_dagster.alerting.slack import SlackMessenger, blocks  # noqa: E402
from classfeed_dagster_tests.fixtures.sample_incidents import LINKS, picture_name, samples  # noqa: E402

# Drawn, since the machine that takes the pictures may have no font for them.
_LAMP = '<rect x="3" y="12" width="12" height="4" fill="#777"/><path d="M5 12V9a4 4 0 0 1 8 0v3z" fill="#d62839"/>'
_RAYS = '<path d="M9 1v2M2 5l2 1M16 5l-2 1" stroke="#d62839" stroke-width="1.6"/>'
_TRIANGLE = '<path d="M9 2l8 14H1z" fill="#f4b400"/><path d="M9 7v4M9 12.6v1.8" stroke="#222" stroke-width="1.8"/>'
_TICK = '<rect x="1" y="1" width="16" height="16" rx="3" fill="#2eb67d"/><path d="M4 9l4 4 6-8" '
_SIGNS = {
    ":rotating_light:": _LAMP + _RAYS,
    ":warning:": _TRIANGLE,
    ":white_check_mark:": f'{_TICK}stroke="#fff" stroke-width="2.2" fill="none"/>',
}
_STYLE = """
body { margin: 0; background: #fff; font: 15px/1.46 Lato, "Liberation Sans", Arial, sans-serif; color: #1d1c1d; }
#shot { width: 700px; padding: 14px 20px; }
.channel { font-weight: 900; font-size: 16px; border-bottom: 1px solid #ddd; padding-bottom: 8px; margin-bottom: 10px; }
.message { display: flex; gap: 10px; }
.face { flex: none; width: 36px; height: 36px; border-radius: 6px; background: #12355b; color: #fff; text-align: center;
  font-weight: 900; line-height: 36px; }
.who { font-weight: 900; } .app { background: #e8e8e8; color: #616061; font-size: 10px; padding: 1px 3px;
  border-radius: 2px; margin: 0 6px; vertical-align: 1px; } .when, .context { color: #616061; font-size: 13px; }
.section { margin: 4px 0 8px; } .fields { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 24px; }
a { color: #1264a3; text-decoration: none; } .sign { vertical-align: -3px; }
.thread { color: #1264a3; font-weight: 700; font-size: 13px; margin: 6px 0; }
.reply { border-left: 3px solid #ddd; margin: 8px 0 0 12px; padding-left: 14px; } s { color: #616061; }
.edited { color: #616061; font-size: 12px; }
"""
_TAKE = """
import sys
from pathlib import Path
from playwright.sync_api import sync_playwright
folder, out, chromium = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 760, "height": 600}, device_scale_factor=1.5)
    for one in sorted(folder.glob("*.html")):
        page.goto(one.as_uri())
        page.locator("#shot").screenshot(path=out / f"{one.stem}.png")
    browser.close()
"""


def mrkdwn(text: str) -> str:
    """Return Slack's markup as HTML. What was escaped for Slack stays escaped."""
    text = re.sub(r"&lt;([^|]+?)\|(.+?)&gt;", r'<a href="\1">\2</a>', html.escape(html.unescape(text), quote=False))
    text = re.sub(r"\*([^*\n]+)\*", r"<b>\1</b>", text)
    text = re.sub(r"~([^~\n]+)~", r"<s>\1</s>", text)
    for name, svg in _SIGNS.items():
        text = text.replace(name, f'<svg class="sign" width="18" height="18">{svg}</svg>')
    return text.replace("\n", "<br>")


def block(block_: dict[str, Any]) -> str:
    """Render one block of Block Kit."""
    if block_["type"] == "context":
        return f'<div class="context">{" ".join(mrkdwn(element["text"]) for element in block_["elements"])}</div>'
    if "fields" in block_:
        cells = "".join(f"<div>{mrkdwn(cell['text'])}</div>" for cell in block_["fields"])
        return f'<div class="section fields">{cells}</div>'
    return f'<div class="section">{mrkdwn(block_["text"]["text"])}</div>'


def message(body: str, at: str) -> str:
    """Render a message of classfeed, as the channel shows it."""
    head = f'<span class="who">classfeed</span><span class="app">APP</span><span class="when">{at}</span>'
    return f'<div class="message"><div class="face">cf</div><div>{head}{body}</div></div>'


def page(body: str) -> str:
    """Render a channel with one message."""
    return (
        f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style><div id="shot">'
        f'<div class="channel"># classfeed</div>{body}</div>'
    )


PAST_DEADLINE = "9:02 AM"


class _RecordingClient:
    # Replaces Slack's client and records its calls.
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def chat_postMessage(self, **call: Any) -> dict[str, Any]:  # noqa: N802 - Slack's own name
        self.calls.append(call)
        return {"channel": call["channel"], "ts": "1"}

    def chat_update(self, **call: Any) -> None:
        self.calls.append(call)


def recovered(incident: Incident) -> str:
    """Render a resolved incident's message, with the reply in its thread, as the product sends them."""
    client = _RecordingClient()
    messenger = SlackMessenger(client, "#classfeed", LINKS)  # type: ignore[arg-type]  # has the called methods only
    messenger.recovered(Thread(channel="#classfeed", ts="1"), incident, dt.timedelta(minutes=129))
    update, reply = client.calls
    body = (
        "".join(map(block, update["blocks"])) + '<span class="edited">(edited)</span><div class="thread">1 reply</div>'
    )
    answer = message(f'<div class="section">{mrkdwn(reply["text"])}</div>', "11:11 AM")
    return message(f'{body}<div class="reply">{answer}</div>', PAST_DEADLINE)


def pages() -> Iterator[tuple[str, str]]:
    """Yield each image's name and HTML."""
    for title, incident in samples().items():
        told_at = PAST_DEADLINE if title.startswith("Late") else "7:02 AM"
        yield f"alert-{picture_name(title)}", page(message("".join(map(block, blocks(incident, LINKS))), told_at))
    yield "alert-recovered", page(recovered(next(iter(samples().values()))))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--playwright", default=str(ROOT / ".browser" / "bin" / "python"))
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in pages():
            Path(folder, f"{name}.html").write_text(text, encoding="utf-8")
        command = [arguments.playwright, "-c", _TAKE, folder, str(arguments.out), arguments.chromium]
        subprocess.run(command, check=True)  # noqa: S603 - our own program in the browser's environment


if __name__ == "__main__":
    main()
