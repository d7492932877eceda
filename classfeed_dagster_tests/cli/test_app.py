"""The command line as a person uses it: one small rehearsal, then every command that looks at it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from classfeed_dagster.cli import app as cli
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.settings import get_settings
from classfeed_dagster_tests.conftest import fresh_database

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def classfeed(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Runs ``classfeed`` with settings of its own; every test of this file sees the same store and database."""
    home = tmp_path_factory.mktemp("home")
    with fresh_database(postgres_url) as url, pytest.MonkeyPatch.context() as environment:
        environment.delenv("DAGSTER_HOME", raising=False)
        environment.setenv("CLASSFEED_HOME", str(home))
        environment.setenv("CLASSFEED_BIGSITE_URL", url)
        environment.setenv("CLASSFEED_MAX_HELD_BACK_SHARE", "0.2")
        get_settings.cache_clear()
        yield lambda *words: CliRunner().invoke(cli.app, words)
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def demo(classfeed: Command) -> Result:
    """The demo on a few customers, run once."""
    return classfeed("demo", "--portfolios", "25", "--days", "2")


def test_the_demo_proves_what_it_delivered(demo: Result) -> None:
    assert demo.exit_code == 0, demo.output
    assert "FAILED" not in demo.output
    assert demo.output.count("proven") == 8
    assert "make up" in demo.output


def test_the_demo_again_delivers_nothing_twice(demo: Result, classfeed: Command) -> None:
    before = classfeed("status").output
    again = classfeed("demo", "--portfolios", "25", "--days", "2")
    assert again.exit_code == 0, again.output
    assert "nothing to do" in again.output
    assert classfeed("status").output == before


def test_status_of_a_date_says_who_is_held_back_and_why(demo: Result, classfeed: Command) -> None:
    shown = classfeed("status", "--date", "2023-01-04", "--feed", "class_super")
    assert shown.exit_code == 0
    assert "partly delivered" in shown.output
    assert re.search(r"SW99\d{6} .*unwritable_character", shown.output)


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
    shown = classfeed("trace", example, "--page", str(page))
    assert shown.exit_code == 0
    for part in ("bigsite.trade", "landing/", ".xml.gz", "line ", "acknowledges nothing"):
        assert part in shown.output
        assert part in page.read_text()
    assert "NOT IN THIS FILE" not in shown.output


def test_trace_leads_from_a_holding_back_to_every_row(demo: Result, classfeed: Command) -> None:
    page = next(Path(get_settings().store_location).glob("delivered/class_super/2023-01-03/r0/*.xml.gz"))
    holdings = EPI.read(page)["investment_holdings"]
    number, exchange, code, units = holdings.select("portfolio_number", "exchange", "security_code", "units").row(0)
    shown = classfeed("trace", number, f"{exchange}:{code}", "--date", "2023-01-03")
    assert shown.exit_code == 0, shown.output
    assert f"{units} units" in shown.output
    assert f"add up to {units}" in shown.output
    for part in ("bigsite.holding_eod", "landing/", ".xml.gz", "InvestmentHolding"):
        assert part in shown.output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("run", "--date", "2023-01-07"), 2, "not an ASX business day"),
        (("run", "--date", "2022-12-30"), 2, "before class_super's first business date"),
        (("run", "--date", "2023-01-05", "--feed", "nope"), 2, "the feeds are"),
        (("parity", "--date", "2023-01-03"), 4, "holds no file"),
        (("parity", "--date", "2023-01-03", "--feed", "class_super"), 2, "replaces no old app"),
        (("trace", "X1"), 2, "not the id of a ledger row"),
        (("trace", "T1"), 3, "no such row"),
        (("trace", "SW99000001", "ASX:BHP"), 2, "a holding needs both"),
        (("trace", "SW99000001", "BHP", "--date", "2023-01-03"), 2, "EXCHANGE:CODE"),
        (("trace", "SW00", "ASX:BHP", "--date", "2023-01-03"), 2, "no portfolio SW00"),
        (("verify", "/nowhere"), 2, "does not exist"),
        (("run", "--date", "2023-01-05"), 4, "end of day has not been written"),
    ],
)
def test_what_goes_wrong_is_said_in_a_sentence(
    demo: Result, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, classfeed: Command,
    words: tuple[str, ...], code: int, says: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["classfeed", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    shown = capsys.readouterr()
    assert says in " ".join((shown.out + shown.err).split())
    assert "Traceback" not in shown.err


def test_a_delivered_date_is_reconciled_for_people_and_for_machines(demo: Result, classfeed: Command) -> None:
    # The data team has said nothing of the first date: the one break, which puts no delivery in doubt.
    shown = classfeed("reconcile", "--date", "2023-01-03")
    assert shown.exit_code == 0, shown.output
    assert "report:" in shown.output
    told = classfeed("reconcile", "--date", "2023-01-03", "--json")
    sides = {one["side"]: one for one in json.loads(told.stdout)["sides"]}
    assert sides["source"]["errors"] == 0
    assert sides["data_team"]["breaks_missing_date"] == 1
    assert "missing date" in " ".join(classfeed("breaks", "--open", "--date", "2023-01-03").output.split())
    assert "no breaks" in classfeed("breaks", "--feed", "class_cash").output


def test_run_of_a_delivered_date_has_nothing_to_do(demo: Result, classfeed: Command) -> None:
    again = classfeed("run", "--date", "2023-01-03")
    assert again.exit_code == 0
    assert "nothing had changed" in again.output


def test_a_release_needs_a_reason_and_goes_on_record(demo: Result, classfeed: Command) -> None:
    assert classfeed("release", "--date", "2023-01-04").exit_code == 2
    released = classfeed("release", "--date", "2023-01-04", "--reason", "asked client services", "--by", "pat")
    assert released.exit_code == 0, released.output
    (record,) = Path(get_settings().store_location).glob("releases/**/*.json")
    assert json.loads(record.read_text())["released_by"] == "pat"


@pytest.mark.parametrize(
    "command", ["demo", "up", "seed", "replay", "run", "status", "verify", "trace", "release", "parity"]
)
def test_every_command_explains_itself(classfeed: Command, command: str) -> None:
    shown = classfeed(command, "--help")
    assert shown.exit_code == 0
    assert len(shown.output) > 200
