"""Generator of the docs' parts that come from code: settings, commands, checks, rules, promises.

``make docs`` runs it; a test fails while a page is not what it would write.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import typer
from open_data_contract_standard.model import OpenDataContractStandard

from classfeed_dagster.cli import app as cli
from classfeed_dagster.documents.format_rules import FormatRule, rules_of
from classfeed_dagster.domains.rules import LEDGER_RULES, RULES, LedgerRule, RuleSeverity
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.outgoing_contract import contract_of, recipient_page, require_version, to_yaml
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.metrics import NUMBERS
from classfeed_dagster.service_levels.owner_months import OwnerFigure
from classfeed_dagster.service_levels.owner_page import target_text
from classfeed_dagster.settings import Settings, variable
from classfeed_dagster_tests.features.promises import matrix
from deploy.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
MANIFEST_SCHEMA = "docs/manifest.schema.json"
EXAMPLES = ROOT / "docs" / "examples"  # recorded output of commands, one file per command


def settings() -> Iterator[str]:
    """Yield the list of settings, each with its default."""
    for name, field in Settings.model_fields.items():
        value = field.get_default(call_default_factory=True)
        default = "" if value is None else f" (`{value}`)"
        yield f"- `{variable(name)}`{default}: {field.description}"


def commands() -> Iterator[str]:
    """Yield one section per command: its help, and the recorded example with its output."""
    for path, command in _commands():
        arguments = [entry.name.upper() for entry in command.params if entry.param_type_name == "argument"]
        yield f"### {' '.join([path, *arguments])}"
        yield ""
        yield "\n".join(line.strip() for line in (command.help or "").strip().splitlines())
        yield ""
        yield from _example(path)


def _commands() -> Iterator[tuple[str, Any]]:
    groups: list[tuple[str, Any]] = [("classfeed", typer.main.get_command(cli.app))]
    while groups:
        path, group = groups.pop(0)
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                groups.append((f"{path} {name}", command))
            elif not command.hidden:
                yield f"{path} {name}", command


def _example(path: str) -> Iterator[str]:
    # The recorded output, or the page that shows the command with its output.
    name = path.removeprefix("classfeed ").replace(" ", "-")
    example = EXAMPLES / f"{name}.txt"
    output = example.read_text().rstrip() if example.exists() else f"make {name}"
    if f"$ {path} " in (readme := (ROOT / "README.md").read_text()) or output in readme:
        yield "Output: [README](../README.md#everyday-tasks)."
        yield ""
    elif example.exists():
        yield f"```\n{output}\n```"
        yield ""
    elif pages := [page for page in _PAGES if f"$ {path}" in (ROOT / "docs" / page).read_text()]:
        yield f"Output: [{pages[0].removesuffix('.md')}]({pages[0]})."
        yield ""


_PAGES = ("cutover.md", "runbook.md", "deployment.md", "owner.md", "schema-drift.md")  # with commands and their output


def exit_codes() -> Iterator[str]:
    """Yield the table of exit codes."""
    yield "| exit code | meaning |"
    yield "|---|---|"
    for code in ExitCode:
        yield f"| {code.value} | {code.meaning} |"


def outcomes() -> Iterator[str]:
    """Yield one section per outcome of a run, headed by the outcome."""
    for outcome in Outcome:
        yield f"### {outcome.replace(' ', '-')}"
        yield ""
        yield f"{outcome.guide} Exit code {outcome.exit_code.value}."
        yield ""


def checks() -> Iterator[str]:
    """Yield one section per asset check that is no rule, headed by the check's name."""
    graph = build_definitions(Runtime(Settings())).resolve_asset_graph()
    rules = {rule.name for rule in RULES} | {rule.name for rule in LEDGER_RULES}
    nodes = {key.name: graph.get(key) for key in sorted(graph.asset_check_keys, reverse=True) if key.name not in rules}
    for name in sorted(nodes):
        description = (nodes[name].description or "").partition("\n\nRunbook: ")[0].rstrip()
        yield f"### {name.replace('_', '-')}"
        yield ""
        yield f"{'*Blocking.* ' if nodes[name].blocking else ''}{description}"
        yield ""


def service_levels() -> Iterator[str]:
    """Yield the table of service levels."""
    yield "| alarm | objective | metric |"
    yield "|---|---|---|"
    for level in OBJECTIVES:
        yield f"| [{level.name}](runbook.md#{level.name}) | {level.objective} | `{level.metric}` > {level.above} |"


def owner_numbers() -> Iterator[str]:
    """Yield the table of the owner's numbers."""
    yield "| number | target | meaning |"
    yield "|---|---|---|"
    for number in NUMBERS.values():
        figure = OwnerFigure(metric=number.metric, value=Decimal(0), target=number.target, observations=0)
        yield f"| {number.title} | {target_text(figure)} | {number.about} |"


def rules() -> Iterator[str]:
    """Yield one section per data rule, headed by the rule's name."""
    warnings = {RuleSeverity.QUARANTINE: "", RuleSeverity.WARNING: "*Warning.* "}
    yield from _rules(
        (rule.name, rule.title, f"{warnings[rule.severity]}{rule.condition}", rule.remedy) for rule in RULES
    )


def format_rules() -> Iterator[str]:
    """Yield one section per rule of a document format or of the delivered ledger, headed by the rule's name."""
    formats = [document for feed in FEEDS for document in (feed.format, *feed.renderings.values())]
    declared: list[FormatRule | LedgerRule] = [*rules_of(document.rules for document in formats), *LEDGER_RULES]
    yield from _rules((rule.name, rule.title, rule.condition, rule.remedy) for rule in declared)


def _rules(declared: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    first: dict[tuple[str, str], str] = {}
    for name, title, condition, remedy in sorted(declared):
        heading = name.replace("_", "-")
        same = first.setdefault((condition, remedy), heading) if condition else heading
        yield f"### {heading}"
        yield ""
        action = " ".join(f"{condition} {remedy[0].upper()}{remedy[1:]}".split())
        text = action if same == heading else f"See [{same}](#{same})."
        yield f"**{title}.** {text}"
        yield ""


PARTS = {
    ("docs/settings.md", "settings"): settings,
    ("docs/cli.md", "commands"): commands,
    ("docs/cli.md", "exit-codes"): exit_codes,
    ("docs/deployment.md", "service-levels"): service_levels,
    ("docs/owner.md", "owner-numbers"): owner_numbers,
    ("docs/runbook.md", "outcomes"): outcomes,
    ("docs/runbook.md", "checks"): checks,
    ("docs/runbook.md", "rules"): rules,
    ("docs/runbook.md", "format-rules"): format_rules,
    ("docs/promises.md", "promises"): matrix,
}


def rendered(page: str, text: str) -> str:
    """Return ``text`` of ``page`` with its generated parts up to date."""
    for (name, part), lines in PARTS.items():
        if name == page:
            body = "\n".join(lines()).strip()
            match = re.search(rf"(?<=<!-- generated: {part} -->\n).*?(?=<!-- end: {part} -->)", text, re.DOTALL)
            if match is None:
                raise SystemExit(f"{page} has no markers for {part}")
            text = f"{text[: match.start()]}\n{body}\n\n{text[match.end() :]}"
    return text


def manifest_schema() -> str:
    """Return the content of docs/manifest.schema.json."""
    from classfeed_dagster.delivery.manifest import json_schema

    return json.dumps(json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def contracts() -> dict[Path, str]:
    """Return each feed's contract and page by file; ContractVersionError if one changed without its version."""
    texts: dict[Path, str] = {}
    for feed in FEEDS:
        contract = contract_of(feed)
        file = ROOT / "docs" / "feeds" / f"{feed.name}.odcs.yaml"
        if file.exists():
            require_version(OpenDataContractStandard.from_string(file.read_text()), contract)
        texts[file] = to_yaml(contract)
        texts[file.with_name(f"{feed.name}.md")] = "\n".join(recipient_page(contract)) + "\n"
    return texts


def main() -> None:
    """Rewrite the pages in place."""
    (ROOT / MANIFEST_SCHEMA).write_text(manifest_schema())
    for page in sorted({page for page, _ in PARTS}):
        path = ROOT / page
        path.write_text(rendered(page, path.read_text()))
        sys.stdout.write(f"{page}\n")
    for path, text in contracts().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
