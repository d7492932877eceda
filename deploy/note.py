"""A note about a release to Slack: what, where, which image, how long it took, who set it going, and what changes.

The webhook's address comes as JSON on standard input and is printed nowhere; everything else from the environment.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping

LIMIT = 3000  # characters that Slack shows of a message


def text(environ: Mapping[str, str]) -> str:
    """Return the message, escaped so that a commit's text cannot become a mention or a link."""
    escaped = " ".join(part for part in (environ["WHAT"], environ.get("TOOK", "")) if part)
    lines = [f"classfeed {environ['ENVIRONMENT']}: {escaped}", environ["DIGEST"]]
    if environ.get("BY"):
        lines.append(f"by {environ['BY']}")
    lines.append(environ.get("CHANGES", "") or "- nothing new")
    return "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")[:LIMIT]


def main() -> None:
    """Send it."""
    body = json.dumps({"text": text(os.environ)}).encode()
    request = urllib.request.Request(json.load(sys.stdin)["url"], body, {"Content-Type": "application/json"})  # noqa: S310
    urllib.request.urlopen(request, timeout=10)  # noqa: S310 - the address is a secret of ours


if __name__ == "__main__":
    main()
