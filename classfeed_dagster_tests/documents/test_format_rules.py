"""Format rules: the names that formats report are the declared ones, and every one has a section in the runbook."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from classfeed_dagster.documents import epi_value_checks
from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.format_rules import EPI_RULES, UndeclaredRuleError, format_rule, rules_of
from classfeed_dagster.domains.rules import LEDGER_RULES, RULES
from classfeed_dagster.feed_run.exclusion import DELIVERED_ELSEWHERE
from classfeed_dagster.feeds import FEEDS

RUNBOOK = (Path(__file__).parent.parent.parent / "docs" / "runbook.md").read_text()


def test_format_rules_are_those_that_the_epi_format_reports() -> None:
    source = inspect.getsource(epi_value_checks)
    reported = set(re.findall(r"_ValueProblem\(\s*\"(\w+)\"", source)) | set(
        re.findall(r"_findings\([^\"]*?, \"(\w+)\"", source)
    )
    assert {rule.name for rule in EPI_RULES} == reported


def test_format_rules_cover_every_csv_layout() -> None:
    formats = [feed.format for feed in FEEDS if isinstance(feed.format, CsvFormat)]
    assert formats
    for layout, declared in ((item.layout, {rule.name for rule in item.rules}) for item in formats):
        assert {f"{layout.name}_currency", f"{layout.name}_incomplete"} <= declared
        assert (f"{layout.name}_no_balance" in declared) is bool(layout.balances)


def test_format_rule_that_is_not_declared_is_refused() -> None:
    with pytest.raises(UndeclaredRuleError, match="No format rule is called 'odd'"):
        format_rule("odd")


def test_rule_that_holds_back_has_a_runbook_section() -> None:
    headings = set(re.findall(r"^### (.+)$", RUNBOOK, re.MULTILINE))
    rules = (
        [rule.name for rule in RULES]
        + [rule.name for rule in LEDGER_RULES]
        + [rule.name for rule in rules_of(feed.format.rules for feed in FEEDS)]
    )
    names = [*rules, DELIVERED_ELSEWHERE]
    assert len(names) == len(set(names))
    assert {name.replace("_", "-") for name in names} <= headings


def test_runbook_lists_its_chapters() -> None:
    chapters = re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE)
    listed = re.findall(r"^- \[(.+?)\]\(#", RUNBOOK.partition("\n## ")[0], re.MULTILINE)
    assert listed == chapters
