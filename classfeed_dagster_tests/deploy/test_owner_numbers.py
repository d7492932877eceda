"""Numbers that the pipelines record: read from the tools' own files, and from a forge that answers here."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import threading
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from classfeed_dagster.service_levels.metrics import NUMBERS
from classfeed_dagster.service_levels.observations import Observation, observations
from classfeed_dagster.service_levels.owner_months import compute_month
from classfeed_dagster.service_levels.owner_page import owner_page
from classfeed_dagster.store import LocalStore
from classfeed_dagster.stored_records import from_json
from classfeed_dagster_tests.deploy.test_workflows import WORKFLOWS
from classfeed_dagster_tests.fixtures.templates import ROOT
from classfeed_dagster_tests.rehearsal.pipelines import Round, keep, replay, table
from deploy import durations
from deploy.forge import LABELS, Forge, ForgeError, forge_values
from deploy.owner_numbers import main

NOW = dt.datetime(2026, 3, 20, tzinfo=dt.UTC)
BASELINE = json.loads(durations.BASELINE.read_text())
TOKEN = "ghs_canary"


def job(name: str, steps: dict[str, int], conclusion: str = "success", waited: int = 10) -> dict[str, Any]:
    """Return a job as the jobs API does, with its steps one after the other."""
    at = created = dt.datetime(2026, 3, 4, tzinfo=dt.UTC)
    at = started = created + dt.timedelta(seconds=waited)
    listed = []
    for step, seconds in steps.items():
        times = {"started_at": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
        at += dt.timedelta(seconds=seconds)
        listed.append({"name": step, **times, "completed_at": f"{at:%Y-%m-%dT%H:%M:%SZ}"})
    times = {"created_at": created.isoformat(), "started_at": started.isoformat(), "completed_at": at.isoformat()}
    return {"run_id": 7, "name": name, "conclusion": conclusion, **times, "steps": listed}


DEPLOYING = {"Set up job": 5, "Run actions/checkout@08c6903": 3, "Change the stacks": 600, "Post Run x": 2}
JOBS = [
    job("Lint, types, tests", {"Set up job": 5, "Run make coverage": 995}),
    job("Image, once", {"Set up job": 5, "Run docker/build-push-action@26": 195}),
    *(job(name, DEPLOYING, waited=3600) for name in BASELINE["jobs"] if "Deploy" in name),
    job("production / Say that an approval is waited for", {"Set up job": 5}),
]


def test_run_is_compared_with_the_old_pipelines_shape() -> None:
    records = durations.durations([{"jobs": JOBS[:3]}, {"jobs": JOBS[3:]}])
    assert [record["start_up_seconds"] for record in records] == [5, 5, 10, 10, 10, 5]
    # Each environment's two further nodes would have started up once more.
    assert durations.comparison(records) == {
        "pipeline_seconds": 1000 + 200 + 3 * 610,
        "pipeline_baseline_seconds": 1000 + 200 + 3 * 610 + 3 * 2 * 10,
        "pipeline_target_seconds": Decimal("2163.00"),
    }
    failed = [record | {"outcome": "failure"} if "prod" in record["job"] else record for record in records]
    assert durations.comparison(failed) == {}
    assert durations.comparison(records[:-2]) == {}


def test_documented_time_takes_the_place_of_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(BASELINE | {"documented_seconds": 6000}))
    monkeypatch.setattr(durations, "BASELINE", path)
    compared = durations.comparison(durations.durations({"jobs": JOBS}))
    assert compared["pipeline_baseline_seconds"] == 6000
    assert compared["pipeline_target_seconds"] == 4200


def test_baseline_names_the_jobs_of_the_workflows() -> None:
    jobs = WORKFLOWS["pipeline.yml"]["jobs"]
    deploying = WORKFLOWS["deploy.yml"]["jobs"]["deploy"]["name"]
    names = {
        f"{job} / {deploying.replace('${{ inputs.environment }}', body['with']['environment'])}"
        if "uses" in body
        else body["name"]
        for job, body in jobs.items()
        if job != "durations"
    }
    assert BASELINE["jobs"].keys() == names
    # The owner's three nodes are one job, and the target is what was asked for.
    assert [len(nodes) for job, nodes in BASELINE["jobs"].items() if "Deploy" in job] == [3, 3, 3]
    assert BASELINE["target_share"] == "0.70"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which a job of run 7 works."""
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    monkeypatch.setenv("GITHUB_RUN_ATTEMPT", "2")
    monkeypatch.setenv("GH_TOKEN", TOKEN)
    return tmp_path


def kept(folder: Path) -> list[Observation]:
    """Return what is written, read as the project reads it, under the key that it has there."""
    store = LocalStore(folder)
    (month,) = {path.parent.parent.name for path in (folder / "owner-numbers").rglob("*.json")}
    damaged: list[str] = []
    recorded = list(observations(store, month, damaged))
    assert damaged == []
    assert {observation.month for observation in recorded} == {month}
    return recorded


def test_pipeline_observation_is_the_projects(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "jobs.json").write_text(json.dumps([{"jobs": JOBS}]))
    main(["pipeline", str(run / "jobs.json"), "--coverage", "96.91"], folder=run)
    summary = capsys.readouterr().out
    assert "| Image, once | success | 10 | 5 | 200 |" in summary
    assert "3030 s; the old pipeline: 3090 s; target: 2163 s" in summary
    (observation,) = kept(run)
    assert (observation.source, observation.values["pipeline_seconds"], observation.values["coverage_percent"]) == (
        "pipeline", Decimal(3030), Decimal("96.91"),
    )  # fmt: skip
    assert observation.parts["Image, once"] == {
        "waited_seconds": 10, "worked_seconds": 200, "start_up_seconds": 5, "succeeded": 1,
    }  # fmt: skip
    (path,) = run.rglob("7-2.json")
    month = compute_month(LocalStore(run), [], path.parent.parent.name, NOW)
    assert {figure.metric for figure in month.figures} == {"pipeline_seconds", "coverage_percent"}


def test_percentages_are_of_the_tools_reports(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run / "coverage.xml"
    report.write_text('<coverage lines-valid="90" lines-covered="89" branches-valid="10" branches-covered="8"/>')
    main(["coverage", str(report)])
    results = [{"result": name} for name in ("killed", "killed", "timeout", "survived", "unreached", "unjudged")]
    (run / "mutation.json").write_text(json.dumps({"results": results}))
    main(["noticed", str(run / "mutation.json")])
    (run / "page.html").write_text("<html/>")
    with pytest.raises(SystemExit, match="no coverage report"):
        main(["coverage", str(run / "page.html")])
    assert capsys.readouterr().out.split() == ["percent=97.00", "percent=60.00"]
    main(["mutation", "60.00"], folder=run)
    main(["mutation", ""], folder=run / "none")
    assert not (run / "none").exists()
    assert [observation.values for observation in kept(run)] == [{"mutation_percent": Decimal(60)}]
    (run / "mutation.json").write_text(json.dumps({"results": []}))
    with pytest.raises(SystemExit, match="no judged mutant"):
        main(["noticed", str(run / "mutation.json")])


class ForgeStandIn:
    """A forge that answers as GitHub does: pages, reviews, and whatever failures a test plans."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.answers: dict[str, list[Any]] = {}  # pages by path
        self.next_address: str | None = None
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.answer(self)

            def log_message(self, *_arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.api = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.path, request.headers.get("Authorization")))
        if self.failures:
            code, headers = self.failures.pop(0)
            return self._send(request, code, {"message": "no"}, headers)
        parts, query = urlsplit(request.path), parse_qs(urlsplit(request.path).query)
        key = parts.path.removeprefix("/repos/broker/classfeed/")
        key += "".join(f"?{name}={query[name][0]}" for name in ("labels",) if name in query)
        pages, page = self.answers.get(key, [[]]), int(query.get("page", ["1"])[0])
        headers = {}
        if page < len(pages):
            following = self.next_address or f"{self.api}{request.path.partition('&page=')[0]}&page={page + 1}"
            headers["Link"] = f'<{self.api}/x>; rel="prev", <{following}>; rel="next"'
        return self._send(request, 200, pages[page - 1], headers)

    def _send(self, request: BaseHTTPRequestHandler, code: int, body: Any, headers: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        request.send_response(code)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForgeStandIn]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    stand_in = ForgeStandIn()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def forge(github: ForgeStandIn, slept: list[float]) -> Forge:
    return Forge("broker/classfeed", TOKEN, github.api, sleep=slept.append)


def pull(number: int, merged: str | None, updated: str = "2026-03-19T00:00:00Z") -> dict[str, Any]:
    return {"number": number, "merged_at": merged, "updated_at": updated, "user": {"login": "author"}}


def review(at: str | None, login: str | None = "reviewer") -> dict[str, Any]:
    return {"submitted_at": at, "user": None if login is None else {"login": login}}


def test_forge_numbers_come_from_all_pages_by_label(github: ForgeStandIn, forge: Forge) -> None:
    issues = [{"number": number} for number in range(5)]
    github.answers = {
        f"issues?labels={LABELS['open_tech_debt']}": [issues[:2], [*issues[2:4], {"pull_request": {}}]],
        f"issues?labels={LABELS['open_bugfixes']}": [issues[:1]],
        "pulls": [
            [pull(1, "2026-03-10T10:00:00Z"), pull(2, None), pull(3, "2026-03-12T00:00:00Z")],
            [pull(4, "2026-03-01T00:00:00Z"), pull(5, "2026-02-01T00:00:00Z"), pull(6, "2026-03-02T00:00:00Z")],
            [pull(7, "2026-03-18T00:00:00Z", updated="2026-01-01T00:00:00Z")],
        ],
        "pulls/1/reviews": [[review("2026-03-09T00:00:00Z", "author")], [review("2026-03-10T09:00:00Z")]],
        "pulls/3/reviews": [[review(None), review("2026-03-11T00:00:00Z"), review("2026-03-11T12:00:00Z")]],
        "pulls/4/reviews": [[review("2026-02-28T23:00:00Z", None)]],
        "pulls/6/reviews": [[review("2026-03-03T00:00:00Z")]],  # after the merge: not what merged it
    }
    assert forge_values(forge, NOW) == {"open_tech_debt": 4, "open_bugfixes": 1, "review_to_merge_seconds": 3600}
    assert sorted(forge.review_to_merge(NOW - dt.timedelta(days=30))) == [3600, 3600, 86400]
    assert {authorization for _, authorization in github.asked} == {f"Bearer {TOKEN}"}
    assert not any("pulls/5/" in path or "pulls/7/" in path for path, _ in github.asked)


def test_comparison_is_one_command(github: ForgeStandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    github.answers = {
        "actions/workflows/pipeline.yml/runs": [{"workflow_runs": [{"id": 9}, {"id": 8}]}],
        "actions/runs/9/jobs": [{"jobs": JOBS[:3]}, {"jobs": JOBS[3:]}],
        "actions/runs/8/jobs": [{"jobs": JOBS[:2]}],
    }
    command = ["compare", "broker/classfeed", "--api", github.api]
    main(command, folder=run)
    assert "3030 s; the old pipeline: 3090 s; target: 2163 s" in capsys.readouterr().out
    main([*command, "--run", "8"], folder=run)
    assert "the old pipeline" not in capsys.readouterr().out
    assert not list(run.iterdir())
    github.answers = {"actions/workflows/pipeline.yml/runs": [{"workflow_runs": []}]}
    with pytest.raises(SystemExit, match="no successful run on main: give --run"):
        main(command, folder=run)


def test_forge_without_merged_requests_has_no_review_time(github: ForgeStandIn, forge: Forge) -> None:
    assert forge_values(forge, NOW) == {"open_tech_debt": 0, "open_bugfixes": 0}
    assert set(LABELS) <= set(NUMBERS)


def test_forge_waits_for_a_short_limit_and_retries_faults(
    github: ForgeStandIn, forge: Forge, slept: list[float]
) -> None:
    github.failures = [(502, {}), (429, {"Retry-After": "7"}), (500, {})]
    assert forge.open_issues("bugfix") == 0
    assert slept == [2.0, 7.0, 8.0]


@pytest.mark.parametrize(
    ("code", "headers", "message"),
    [
        (401, {}, "answers 401: the token is missing, wrong or expired"),
        (403, {}, "may not read actions, issues and pull requests"),
        (404, {}, "check owner/name"),
        (301, {"Location": "http://127.0.0.1:9/stolen"}, "the repository has moved"),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800"}, "used up until 00:00 UTC"),
        (429, {"Retry-After": "3600"}, "the rate limit is used up. Run it again"),
    ],
)
def test_forge_refusal_is_one_sentence_without_the_token(
    github: ForgeStandIn, forge: Forge, code: int, headers: dict[str, str], message: str
) -> None:
    github.failures = [(code, headers)]
    with pytest.raises(ForgeError, match=message) as refused:
        forge.open_issues("bugfix")
    assert len(github.asked) == 1
    assert TOKEN not in str(refused.value) + repr(forge)


def test_forge_never_follows_a_page_elsewhere(github: ForgeStandIn, forge: Forge) -> None:
    github.answers = {"issues?labels=bugfix": [[], []]}
    github.next_address = "http://127.0.0.1:9/repos"
    with pytest.raises(ForgeError, match="another address"):
        forge.open_issues("bugfix")


def test_unreachable_forge_ends_the_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("deploy.forge._ATTEMPTS", 1)
    with pytest.raises(SystemExit, match="cannot be read .*: check the network and the proxy"):
        main(["forge", "broker/classfeed", "--api", "http://127.0.0.1:9"], folder=run)


def test_forge_is_asked_through_the_proxy(github: ForgeStandIn, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", github.api)  # which sees the whole address
    main(["forge", "broker/classfeed", "--api", "http://forge.example"], folder=run)
    assert all(path.startswith("http://forge.example/repos/broker/classfeed/") for path, _ in github.asked)
    assert [observation.source for observation in kept(run)] == ["forge"]


def test_release_keeps_each_observation_once(run: Path, tmp_path: Path) -> None:
    """The release script itself, with AWS's command line in place of AWS."""
    main(["mutation", "93.5"], folder=run)
    fake = tmp_path / "bin" / "aws"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *get-caller-identity*) echo 444455556666 ;; *) echo "$*" >> calls ;; esac\n'
    )
    fake.chmod(0o755)
    (run / "deploy").mkdir()
    (run / "deploy" / "release").write_text((ROOT / "deploy" / "release").read_text())
    command = ["bash", str(run / "deploy" / "release"), "keep"]
    subprocess.run(command, env={"PATH": f"{fake.parent}:/usr/bin:/bin"}, check=True, capture_output=True)
    (call,) = (run / "calls").read_text().splitlines()
    (path,) = (run / "owner-numbers").rglob("*.json")
    key = path.relative_to(run)
    assert call == (
        f"s3api put-object --region ap-southeast-2 --bucket classfeed-prod-data-444455556666 --key {key} "
        f"--body {key} --if-none-match *"
    )
    assert from_json(Observation, path.read_bytes(), str(key)).values == {"mutation_percent": Decimal("93.5")}


def test_replay_executes_each_shapes_steps_in_the_baselines_order() -> None:
    steps: list[str] = []
    (start, check_out, assume, post, complete), record = BASELINE["start_up"], steps.append
    every = {name: partial(record, name) for name in (*BASELINE["start_up"], "migration", "deployment", "smoke test")}
    rounds = list(replay("prod", 2, every))
    single = [start, check_out, assume, "migration", "deployment", "smoke test", post, complete]
    three = [
        name
        for step in ("migration", "deployment", "smoke test")
        for name in (start, check_out, assume, step, post, complete)
    ]
    assert steps == single + three + three + single
    assert all(each.old >= 0 and each.new >= 0 for each in rounds)


def test_replayed_rounds_are_on_the_owners_page(tmp_path: Path) -> None:
    rounds = [Round(Decimal(old), Decimal(new)) for old, new in ((100, 80), (110, 60), (90, 95))]
    text = table(rounds)
    assert "| one node | 80.0 | 93.5 |" in text
    assert "One node takes 80% of the time. Target: 70%, not met." in text
    assert "Target: 70%, met." in table(rounds[1:2])
    keep(rounds, tmp_path)
    month = kept(tmp_path)[0].month
    (figure,) = compute_month(LocalStore(tmp_path), [], month, NOW).figures
    assert (figure.metric, figure.observations) == ("pipeline_seconds", 3)
    assert (figure.value, figure.p95) == (Decimal(80), Decimal("93.5"))
    assert (figure.baseline, figure.target) == (Decimal(100), Decimal(70))
    assert "20 % less than the old pipeline, " in owner_page([compute_month(LocalStore(tmp_path), [], month, NOW)])
