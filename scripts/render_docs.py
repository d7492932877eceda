"""Generator of the docs' parts that come from code: settings, commands, manifest fields, rules, promises.

``make docs`` runs it; a test fails while a page is not what it would write.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from classfeed_dagster.cli import app as cli
from classfeed_dagster.delivery import manifest
from classfeed_dagster.documents.format_rules import rules_of
from classfeed_dagster.domains.rules import LEDGER_RULES, RULES, RuleSeverity
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.settings import Settings
from classfeed_dagster_tests.features.promises import matrix

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"  # recorded output of commands, one file per command


def settings() -> Iterator[str]:
    """Yield the table of settings."""
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        value = field.get_default(call_default_factory=True)
        default = "–" if value is None else f"`{value}`"
        yield f"| `CLASSFEED_{name.upper()}` | {default} | {field.description} |"


def commands() -> Iterator[str]:
    """Yield one section per command: its help, its options, and the recorded example with its output."""
    groups: list[tuple[str, Any]] = [("classfeed", typer.main.get_command(cli.app))]
    while groups:
        path, group = groups.pop(0)
        for name, command in group.commands.items():
            if command.hidden:
                continue
            if hasattr(command, "commands"):
                groups.append((f"{path} {name}", command))
            elif not command.hidden:
                yield from _command(f"{path} {name}", command)


def _command(path: str, command: Any) -> Iterator[str]:
    arguments = [entry.name.upper() for entry in command.params if entry.param_type_name == "argument"]
    yield f"### {path}"
    yield ""
    yield f"`{' '.join([path, *arguments])}`"
    yield ""
    yield "\n".join(line.strip() for line in (command.help or "").strip().splitlines())
    yield ""
    options = [entry for entry in command.params if entry.param_type_name == "option" and not entry.hidden]
    if options:
        yield "| option | meaning |"
        yield "|---|---|"
        for entry in options:
            text = " ".join((getattr(entry, "help", None) or "").split()).replace("|", "\\|")
            yield f"| `{', '.join(entry.opts)}` | {text} |"
        yield ""
    example = EXAMPLES / f"{path.removeprefix('classfeed ').replace(' ', '-')}.txt"
    if example.exists():
        yield "```"
        yield example.read_text().rstrip()
        yield "```"
        yield ""


def exit_codes() -> Iterator[str]:
    """Yield the table of exit codes."""
    yield "| exit code | meaning |"
    yield "|---|---|"
    for code in ExitCode:
        yield f"| {code.value} | {code.meaning} |"


def rules() -> Iterator[str]:
    """Yield one section per data rule, headed by the rule's name."""
    for rule in RULES:
        held = "holds the portfolio back" if rule.severity is RuleSeverity.QUARANTINE else "warns only"
        yield f"### {rule.name.replace('_', '-')}"
        yield ""
        yield f"*{rule.title}* ({rule.domain}, {held})"
        yield ""
        yield rule.description
        yield ""


def format_rules() -> Iterator[str]:
    """Yield one section per rule of a document format or of the delivered ledger, headed by the rule's name."""
    formats = [document for feed in FEEDS for document in (feed.format, *feed.renderings.values())]
    for rule in rules_of(document.rules for document in formats):
        yield f"### {rule.name.replace('_', '-')}"
        yield ""
        yield f"*{rule.title}* ({rule.document_format}, holds the portfolio back)"
        yield ""
        yield f"{rule.condition} If it fails: {rule.remedy}"
        yield ""
    for ledger_rule in LEDGER_RULES:
        yield f"### {ledger_rule.name.replace('_', '-')}"
        yield ""
        yield f"*{ledger_rule.title}* (delivered ledger, holds the portfolio back)"
        yield ""
        yield ledger_rule.description
        yield ""


def fields() -> Iterator[str]:
    """Yield one table per record of the manifest."""
    seen: list[type[Any]] = []
    waiting: list[type[Any]] = [manifest.Manifest, manifest.VoidManifest, manifest.ChainEntry]
    while waiting:
        record = waiting.pop(0)
        if record in seen:
            continue
        seen.append(record)
        waiting += [inner for field in _fields_of(record).values() for inner in _records_in(field.annotation)]
        yield f"### {record.__name__}"
        yield ""
        yield (record.__doc__ or "").strip()
        yield ""
        yield "| field | meaning |"
        yield "|---|---|"
        for name, field in _fields_of(record).items():
            inner = " ".join(f"([{one.__name__}](#{one.__name__.lower()}))" for one in _records_in(field.annotation))
            yield f"| `{name}` | {field.description or ''} {inner} |".replace("  ", " ")
        yield ""


def _fields_of(record: type[Any]) -> dict[str, FieldInfo]:
    # Of a model, or of a record with slots.
    found: dict[str, FieldInfo] = getattr(record, "model_fields", None) or record.__pydantic_fields__
    return found


def _records_in(annotation: object) -> list[type[Any]]:
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_pydantic_dataclass(annotation)):
        return [annotation]
    return [record for part in typing.get_args(annotation) for record in _records_in(part)]


PARTS = {
    ("docs/settings.md", "settings"): settings,
    ("docs/cli.md", "commands"): commands,
    ("docs/cli.md", "exit-codes"): exit_codes,
    ("docs/runbook.md", "rules"): rules,
    ("docs/runbook.md", "format-rules"): format_rules,
    ("docs/manifest.md", "fields"): fields,
    ("docs/promises.md", "promises"): matrix,
}


def rendered(page: str, text: str) -> str:
    """``text`` of ``page`` with its generated parts as they should be."""
    for (name, part), lines in PARTS.items():
        if name == page:
            body = "\n".join(lines()).strip()
            found = re.search(rf"(?<=<!-- generated: {part} -->\n).*?(?=<!-- end: {part} -->)", text, re.DOTALL)
            if found is None:
                raise SystemExit(f"{page} has no markers for {part}")
            text = f"{text[: found.start()]}\n{body}\n\n{text[found.end() :]}"
    return text


def main() -> None:
    """Rewrite the pages in place."""
    for page in sorted({page for page, _ in PARTS}):
        path = ROOT / page
        path.write_text(rendered(page, path.read_text()))
        sys.stdout.write(f"{page}\n")


if __name__ == "__main__":
    main()
