"""Figures as tables, against targets, and the command around them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import model, report, whole_job
from benchmarks.measure import BenchmarkError, Measured, Part, Run
from benchmarks.reconciliation import reconciliation
from benchmarks.site import STEPS


def _way(name: str, seconds: float, peak: int = 100_000_000, server: float = 0.0) -> Measured:
    steps = {step: {"wall": seconds / 10, "processor": seconds / 5, "peak": peak} for step in STEPS}
    facts = {"steps": steps, "document_bytes": 64_000_000, "manifest_bytes": 200_000, "pages": 2}
    return Measured(name, (Run(seconds, seconds * 2, server, peak, peak, facts),))


def _jobs(large: float, peak: int = 100_000_000) -> list[Part]:
    return [
        Part("whole job, FULL", 1000, "", (_way(whole_job.OLD, 30), _way(whole_job.PLAIN, 2))),
        Part("whole job, FULL", 10_000, "", (_way(whole_job.PLAIN, large, peak),)),
    ]


def test_ratios_are_to_the_first_way() -> None:
    header, rows = report.rows_of(_jobs(20)[0])
    assert header[3:5] == ["× processor", "× clock"]
    assert [row[3] for row in rows] == ["1.0", "15.0"]
    assert rows[1][5] == "100"


def test_steps_by_size_with_their_growth() -> None:
    header, rows = report.step_rows(_jobs(20))
    assert len(header) == 4
    assert [row[0] for row in rows] == [*STEPS, "the whole job"]
    assert all(row[-1] == "1.00" for row in rows)
    assert report.step_rows(_jobs(20)[:1])[1][-1][-1] == "–"


@pytest.mark.parametrize(("large", "peak", "met"), [(20, 300_000_000, True), (40, 400_000_000, False)])
def test_targets_are_evaluated(large: float, peak: int, met: bool) -> None:
    matches = {target.name: target for target in report.targets(_jobs(large, peak))}
    assert matches["whole job, FULL against the old exporter, 1,000 portfolios"].met
    assert matches["peak memory, whole job, FULL, 10,000 portfolios"].met is met
    assert matches["growth of time, whole job, FULL"].met is met


def test_stages_have_targets_of_their_own() -> None:
    rendering = Part(
        "rendering",
        1000,
        "",
        (
            _way("E builder, whole tree", 50),
            _way("this project", 1),
            _way("Polars, formatting alone", 0.5),
            _way("DuckDB, formatting alone", 0.2),
        ),
    )
    snapshot = Part(
        "snapshot",
        1000,
        "",
        (_way("pandas.read_sql", 6), _way("this project (to Parquet)", 2), _way("raw COPY to nowhere", 1.5)),
    )
    packing = Part("hashing and compression", 1000, "", (_way("this project", 1),))
    nobody = Part("process starts", 1000, "", (_way("definitions", 1),))
    result = report.targets([rendering, snapshot, packing, nobody])
    assert [target.met for target in result] == [True, True, False, False, True]


def test_model_divides_only_divisible_steps() -> None:
    part = Part("whole job, FULL", 1000, "", (_way(whole_job.PLAIN, 2, server=0.5),))
    of = model.rates(part)  # 0.4 s a step
    # Reading, three steps that divide, two that don't.
    assert model.seconds(of, 1_000_000, 1) == pytest.approx(400 + 3 * 400 + 2 * 400)
    assert model.seconds(of, 1_000_000, 10) == pytest.approx(400 + 120 + 2 * 400)
    slow = dataclasses.replace(of, server=4 * of.reading * model.SESSIONS)
    assert model.seconds(slow, 1_000_000, 10) == pytest.approx(4 * 400 + 120 + 2 * 400)
    header, rows = model.rows(part)
    assert [len(row) for row in rows] == [len(header)] * 3
    assert rows[-1][1] == "6.7 h"
    assert rows[-1][-1] == "2,000 MB"


def test_tables_are_written_for_terminals_and_docs() -> None:
    header, rows = report.rows_of(_jobs(20)[0])
    text = report.as_text(header, rows).splitlines()
    assert len(text) == 3
    assert text[1].startswith(whole_job.OLD)
    assert report.as_markdown(header, rows).splitlines()[1].startswith("|---|---:|")
    assert report.target_rows(report.targets(_jobs(20)))[1][0][3] == "met"


def test_options_have_defaults_for_quick_and_full() -> None:
    quick, full = command.options_from([]), command.options_from(["--full", "--repeat", "7"])
    assert (quick.sizes, quick.repeat, quick.budget) == ([1000, 10_000], 5, 12)
    assert (full.sizes[-1], full.repeat, full.budget) == (100_000, 7, 0)


@pytest.mark.usefixtures("in_this_process")
def test_part_is_printed_and_written_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "figures" / "bench.json"
    bench = command.Bench(command.options_from(["--repeat", "2", "--budget", "0", "--json", str(where)]))
    bench.add(reconciliation, 500)
    assert "pandas merge" in capsys.readouterr().out
    figures = json.loads(where.read_text())
    assert figures["machine"]["cores"] >= 1
    assert [len(way["runs"]) for way in figures["parts"][0]["ways"]] == [2, 2]
    again = command.Bench(command.options_from(["--from", str(where), str(where)]))
    command.recall(again)
    assert [report.rows_of(part) for part in again.parts] == [report.rows_of(bench.parts[0])]


def test_part_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = command.Bench(command.options_from(["--json", str(tmp_path / "bench.json")]))

    def fail(**_: object) -> Part:
        raise BenchmarkError("its process died")

    bench.add(fail)
    bench.add(lambda **_: _jobs(20)[0])
    assert bench.failed == ["its process died"]
    assert [part.name for part in bench.parts] == ["whole job, FULL"]
    assert "its process died" in capsys.readouterr().out


@pytest.mark.usefixtures("in_this_process")
def test_measure_runs_requested_parts_only(tmp_path: Path) -> None:
    chosen = ["--parts", "reconciliation", "--sizes", "50", "--json", str(tmp_path / "bench.json")]
    bench = command.Bench(command.options_from(chosen))
    command.measure(bench)
    assert [part.name for part in bench.parts] == ["reconciliation"]


def test_docs_tables_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "scale.md"
    page.write_text(f"# Scale\n\n{command.BEGIN}\nold\n{command.END}\n\nModel.\n")
    monkeypatch.setattr(command, "DOCS", page)
    bench = command.Bench(command.options_from([]))
    bench.parts += _jobs(20)
    command.write_docs(bench)
    text = page.read_text()
    assert text.startswith("# Scale")
    assert text.endswith("Model.\n")
    assert "old\n" not in text
    assert "| old exporter |" in text
