"""Writes the parts of the docs that come from code, between their markers: settings, manifest fields, rules, promises.

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
from classfeed_dagster.domains.rules import LEDGER_RULES, RULES, RuleSeverity
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.settings import Settings
from classfeed_dagster_tests.features.promises import matrix

ROOT = Path(__file__).parent.parent


def settings() -> Iterator[str]:
    """The README's table of settings."""
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        value = field.get_default(call_default_factory=True)
        default = "–" if value is None else f"`{value}`"
        yield f"| `CLASSFEED_{name.upper()}` | {default} | {field.description} |"


def commands() -> Iterator[str]:
    """The README's table of commands, from their own help."""
    yield "| | |"
    yield "|---|---|"
    groups: list[tuple[str, Any]] = [("classfeed", typer.main.get_command(cli.app))]
    while groups:
        path, group = groups.pop(0)
        for name, command in group.commands.items():
            if command.hidden:
                continue
            if hasattr(command, "commands"):
                groups.append((f"{path} {name}", command))
                continue
            words = [one.name.upper() for one in command.params if one.param_type_name == "argument"]
            summary = " ".join((command.help or "").split("\n\n")[0].split())
            yield f"| `{' '.join([path, name, *words])}` | {summary} |"


def exit_codes() -> Iterator[str]:
    """Yield the table of exit codes."""
    yield "| exit code | meaning |"
    yield "|---|---|"
    for code in ExitCode:
        yield f"| {code.value} | {code.meaning} |"


def rules() -> Iterator[str]:
    """One section a data rule, headed by the check's name."""
    for rule in RULES:
        held = "holds the portfolio back" if rule.severity is RuleSeverity.QUARANTINE else "warns only"
        yield f"### {rule.name.replace('_', '-')}"
        yield ""
        yield f"*{rule.title}* ({rule.domain}, {held})"
        yield ""
        yield rule.description
        yield ""
    for against in LEDGER_RULES:
        yield f"### {against.name.replace('_', '-')}"
        yield ""
        yield f"*{against.title}* (each feed against what it sent, holds the portfolio back)"
        yield ""
        yield against.description
        yield ""


def fields() -> Iterator[str]:
    """One table a record of the manifest."""
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
    ("README.md", "settings"): settings,
    ("README.md", "commands"): commands,
    ("README.md", "exit-codes"): exit_codes,
    ("docs/runbook.md", "rules"): rules,
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
