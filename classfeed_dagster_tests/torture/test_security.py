"""Rules of security that every change must keep; quick, so part of the ordinary tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from classfeed_dagster_tests.torture import security


def test_package_neither_unpickles_nor_evaluates() -> None:
    assert security.pickles() == []


def test_values_reach_bigsite_as_bound_parameters_only() -> None:
    matches = [place for place in security.values_in_sql() if place[0] not in security.REVIEWED]
    assert matches == [], "bind the value; or, if it is a constant of the file, have the file reviewed and listed"


def test_reviewed_file_still_needs_its_review() -> None:
    assert {place[0] for place in security.values_in_sql()} == set(security.REVIEWED)


def test_portfolio_number_never_leaves_the_root(tmp_path: Path) -> None:
    tried, broken = security.escapes(tmp_path, 300)
    assert tried > 300
    assert broken == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from marshal import loads",
        "eval(x)",
        "yaml.load(x)",
        "yaml.load(x, yaml.Loader)",
        "db.execute('SELECT %s' % x)",
        "db.execute('SELECT ' + x)",
        "sa.text('SELECT {}'.format(x))",
        "f'SELECT {x}'",
        "f'\\n  DELETE FROM t WHERE a = {x.y}'",
    ],
)
def test_security_rules_report_a_planted_fault(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "sources", lambda: iter([("bigsite/x.py", ast.parse(text))]))
    assert security.pickles() or security.values_in_sql()


@pytest.mark.parametrize("text", ["yaml.load(x, yaml.CSafeLoader)", "f'SELECT {_COLUMNS} FROM t WHERE a = :a'"])
def test_security_rules_accept_safe_code(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "sources", lambda: iter([("bigsite/x.py", ast.parse(text))]))
    assert not security.pickles()
    assert not security.values_in_sql()
