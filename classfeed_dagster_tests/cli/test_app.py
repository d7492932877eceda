"""The command line as a person uses it: one small rehearsal, then every command that looks at it."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from classfeed_dagster.cli import app as cli
from classfeed_dagster.cli import deliveries, local, operations
from classfeed_dagster.delivery.approve_removals import ConsentedFigures
from classfeed_dagster.delivery.delivery_history import date_status
from classfeed_dagster.delivery.manifest import HeldBack
from classfeed_dagster.delivery.quarantine import Quarantined
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.domains.consented_portfolios import ConsentRoll
from classfeed_dagster.errors import UsageError
from classfeed_dagster.local import snowflake_server
from classfeed_dagster.local.dagster_instance import open_instance
from classfeed_dagster.orchestration.rehearsal import Rehearsal
from classfeed_dagster.orchestration.run_date import Outcome, RunReport
from classfeed_dagster.service_levels import owner_months
from classfeed_dagster.service_levels.metrics import NUMBERS
from classfeed_dagster.service_levels.owner_months import OwnerFigure, OwnerMonth
from classfeed_dagster.settings import get_settings
from classfeed_dagster.store import open_store
from classfeed_dagster.stored_records import quarantine_key, to_json
from classfeed_dagster_tests.fixtures.databases import fresh_database
from classfeed_dagster_tests.fixtures.file_modes import open_to_others
from classfeed_dagster_tests.fixtures.warehouse import session_warehouse

Command = Callable[..., Result]
NOW = dt.datetime(2023, 1, 10, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def classfeed(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Yield a runner of ``classfeed`` with settings of its own; every test of this file sees the same store and database."""
    home = tmp_path_factory.mktemp("home")
    with (
        fresh_database(postgres_url) as url, session_warehouse(home), pytest.MonkeyPatch.context() as environment
    ):  # fmt: skip
        environment.setattr(snowflake_server, "release", lambda _: False)  # one server for all commands
        environment.delenv("DAGSTER_HOME", raising=False)
        environment.setenv("CLASSFEED_HOME", str(home))
        environment.setenv("CLASSFEED_BIGSITE_URL", url)
        environment.setenv("CLASSFEED_MAX_HELD_BACK_SHARE", "0.2")
        environment.setenv("CLASSFEED_FIRST_BUSINESS_DATE", "2023-01-03")
        get_settings.cache_clear()
        yield lambda *words: CliRunner().invoke(cli.app, words)
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def demo(classfeed: Command) -> Result:
    """Run the demo once, on a few customers, under a umask that takes no right from anybody."""
    umask = os.umask(0)
    try:
        return classfeed("demo", "--portfolios", "25", "--days", "2")
    finally:
        os.umask(umask)


def test_demo_proves_what_it_delivered(demo: Result) -> None:
    assert demo.exit_code == 0, demo.output
    assert "FAILED" not in demo.output
    assert demo.output.count("proven") == 8
    assert "classfeed up" in demo.output  # a wheel has no Makefile


def test_delivered_portfolio_is_not_shown_as_held_back(demo: Result) -> None:
    # A fault planted on the last date breaks a rule for the first date's data as well, which was delivered before.
    (row,) = re.findall(r"^2023-01-03 +delivered +1 +(\d+) +(\d*) +1 ", demo.output, re.MULTILINE)
    assert row[1] == "0"
    document = dg.AssetKey(["class_super", "document"])
    with open_instance(get_settings().home) as instance:
        filtered = dg.AssetRecordsFilter(asset_key=document, asset_partitions=["2023-01-03"])
        (record,) = instance.fetch_materializations(filtered, limit=1).records
    assert record.asset_materialization is not None
    metadata = record.asset_materialization.metadata
    assert "held_back" not in metadata
    assert metadata["delivered_but_excluded_now"].value == 1


def test_demo_home_under_umask_zero_is_the_owners_alone(demo: Result) -> None:
    home = get_settings().home
    assert {"store", "dagster", "snowflake"} <= {path.name for path in home.iterdir()}
    assert open_to_others(home) == []


def test_demo_run_again_delivers_nothing_twice(demo: Result, classfeed: Command) -> None:
    before = classfeed("status").output
    again = classfeed("demo", "--portfolios", "25", "--days", "2")
    assert again.exit_code == 0, again.output
    assert "nothing to do" in again.output
    assert classfeed("status").output == before


def test_status_lists_held_back_portfolios_and_reasons(demo: Result, classfeed: Command) -> None:
    result = classfeed("status", "--date", "2023-01-04", "--feed", "class_super")
    assert result.exit_code == 0
    assert "partly delivered" in result.output
    assert re.search(r"SW99\d{6} .*unwritable_character", result.output)


def test_verify_finds_the_chain_sound_and_a_changed_byte(demo: Result, classfeed: Command, tmp_path: Path) -> None:
    assert classfeed("verify", "--feed", "class_super").exit_code == 0
    page = next(Path(get_settings().store_location).glob("delivered/class_super/2023-01-03/r0/*.xml.gz"))
    for name in (page.name, "manifest.json"):
        (tmp_path / name).write_bytes((page.parent / name).read_bytes())
    assert classfeed("verify", str(tmp_path)).exit_code == 0
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"AUD":{"cash_credits":"', '"AUD":{"cash_credits":"1'))
    changed = classfeed("verify", str(tmp_path))
    assert changed.exit_code == 3
    assert "NOT SOUND" in changed.output


def test_trace_leads_from_a_document_back_to_the_row(demo: Result, classfeed: Command, tmp_path: Path) -> None:
    (example,) = re.findall(r"classfeed trace (T\d+)", demo.output)
    page = tmp_path / "trace.html"
    result = classfeed("trace", example, "--page", str(page))
    assert result.exit_code == 0
    for part in ("bigsite.trade", "landing/", ".xml.gz", "line ", "sends no acknowledgement"):
        assert part in result.output
        assert part in page.read_text()
    assert "NOT IN THIS FILE" not in result.output


def test_trace_leads_from_a_holding_back_to_every_row(demo: Result, classfeed: Command) -> None:
    page = next(Path(get_settings().store_location).glob("delivered/class_super/2023-01-03/r0/*.xml.gz"))
    holdings = EPI.read(page)["investment_holdings"]
    number, exchange, code, units = holdings.select("portfolio_number", "exchange", "security_code", "units").row(0)
    result = classfeed("trace", number, f"{exchange}:{code}", "--date", "2023-01-03")
    assert result.exit_code == 0, result.output
    assert f"{units} units" in result.output
    assert f"to the date: {units}" in result.output
    for part in ("bigsite.holding_eod", "landing/", ".xml.gz", "InvestmentHolding"):
        assert part in result.output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("run", "--date", "2023-01-07"), 2, "not an ASX business day"),
        (("run", "--date", "2022-12-30"), 2, "before class_super's first business date"),
        (("run", "--date", "2023-01-05", "--feed", "nope"), 2, "the feeds are"),
        (("parity", "--date", "2023-01-03"), 4, "has no file"),
        (("parity", "--date", "2023-01-03", "--feed", "class_super"), 2, "replaces no old app"),
        (("trace", "X1"), 2, "Invalid transaction id"),
        (("trace", "T1"), 3, "no such row"),
        (("trace", "SW99000001", "ASX:BHP"), 2, "A holding needs a security"),
        (("trace", "SW99000001", "BHP", "--date", "2023-01-03"), 2, "EXCHANGE:CODE"),
        (("trace", "SW00", "ASX:BHP", "--date", "2023-01-03"), 2, "no portfolio SW00"),
        (("verify", "/nowhere"), 2, "does not exist"),
        (("approve-removals", "--date", "2023-01-04", "--reason", "jo@example.com left"), 2, "leave it out"),
        (("flags-set", "mode", "class_trade", "off", "--reason", "jo@example.com left"), 2, "leave it out"),
        (("verify", "--feed", ""), 2, "there is no feed ''"),
        (("breaks", "--feed", ""), 2, "there is no feed ''"),
        (("customer", "SW99000001", "--feed", ""), 2, "there is no feed ''"),
        (("customer", "SW99000001", "--page", "/nowhere/page.html"), 2, "Cannot write /nowhere/page.html"),
        (("trace", "T1", "--page", "/nowhere/page.html"), 2, "Cannot write /nowhere/page.html"),
        (("owner", "--page", "/nowhere/page.html"), 2, "Cannot write /nowhere/page.html"),
        (("lineage", "--page", "/nowhere/page.html"), 2, "Cannot write /nowhere/page.html"),
        (("lineage", "--page", "page.html", "--json"), 2, "exclude each other"),
        (("frame", "accounts", "--date", "2023-01-03", "--to", "/nowhere/x.csv"), 2, "Cannot write /nowhere/x.csv"),
        (("frame", "accounts", "--date", "2023-01-03", "--to", "x.csv", "--json"), 2, "exclude each other"),
        (("evidence", "--from", "2030-01-02", "--to", "2030-01-09"), 2, "has no business date from"),
        (("audit", "2023-01-03.."), 2, "Invalid dates '2023-01-03..'"),
        (("status", "--feed", ""), 2, "there is no feed ''"),
        (("run", "--date", "2023-01-05"), 4, "end of day has not been written"),
        (("run", "--date", "2030-01-09"), 2, "is not over"),
        (("status", "--date", "2023-01-07"), 2, "not an ASX business day"),
        (("status", "--feed", "nope"), 2, "the feeds are"),
        (("lineage", "investment_holdings.unitz"), 2, "did you mean"),
        (("reconcile", "--date", "2023-01-05"), 4, "has no delivery"),
        (("frame", "nope", "--date", "2023-01-03"), 2, "the frames are"),
        (("frame", "accounts", "--date", "2023-01-03", "--to", "x.xls"), 2, "name the file .csv or .parquet"),
        (("frame", "accounts", "--date", "2023-01-05"), 4, "has no delivery"),
        (("rerun", "--reason", "client services asked"), 2, "Missing option '--date'"),
        (("rerun", "--date", "2023-01-03", "--reason", "client services asked"), 2, "only members of"),
        (("refresh",), 2, "Missing argument 'number'"),
        (("up", "--port", "99999"), 2, "less than or equal to 65535"),
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("owner", "--month", "0001-01"), 2, "is before the calendar's first month"),
        (("statement", "--month", ""), 2, "Invalid month ''"),
        (("frame", "accounts", "--date", "2023-01-03", "--rows", "9" * 20), 2, "less than or equal to 1000000"),
        (("frame", "accounts", "--date", "2023-01-03", "--to", "/dev/full/x.csv"), 2, "Cannot write /dev/full/x.csv"),
        (("customer", "SW\udcff"), 2, "Argument 2 is not in the terminal's encoding"),
        (("run", "--date", "yesterday"), 2, "'yesterday' does not have the form YYYY-MM-DD"),
    ],
)
def test_error_is_printed_in_a_sentence(
    demo: Result, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, classfeed: Command,
    words: tuple[str, ...], code: int, says: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["classfeed", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    output = capsys.readouterr()
    assert says in " ".join((output.out + output.err).split())
    assert "Traceback" not in output.err
    # A run that starts ends with its id, a comparison with its files.
    assert len((output.out + output.err).splitlines()) == 1 + output.out.startswith("source not ready"), output


REFUSALS = [
    (("approve-removals", "--date", "2023-01-04", "--reason", "client services asked"), "Nothing to approve"),
    (("reconcile", "--date", "2023-01-04", "--feed", "nope"), "the feeds are"),
    (("statement", "--feed", "nope"), "the feeds are"),
    (("customer", "SW1", "--feed", "nope"), "the feeds are"),
    (("refresh", "SW1", "--feed", "nope", "--reason", "client services asked"), "the feeds are"),
    (("evidence", "--from", "2023-01-04", "--to", "2023-01-03"), "has no business date from"),
    (("lineage", "nope"), "No column's name holds"),
    (("statement", "--month", "2999-01"), "has not begun"),
    (("owner", "--month", "2023-13"), "expected YYYY-MM"),
    (("demo", "--portfolios", "20", "--days", "2"), "holds another world"),
]


def test_refusal_imports_no_library_of_the_data_path(demo: Result) -> None:
    refusals = answers([words for words, _ in REFUSALS])
    for (words, says), refused in zip(REFUSALS, refusals, strict=True):
        assert refused.code == 2, (words, refused.error)
        assert says in refused.error, words
        needed = {"sqlalchemy", "numpy"} if words[0] == "demo" else set()  # bigsite is asked which world it holds
        assert not {"dagster", "sqlalchemy", "pyarrow", "numpy", "duckdb"} & refused.modules - needed, words


TRACES = [
    (("trace", "99999"), 2, "Invalid transaction id", set()),
    (("trace", "T99999999"), 3, "no such row", {"sqlalchemy"}),
    (("trace", "SW00", "ASX:BHP", "--date", "2023-01-03"), 2, "no portfolio SW00", {"sqlalchemy"}),
    (("trace", "SW00", "CASH:AUD", "--date", "2023-01-03"), 2, "no cash account", {"sqlalchemy"}),
    (("trace", "SW00", "--feed", "class_trade"), 2, "Invalid transaction id", set()),
    (
        ("trace", "C1", "--feed", "class_trade"),
        2,
        "class_trade never carries C1: its ids begin with T",
        {"polars", "lxml"},
    ),
    (("trace", "T99999999", "--feed", "class_trade"), 3, "no such row", {"sqlalchemy", "polars", "lxml"}),
]


def test_refused_trace_imports_no_library_it_does_not_ask(demo: Result) -> None:
    refusals = answers([words for words, *_ in TRACES])
    for (words, code, says, opened), refused in zip(TRACES, refusals, strict=True):
        assert refused.code == code, (words, refused.error)
        assert says in " ".join((refused.output + refused.error).split()), words
        data_path = {"dagster", "sqlalchemy", "pyarrow", "numpy", "duckdb", "polars", "lxml"}
        assert data_path & refused.modules == opened, words


def test_unknown_transaction_has_the_documented_shape(demo: Result, classfeed: Command) -> None:
    (known,) = re.findall(r"classfeed trace (T\d+)", demo.output)
    unknown = classfeed("trace", "T99999999", "--json")
    assert unknown.exit_code == 3
    shape = json.loads(classfeed("trace", known, "--json").output)
    nothing: dict[str, Any] = {name: [] if isinstance(value, list) else None for name, value in shape.items()}
    assert json.loads(unknown.output) == {**nothing, "transaction_id": "T99999999"}


def test_status_names_dates_after_the_newest_delivery(
    demo: Result, classfeed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As at 01:00 Sydney: the cut-offs of 5 and 6 January have passed, the one of 9 January has not.
    monkeypatch.setenv("CLASSFEED_NOW", "2023-01-09T01:00:00+11:00")
    get_settings.cache_clear()
    text = classfeed("status", "--feed", "class_super").output
    assert "not delivered  2 later dates, over by now: 2023-01-05 to 2023-01-06" in text
    (feed,) = json.loads(classfeed("status", "--feed", "class_super", "--json").stdout)["feeds"]
    assert feed["undelivered_since"] == "2023-01-05"
    assert "later date" not in classfeed("status", "--date", "2023-01-04").output
    monkeypatch.delenv("CLASSFEED_NOW")
    get_settings.cache_clear()


def test_reconcile_prints_for_people_and_as_json(demo: Result, classfeed: Command) -> None:
    # The data team has said nothing of the first date: the one break, which puts no delivery in doubt.
    result = classfeed("reconcile", "--date", "2023-01-03")
    assert result.exit_code == 0, result.output
    assert "report:" in result.output
    outcome = json.loads(classfeed("reconcile", "--date", "2023-01-03", "--json").stdout)
    assert undocumented("reconcile", outcome) == set()
    sides = {load["side"]: load for load in outcome["sides"]}
    assert sides["source"]["errors"] == 0
    assert sides["data_team"]["breaks_missing_date"] == 1
    assert "missing date" in " ".join(classfeed("breaks", "--open", "--date", "2023-01-03").output.split())
    assert "no breaks" in classfeed("breaks", "--feed", "class_cash").output


def test_trace_finds_a_row_by_the_number_in_a_csv_file(demo: Result, classfeed: Command) -> None:
    assert classfeed("run", "--date", "2023-01-03", "--feed", "class_trade").exit_code == 0
    (file,) = Path(get_settings().store_location).glob("shadow/delivered/class_trade/2023-01-03/r0/*.csv")
    number = file.read_text().splitlines()[1].split(",")[1]
    for text in (number, f"T{number}"):
        result = classfeed("trace", text, "--feed", "class_trade")
        assert result.exit_code == 0, result.output
        assert ".csv: line 2, " in result.output
    assert classfeed("trace", number).exit_code == 1  # the live feed's ids begin with a letter: raised as a usage error


def test_run_of_a_delivered_date_has_nothing_to_do(demo: Result, classfeed: Command) -> None:
    complete = classfeed("run", "--date", "2023-01-03")
    assert complete.exit_code == 0
    assert "nothing to do" in complete.output
    assert "nothing has changed since the last delivery" in complete.output
    assert "latest delivery: revision" in complete.output
    # A rule is broken on this date's landed snapshot, so the sentence does not say that nothing had changed.
    partial = classfeed("run", "--date", "2023-01-04")
    assert partial.exit_code == 0
    assert "nothing to do" in partial.output
    assert re.search(r"nothing new to deliver; this attempt would hold back \d+ portfolio", partial.output)


def test_approval_needs_a_reason_and_is_recorded(
    demo: Result, classfeed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert classfeed("approve-removals", "--date", "2023-01-04").exit_code == 2
    monkeypatch.setattr(ConsentRoll, "exceeds", lambda *_: True)
    monkeypatch.setattr(ConsentedFigures, "may_exceed", lambda *_: True)
    for command in ("approve-removals", "release"):  # the former name is hidden and works
        approved = classfeed(command, "--date", "2023-01-04", "--reason", "asked client services", "--by", "pat")
        assert approved.exit_code == 0, approved.output
        (record,) = Path(get_settings().store_location).glob("releases/**/*.json")
        assert json.loads(record.read_text())["released_by"] == "pat"
        record.unlink()
    assert "release " not in classfeed("--help").output


def test_approval_of_nothing_is_refused_and_leaves_no_record(demo: Result, classfeed: Command) -> None:
    refused = classfeed("approve-removals", "--date", "2023-01-04", "--reason", "asked client services")
    assert isinstance(refused.exception, UsageError)
    assert "Nothing to approve" in str(refused.exception)
    assert not list(Path(get_settings().store_location).glob("releases/**/*.json"))


def test_customer_who_leaves_later_is_not_held_back_for_a_delivered_date(demo: Result, classfeed: Command) -> None:
    def state() -> dict[str, Any]:
        document = json.loads(classfeed("status", "--date", "2023-01-03", "--feed", "class_super", "--json").stdout)
        (date,) = document["feeds"][0]["dates"]
        return dict(date)

    before = state()
    store = open_store(get_settings().store_location)
    manifest = date_status(store, "class_super", dt.date(2023, 1, 3)).deliveries[-1]
    number = manifest.portfolios[0].number
    left = HeldBack(number=number, kind="CONSENT_ENDED", reason="consent ended")
    hold = Quarantined(
        feed="class_super", business_date=dt.date(2023, 1, 3), held_back=left, status="HELD",
        held_since=NOW, changed_at=NOW, correlation_id="f" * 32,
    )  # fmt: skip
    key = quarantine_key("class_super", dt.date(2023, 1, 3), number)
    store.put(key, to_json(hold))
    try:
        after = state()
        assert after == before | {"delivered_but_excluded_now": before["delivered_but_excluded_now"] + 1}
        assert number not in json.dumps(after)
        result = classfeed("status", "--date", "2023-01-03", "--feed", "class_super").output
        assert "would be left out of a new attempt" in result
        assert "partly" not in result
    finally:
        store.delete(key)


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--date", "2023-01-04"),
        ("verify", "--feed", "class_super"),
        ("lineage", "investment_holdings.units"),
        ("breaks",),
        ("watchdog", "--no-tell", "--no-sensors"),
        ("trace", "T1"),
        ("trace", "SW99000000", "CASH:AUD", "--date", "2023-01-04"),
        ("frame", "investment_holdings", "--date", "2023-01-03"),
        ("schema", "check"),
        ("flags",),
        ("audit",),
        ("statement",),
        ("owner",),
        ("preflight",),
        ("customer", "SW99000000"),
        ("evidence", "--from", "2023-01-03", "--to", "2023-01-04"),
        ("audit", "2023-01-03..2023-01-04"),
    ],
)
def test_reading_command_prints_json(demo: Result, classfeed: Command, words: tuple[str, ...]) -> None:
    result = classfeed(*words, "--json")
    document = json.loads(result.stdout)
    assert isinstance(document, dict), result.output
    command = " ".join(words[:2]) if words[0] == "schema" else words[0]
    if command not in ("frame", "flags"):  # whose rows are named by columns and switches
        assert undocumented("evidence" if "2023-01-03..2023-01-04" in words else command, document) == set()


def undocumented(command: str, document: object) -> set[str]:
    """Return the keys that the documented shape of a command's JSON lacks."""
    page = (Path(__file__).parents[2] / "docs" / "json-output.md").read_text()
    shapes = dict(re.findall(r"^\| `([a-z ]+)` \| (.*) \|$", page, re.MULTILINE))
    return _keys(document) - set(re.findall(r'"([a-z_0-9]+)"', shapes[command]))


def _keys(document: object) -> set[str]:
    if isinstance(document, list):
        return set().union(*map(_keys, document))
    return set(document).union(*map(_keys, document.values())) if isinstance(document, dict) else set()


def test_terminal_never_cuts_a_key(demo: Result, classfeed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (20, 40, 80, 120):
        monkeypatch.setattr(deliveries, "out", Console(width=width))
        result = classfeed("status", "--date", "2023-01-04", "--feed", "class_super").output
        for key in ("2023-01-04", "partly delivered"):
            assert key in result, (width, result)
        assert re.search(r"SW99\d{6}\b", result), (width, result)
        assert "…" not in result
    monkeypatch.undo()


def test_version_is_shown(classfeed: Command) -> None:
    assert re.fullmatch(r"classfeed \d+\.\d+\.\d+\n", classfeed("--version").output)


def test_shell_can_complete_commands(classfeed: Command) -> None:
    assert "--install-completion" in classfeed("--help").output


def test_rehearsal_names_the_checks_that_failed_and_never_cuts_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"revision": 1, "portfolios": 1_234_567, "held_back": 3, "pages": 12, "bytes": 123_456_789}
    reports = [
        RunReport(Outcome.STOPPED_BY_CHECKS, "class_super", dt.date(2023, 1, day), f"run{day}", "c", "said so", 30,
                  ("held_back_share",), ("on_time",), facts)
        for day in (4, 3)
    ]  # fmt: skip
    rehearsal = Rehearsal("class_super", "store", [(report, 1.5) for report in reports], reasons={"run3": "scheduled"})
    for width in (60, 80, 120):
        with (console := Console(width=width)).capture() as captured, monkeypatch.context() as patch:
            patch.setattr(local, "out", console)
            local._print_rehearsal(rehearsal)
        output = captured.get()
        assert output.index("2023-01-03") < output.index("2023-01-04")
        for part in ("123,456,789", "1234567", "failed: held_back_share", "warned: on_time", "said so", "scheduled"):
            assert part in output, (width, output)
        assert "…" not in output


def test_rehearsal_at_80_columns_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"revision": 2, "portfolios": 299, "held_back": 1, "pages": 1, "bytes": 583_026}
    report = RunReport(
        Outcome.DELIVERED, "class_super", dt.date(2023, 1, 3), "run", "c", "delivered", 51, (), (), facts
    )
    why = "retry of held-back portfolios"
    rehearsal = Rehearsal("class_super", "store", [(report, 14.5)], reasons={"run": why})
    with (console := Console(width=80)).capture() as captured:
        monkeypatch.setattr(local, "out", console)
        local._print_rehearsal(rehearsal)
    output = captured.get()
    assert "date: " not in output
    assert re.search(r"^2023-01-03  delivered +2 +299 +1 +583,026 +51/51 +retry of", output, re.MULTILINE), output


def test_owner_at_80_columns_is_a_table(demo: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = tuple(
        OwnerFigure(metric=name, feed="class_super", value=Decimal(7), target=number.target, observations=1)
        for name, number in NUMBERS.items()
    )
    month = OwnerMonth(month="2023-01", computed_at=NOW, figures=figures)
    monkeypatch.setattr(owner_months, "history", lambda *_: [month, month])
    with (console := Console(width=80)).capture() as captured:
        monkeypatch.setattr(operations, "out", console)
        operations.owner()
    output = captured.get()
    assert "number: " not in output
    assert re.search(r"^Unplanned manual re-triggers, class_super +7 +at most 0 +missed", output, re.MULTILINE), output


def test_demo_ends_with_dates_in_order_reasons_and_the_address(demo: Result) -> None:
    dates = re.findall(r"^(2023-01-0\d) .*(scheduled|retry|follows)", demo.output, re.MULTILINE)
    assert [date for date, _ in dates] == sorted(date for date, _ in dates)
    assert {reason for _, reason in dates} == {"scheduled", "retry"}
    assert "http://127.0.0.1:3000" in demo.output


@pytest.mark.parametrize(
    "command",
    ["demo", "up", "seed", "replay", "run", "status", "verify", "trace", "approve-removals", "parity", "frame"],
)
def test_commands_have_help(classfeed: Command, command: str) -> None:
    result = classfeed(command, "--help")
    assert result.exit_code == 0
    assert len(result.output) > 200


# Imports the command line once; each command runs in a fork of that process.
ANSWERS = """
import contextlib, io, json, os, sys
import classfeed_dagster.cli.app as app
for words in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        sys.argv = ["classfeed", *words]
        output, error, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            try:
                app.main()
            except SystemExit as end:
                code = int(end.code or 0)
        print(json.dumps([code, output.getvalue(), error.getvalue(), list(sys.modules)]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@dataclass(frozen=True)
class Answer:
    """Exit code and texts of a command, and the modules that its process had imported at its end."""

    code: int
    output: str
    error: str
    modules: frozenset[str]


def answers(commands: Sequence[tuple[str, ...]]) -> list[Answer]:
    """Run each command in a new process without this one's modules."""
    process = [sys.executable, "-c", ANSWERS]
    ended = subprocess.run(process, input=json.dumps(commands), capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(lines) == len(commands), ended.stderr
    return [Answer(code, output, error, frozenset(modules)) for code, output, error, modules in lines]
