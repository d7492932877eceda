"""Plans and builds: planning, rendering, paging, staging, and their inputs."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.delivery import pages
from classfeed_dagster.delivery.build import build_delivery, content_digest, read_build
from classfeed_dagster.delivery.checks import examine_build
from classfeed_dagster.delivery.manifest import VoidManifest
from classfeed_dagster.delivery.pages import read_page, write_page, written
from classfeed_dagster.delivery.plan import plan_delivery
from classfeed_dagster.delivery.state import (
    EarlierDate,
    delivered_state,
    earlier_date,
    ever_delivered,
)
from classfeed_dagster.documents.document_format import PageHeader, PageRule, RenderedPortfolio, Totals
from classfeed_dagster.errors import BuildError, DamagedRecordError, TooManyHeldBackError
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster.stored_records import from_json, manifest_key, quarantine_key, to_json
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    AMOUNTS,
    AUDIENCE,
    DAY1,
    DAY2,
    DAY3,
    FEED,
    FORMAT,
    Day,
    build,
    deliver,
    on_s3_too,
    plan,
    simple,
    terms,
)
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.fake_format import LinesFormat

# --- Included portfolios -----------------------------------------------------------------------------------------------------


def planned(day: Day, earlier: EarlierDate | None, known: frozenset[str] = frozenset()) -> dict[str, str]:
    new_build = plan_delivery(
        day.date,
        consented=day.consented,
        findings=day.findings,
        consented_now=day.consenting,
        earlier=earlier,
        ever_delivered=lambda numbers: numbers & known,
        max_held_back_share=Decimal(1),
    )
    result = {going.number: f"goes {going.change} {going.extract}" for going in new_build.included}
    result |= {hold.number: hold.reason for hold in new_build.held_back}
    return result | dict.fromkeys(new_build.unannounced, "unannounced")


def test_plan_has_one_entry_per_portfolio() -> None:
    day = Day(
        DAY3,
        {
            "new": ("NEW", ()),
            "current": ("CURRENT", ()),
            "behind": ("CURRENT", ()),
            "waits": ("CURRENT", ()),
            "broken": ("CURRENT", ()),
            "broken and behind": ("CURRENT", ()),
            "broken new": ("NEW", ()),
            "ended": ("CURRENT", ()),
            "ended and broken": ("NEW", ()),
            "removed": ("REMOVED", ()),
            "removed, known before": ("REMOVED", ()),
            "removed, unknown": ("REMOVED", ()),
            "removed, broken": ("REMOVED", ()),
        },
        broken=["broken", "broken and behind", "broken new", "ended and broken", "removed, broken"],
    ).without("ended", "ended and broken")
    missing = frozenset({"current", "broken", "ended", "removed"})
    earlier = EarlierDate(DAY2, missing, {"waits": DAY1})
    assert planned(day, earlier, frozenset({"removed, known before"})) == {
        "new": "goes NEW FULL",
        "current": "goes CURRENT DELTA",
        "behind": "waiting for 2023-01-04",
        "waits": "waiting for 2023-01-03",
        "broken": "breaks units_ledger (2 times)",
        "broken and behind": "breaks units_ledger (2 times); also waiting for 2023-01-04",
        "broken new": "breaks units_ledger (2 times)",
        "ended": "consent ended",
        "ended and broken": "consent ended",
        "removed": "goes REMOVED NONE",
        "removed, known before": "goes REMOVED NONE",
        "removed, unknown": "unannounced",
        "removed, broken": "breaks units_ledger (2 times)",
    }


def test_planned_portfolio_has_its_consent_ids(local_store: ObjectStore) -> None:
    deliver(local_store, simple(P1=["1.00"], P2=["2.00"]))
    day = Day(DAY2, {"P1": ("CURRENT", ("1.00",)), "P2": ("REMOVED", ())})
    assert [going.consent_ids for going in plan(local_store, day).included] == [(1,), (2,)]
    manifest = deliver(local_store, day).manifest
    assert manifest is not None
    assert [portfolio.consent_ids for portfolio in manifest.portfolios] == [(1,), (2,)]


def test_build_ahead_assumes_earlier_portfolios_delivered() -> None:
    day = Day(DAY2, {"current": ("CURRENT", ()), "removed": ("REMOVED", ())})
    ahead = planned(day, EarlierDate(DAY1, None, {}))
    assert ahead == {"current": "goes CURRENT DELTA", "removed": "goes REMOVED NONE"}
    assert planned(Day(DAY1, {"new": ("NEW", ())}), None) == {"new": "goes NEW FULL"}


def test_findings_are_counted_and_warnings_do_not_hold_back(local_store: ObjectStore) -> None:
    day = simple()
    findings = pl.concat(
        [
            day.findings,
            pl.DataFrame(
                [("P1", "hin", "QUARANTINE", f"s{at}", "x") for at in range(9)]
                + [("P1", "abn", "QUARANTINE", "a", "x"), ("P2", "net_amount", "WARNING", "T1", "x")],
                schema=day.findings.schema,
                orient="row",
            ),
        ]
    )
    new_build = plan_delivery(
        DAY1,
        consented=day.consented,
        findings=findings,
        consented_now=day.consenting,
        earlier=None,
        ever_delivered=lambda numbers: numbers,
        max_held_back_share=Decimal("0.2"),
    )
    (hold,) = new_build.held_back
    assert hold.reason == "breaks abn (once), hin (9 times)"
    assert [len(rule.subjects) for rule in hold.rules] == [1, 5]
    assert (new_build.breaking, new_build.consented, new_build.breaking_share) == (1, 5, Decimal("0.2"))


def test_removed_portfolios_are_no_part_of_the_held_back_share() -> None:
    content = {"P1": ("CURRENT", ()), "P2": ("CURRENT", ()), "R1": ("REMOVED", ()), "R2": ("REMOVED", ())}

    def share(broken: str, limit: str) -> Decimal:
        day = Day(DAY1, content, broken=[broken])
        return plan_delivery(
            DAY1,
            consented=day.consented,
            findings=day.findings,
            consented_now=day.consenting,
            earlier=None,
            ever_delivered=lambda numbers: numbers,
            max_held_back_share=Decimal(limit),
        ).breaking_share

    assert share("R1", "0") == 0
    assert share("P1", "0.5") == Decimal("0.5")
    with pytest.raises(TooManyHeldBackError, match=r"^1 of 2 "):
        share("P1", "0.4")


def test_stopping_rules_are_named_by_frequency() -> None:
    day = simple()
    rows = [("P1", "hin", "QUARANTINE", "s", "x"), ("P2", "abn", "QUARANTINE", "s", "x")]
    rows += [(number, "net_amount", "QUARANTINE", "s", "x") for number in ("P1", "P2", "P3")]
    with pytest.raises(TooManyHeldBackError, match=r"^3 of 5 .* most often first: net_amount, abn, hin\."):
        plan_delivery(
            DAY1,
            consented=day.consented,
            findings=pl.DataFrame(rows, schema=day.findings.schema, orient="row"),
            consented_now=day.consenting,
            earlier=None,
            ever_delivered=lambda numbers: numbers,
            max_held_back_share=Decimal("0.5"),
        )


# --- What was delivered -------------------------------------------------------------------------------------------


def test_state_folds_revisions(store: ObjectStore) -> None:
    assert delivered_state(store, FEED, DAY1).latest is None
    assert earlier_date(store, FEED, AUDIENCE, DAY1) is None
    ahead = earlier_date(store, FEED, AUDIENCE, DAY2)
    assert ahead == EarlierDate(DAY1, None, {})
    deliver(store, replace(simple(DAY1, P1=["1.00"], P2=["2.00"], P3=["3.00"]), broken=["P3"]))
    first = delivered_state(store, FEED, DAY1)
    assert (sorted(first.numbers), first.next_revision, dict(first.held_back)) == (["P1", "P2"], 1, {"P3": None})
    deliver(store, simple(DAY1, "s2", P1=["1.00"], P2=["2.50"], P3=["3.00"]))
    second = delivered_state(store, FEED, DAY1)
    assert {n: portfolio.revision for n, portfolio in second.portfolios.items()} == {"P1": 0, "P2": 1, "P3": 1}
    assert second.fingerprint != first.fingerprint
    assert delivered_state(store, FEED, DAY1).numbers == {"P1", "P2", "P3"}
    earlier = earlier_date(store, FEED, AUDIENCE, DAY2)
    assert earlier is not None
    assert earlier.delivered == frozenset({"P1", "P2", "P3"})
    assert dict(earlier.waiting) == {"P3": DAY1}


def test_ever_delivered_stops_where_an_earlier_consent_ended(local_store: ObjectStore) -> None:
    deliver(local_store, simple(DAY1, P1=["1.00"], P2=["1.00"], P3=["1.00"]))
    content = {"P1": ("CURRENT", ("1.00",)), "P2": ("REMOVED", ()), "P3": ("CURRENT", ("1.00",))}
    deliver(local_store, replace(Day(DAY2, content), broken=["P3"]))
    numbers = ["P1", "P2", "P3", "P9"]
    assert ever_delivered(local_store, FEED, AUDIENCE, numbers, DAY3) == {"P1", "P3"}
    assert ever_delivered(local_store, FEED, AUDIENCE, numbers, DAY2) == {"P1", "P2", "P3"}
    assert ever_delivered(local_store, FEED, AUDIENCE, numbers, DAY1) == frozenset()


def test_files_other_than_manifests_are_ignored(local_store: LocalStore) -> None:
    deliver(local_store, simple())
    for key in ("r01/manifest.json", "r0/notes/manifest.json", "x/manifest.json"):
        local_store.put(f"delivered/{FEED}/2023-01-03/{key}", b"?")
    assert len(delivered_state(local_store, FEED, DAY1).revisions) == 1
    local_store.put(manifest_key(FEED, DAY1, 1), b'{"kind": "delivery", "name": "Jane Citizen"}')
    with pytest.raises(DamagedRecordError, match=r"classfeed verify.*|not a readable record") as caught:
        delivered_state(local_store, FEED, DAY1)
    assert "Jane" not in str(caught.value)


# --- Building -----------------------------------------------------------------------------------------------------


def pages_text(store: ObjectStore, key: str) -> bytes:
    data = store.read(key)
    return gzip.decompress(data) if key.endswith(".gz") else data


@on_s3_too
def test_build_is_staged_once_and_read_back(store: ObjectStore) -> None:
    new_build = build(store, simple())
    assert read_build(store, FEED, DAY1, new_build.build_id) == new_build
    before = {key: store.read(key) for key in store.list("")}
    assert build(store, simple(), correlation_id="another") == new_build
    assert {key: store.read(key) for key in store.list("")} == before
    assert new_build.unchanged == 0
    assert {p.page for p in new_build.portfolios} == {page.message_id for page in new_build.pages}


def test_delivered_content_is_counted_and_not_sent_again(local_store: ObjectStore) -> None:
    deliver(local_store, simple())
    new_build = build(local_store, simple(snapshot="s2", **{**AMOUNTS, "P2": ["2.00"], "P4": []}))
    assert [portfolio.number for portfolio in new_build.portfolios] == ["P2", "P4"]
    assert new_build.unchanged == 3


@pytest.mark.parametrize("compress", [True, False])
def test_pages_hold_whole_portfolios_within_the_limit(local_store: ObjectStore, compress: bool) -> None:
    day = Day(DAY1, {f"P{at:03}": ("NEW", (f"{at}.00",) * (at % 7)) for at in range(80)})
    new_build = build(local_store, day, compress=compress, max_page_bytes=8192 + 300)
    assert len(new_build.pages) > 5
    calls: list[str] = []
    for page in new_build.pages:
        assert page.key.endswith(".txt.gz" if compress else ".txt")
        lines = pages_text(local_store, page.key).decode().splitlines()
        assert sum(len(line) + 1 for line in lines if line[0] in "AC") <= 300
        calls += [line.split("|")[1] for line in lines if line.startswith("A|")]
    assert calls == sorted(day.content)
    assert new_build.totals.counts == {"accounts": 80, "cash": sum(at % 7 for at in range(80))}


@examples(25)
@given(
    amounts=st.dictionaries(
        st.sampled_from([f"P{at}" for at in range(12)]), st.lists(st.integers(-(10**9), 10**9), max_size=4), max_size=12
    ),
    slice_size=st.integers(1, 13),
    limit=st.integers(1, 200),
)
def test_slices_change_no_byte_and_every_record_is_on_one_page(
    tmp_path_factory: pytest.TempPathFactory, amounts: dict[str, list[int]], slice_size: int, limit: int
) -> None:
    day = Day(DAY1, {n: ("NEW", tuple(str(Decimal(v).scaleb(-2)) for v in values)) for n, values in amounts.items()})
    item = LocalStore(tmp_path_factory.mktemp("one"))
    other = LocalStore(tmp_path_factory.mktemp("other"))
    new_build = build(item, day, slice_size=slice_size, max_page_bytes=8192 + limit)
    assert build(other, day, slice_size=100, max_page_bytes=8192 + limit) == new_build
    assert {key: item.read(key) for key in item.list("")} == {key: other.read(key) for key in other.list("")}
    examined = examine_build(item, new_build, FORMAT)
    inside = [number for result in examined for number in sorted(result.facts.portfolios["accounts"])]
    assert inside == sorted(amounts)
    assert all(result.facts.totals == result.page.expected or not amounts for result in examined)


def test_held_back_portfolios_are_not_even_rendered(local_store: ObjectStore) -> None:
    new_build = build(local_store, replace(simple(), broken=["P2"]))
    staged = b"".join(pages_text(local_store, page.key) for page in new_build.pages)
    assert b"P2" not in staged
    assert [hold.number for hold in new_build.held_back] == ["P2"]


@dataclass(frozen=True)
class Wrong(LinesFormat):
    """Renders what it was not given."""

    how: str = ""

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        rendered = list(super().render(frames))
        if self.how == "twice":
            rendered *= 2
        elif self.how == "out of order":
            rendered.reverse()
        elif self.how == "missing":
            rendered = rendered[1:]
        elif self.how == "other":
            rendered.append(RenderedPortfolio("P9", {}, Totals()))
        yield from rendered


@pytest.mark.parametrize(
    ("how", "message"),
    [("twice", "twice"), ("out of order", "out of order"), ("missing", "1 portfolio"), ("other", "P9")],
)
def test_format_rendering_other_portfolios_is_a_fault(local_store: ObjectStore, how: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build(local_store, simple(P1=["1.00"], P2=["1.00"]), document_format=Wrong(how=how))
    assert list(local_store.list("staged/")) == []


def test_slices_with_later_sections_are_aligned(local_store: ObjectStore) -> None:
    """A section that only the second portfolio has begins where it should."""

    @dataclass(frozen=True)
    class Sparse(LinesFormat):
        def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
            for slice_ in super().render(frames):
                yield replace(slice_, sections={name: data for name, data in slice_.sections.items() if data})

    day = simple(P1=[], P2=["2.00"], P3=[], P4=["4.00"])
    plain = build(local_store, day)
    sparse = build(local_store, day, document_format=Sparse())
    assert [page.document_sha256 for page in sparse.pages] == [page.document_sha256 for page in plain.pages]


def test_format_of_one_file_names_it_and_is_never_paged(local_store: ObjectStore) -> None:
    @dataclass(frozen=True)
    class OneFile(LinesFormat):
        @property
        def page_rule(self) -> PageRule:
            return PageRule.ONE_FILE

        def file_stem(self, header: PageHeader) -> str:
            return f"{header.feed}_{header.business_date:%Y%m%d}_r{header.revision}"

    new_build = build(local_store, simple(), document_format=OneFile())
    assert [page.key.rpartition("/")[2] for page in new_build.pages] == [f"{FEED}_20230103_r0.txt.gz"]


def test_another_processors_compression_is_taken_as_it_was_staged(local_store: LocalStore) -> None:
    new_build = build(local_store, simple())
    key = new_build.pages[0].key
    repacked = gzip.compress(gzip.decompress(local_store.read(key)), 1, mtime=0)
    local_store.put(key, repacked)
    local_store.delete(f"staged/{FEED}/2023-01-03/{new_build.build_id}/build.json")
    again = build(local_store, simple())
    assert again.build_id == new_build.build_id
    assert again.pages[0].bytes == len(repacked)


@pytest.mark.parametrize(
    ("data", "message"), [(b"?", "is unreadable"), (gzip.compress(b"another document", mtime=0), "is not the document")]
)
def test_damaged_staged_page_is_detected(local_store: LocalStore, data: bytes, message: str) -> None:
    new_build = build(local_store, simple())
    local_store.put(new_build.pages[0].key, data)
    with pytest.raises(DamagedRecordError, match=message):
        build(local_store, simple())


def test_new_version_of_the_code_is_another_build(local_store: ObjectStore) -> None:
    assert build(local_store, simple()).build_id != build(local_store, simple(), code_version="2.0").build_id


def test_flags_are_part_of_the_build(local_store: ObjectStore) -> None:
    day = simple()
    context = terms(local_store, day, flags={"jump_released": True})
    new_build = build_delivery(local_store, context, plan(local_store, day), day.slices())
    assert new_build.flags == {"jump_released": True}
    assert new_build.build_id != build(local_store, day).build_id


def test_digests_tell_sections_apart() -> None:
    def rendered(**sections: bytes) -> RenderedPortfolio:
        return RenderedPortfolio("P1", sections, Totals())

    contents = [{"a": b"xy"}, {"a": b"x", "b": b"y"}, {"a": b"x\n", "b": b""}, {"b": b"xy"}, {}]
    digests = {content_digest(rendered(**content)) for content in contents}
    assert len(digests) == len(contents)
    assert content_digest(rendered(a=b"1", b=b"2")) == content_digest(rendered(b=b"2", a=b"1"))


# --- Page files and records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
def test_chunks_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: bool) -> None:
    monkeypatch.setattr(pages, "_BLOCK", 64)
    text = bytes(itertools.islice(itertools.cycle(range(256)), 1000))
    suffix = ".gz" if compress else ""
    facts = [
        write_page(
            (text[at : at + size] for at in range(0, 1000, size)), tmp_path / f"{size}.txt{suffix}", compress=compress
        )
        for size in (1, 7, 64, 999, 1000)
    ]
    assert len(set(facts)) == 1
    path = tmp_path / f"7.txt{suffix}"
    assert written(path) == facts[0]
    assert b"".join(read_page(path)) == text


def test_records_are_canonical() -> None:
    void = VoidManifest(
        feed=FEED, business_date=DAY1, revision=0, chain_position=1, previous=None, reason="é", correlation_id="x"
    )
    data = to_json(void)
    assert data.endswith(b"}\n")
    assert "é".encode() in data
    assert to_json(from_json(VoidManifest, data, "here")) == data
    with pytest.raises(DamagedRecordError, match=r"here: not a readable record \(.* and \d+ more\)"):
        from_json(VoidManifest, b'{"a":1,"b":2,"c":3}', "here")


def test_quarantine_keys_of_odd_numbers_are_distinct() -> None:
    keys = {quarantine_key(FEED, DAY1, number) for number in ("P1", "p1", "P 1", "P/1", "", "..")}
    assert len(keys) == 6
