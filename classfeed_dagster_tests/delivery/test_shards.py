"""A document made by several workers is the one that a single one makes, and what isn't whole is not taken."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.delivery.build import Build, build_delivery
from classfeed_dagster.delivery.shards import (
    FanOutPlan,
    context_digest,
    fan_out,
    fan_out_pages,
    merge,
    render_shard,
    write_pages,
)
from classfeed_dagster.errors import BuildError, DamagedRecordError
from classfeed_dagster.store import LocalStore, ObjectNotFoundError, ObjectStore
from classfeed_dagster_tests.fixtures.delivery_pipeline import DAY1, Day, deliver, plan, terms
from classfeed_dagster_tests.fixtures.examples import examples

NUMBERS = [f"P{at}" for at in range(9)]
MADE_OF = ["0" * 64]
SMALL = 8192 + 60


def by_several(store: ObjectStore, day: Day, shard_size: int, *, order: int = 1, max_page_bytes: int = SMALL) -> Build:
    """Run the steps of a large date, its shards in order or (-1) in reverse."""
    context = terms(store, day, max_page_bytes=max_page_bytes)
    shared = shared_out(store, day, shard_size, max_page_bytes)
    frames = list(day.slices(shard_size))
    for shard in range(len(shared.shards))[::order]:
        render_shard(store, context, shared, shard, [frames[shard]])
    for batch in range(fan_out_pages(store, context, shared))[::order]:
        write_pages(store, context, shared, batch)
    return merge(store, context, shared)


def shared_out(store: ObjectStore, day: Day, shard_size: int, max_page_bytes: int = SMALL) -> FanOutPlan:
    numbers = sorted(day.content)
    last = [numbers[at : at + shard_size][-1] for at in range(0, len(numbers), shard_size)]
    return fan_out(store, terms(store, day, max_page_bytes=max_page_bytes), plan(store, day), last, MADE_OF)


def by_one(store: ObjectStore, day: Day, max_page_bytes: int = SMALL) -> Build:
    return build_delivery(store, terms(store, day, max_page_bytes=max_page_bytes), plan(store, day), day.slices())


def contents(store: ObjectStore, build: Build) -> list[bytes]:
    return [store.read(page.key) for page in build.pages]


def keyless(build: Build) -> Build:
    return build.model_copy(update={"pages": tuple(page.model_copy(update={"key": ""}) for page in build.pages)})


amounts = st.lists(st.decimals(-1000, 1000, places=2).map(str), max_size=4)
days = st.builds(
    Day,
    st.just(DAY1),
    st.dictionaries(st.sampled_from(NUMBERS), st.tuples(st.sampled_from(["NEW", "CURRENT"]), amounts), min_size=1),
    st.lists(st.sampled_from(NUMBERS), max_size=2, unique=True),
    held_back_limit=st.just(1),
)


@examples(60)
@given(
    day=days,
    shard_size=st.integers(1, 10),
    order=st.sampled_from([1, -1]),
    max_page_bytes=st.integers(8192 + 1, 8192 + 300),
)
def test_shards_give_the_bytes_of_one_worker(day: Day, shard_size: int, order: int, max_page_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stores = [LocalStore(Path(folder) / name) for name in ("one", "several")]
        alone = by_one(stores[0], day, max_page_bytes)
        together = by_several(stores[1], day, shard_size, order=order, max_page_bytes=max_page_bytes)
        assert keyless(together) == keyless(alone)
        assert contents(stores[1], together) == contents(stores[0], alone)
        # Once more, as after a crash: nothing is made anew.
        before = set(stores[1].list(""))
        assert by_several(stores[1], day, shard_size, max_page_bytes=max_page_bytes) == together
        assert set(stores[1].list("")) == before


def test_several_workers_after_one_reuse_the_staged_shards(local_store: ObjectStore) -> None:
    day = Day(DAY1, {number: ("NEW", ["1.00"]) for number in NUMBERS})
    alone = by_one(local_store, day)
    assert by_several(local_store, day, 2) == alone


def test_shard_of_many_portfolios_is_rendered(local_store: ObjectStore, tmp_path: Path) -> None:
    """More than are written to a file at a time, on pages that begin and end anywhere."""
    day = Day(DAY1, {f"P{at:04}": ("NEW", [f"{at}.25"]) for at in range(450)})
    together = by_several(local_store, day, 300, max_page_bytes=8192 + 1000)
    alone = by_one(other := LocalStore(tmp_path / "alone"), day, 8192 + 1000)
    assert keyless(together) == keyless(alone)
    assert contents(local_store, together) == contents(other, alone)


def test_reissue_renders_changed_portfolios_only(local_store: ObjectStore) -> None:
    day = Day(DAY1, {number: ("NEW", ["1.00"]) for number in NUMBERS})
    deliver(local_store, day)
    nothing = by_several(local_store, day, 4)
    assert (nothing.pages, nothing.portfolios, nothing.unchanged) == ((), (), len(NUMBERS))
    changed = Day(DAY1, {**day.content, "P5": ("NEW", ["2.00"])}, snapshot="s2")
    again = by_several(local_store, changed, 4)
    assert [portfolio.number for portfolio in again.portfolios] == ["P5"]
    assert (again.unchanged, again.revision, len(again.pages)) == (8, 1, 1)


@pytest.fixture
def day() -> Day:
    return Day(DAY1, {number: ("NEW", ["1.00", "-0.50"]) for number in NUMBERS})


def test_context_digest_covers_the_delivery_context(local_store: ObjectStore, day: Day) -> None:
    def under(inputs: Sequence[str] = MADE_OF, **others: Any) -> str:
        return context_digest(terms(local_store, day, **others), inputs)

    others = [under(["1" * 64]), under(code_version="2.0"), under(max_page_bytes=9000), under(flags={"mode": "live"})]
    assert len({under(), *others}) == 1 + len(others)
    assert under() == under(correlation_id="another attempt")
    first = shared_out(local_store, day, 4)
    fewer = shared_out(local_store, day.without("P3"), 4)
    assert first.context_digest == fewer.context_digest
    assert first.prefix != fewer.prefix
    planned = plan(local_store, day)
    cut_short = replace(planned, included=planned.included[:-1])  # no portfolio is reported as held back
    assert fan_out(local_store, terms(local_store, day), cut_short, NUMBERS[3::4], MADE_OF).prefix != first.prefix
    one_held = plan(local_store, replace(day, broken=["P3"]))
    nobody_held = replace(one_held, held_back=())
    message = [
        fan_out(local_store, terms(local_store, day), person, NUMBERS[3::4], MADE_OF)
        for person in (one_held, nobody_held)
    ]
    assert message[0].prefix != message[1].prefix


def test_portfolio_after_the_last_shard_belongs_to_it(local_store: ObjectStore, day: Day) -> None:
    shared = fan_out(local_store, terms(local_store, day), plan(local_store, day), ["P3", "P5"], MADE_OF)
    assert [shard.portfolios for shard in shared.shards] == [4, 5]


def test_pages_are_written_in_two_batches_per_shard(local_store: ObjectStore, day: Day) -> None:
    shared, context = shared_out(local_store, day, 5), terms(local_store, day, max_page_bytes=8192 + 1)
    for shard, frames in enumerate(day.slices(5)):
        render_shard(local_store, context, shared, shard, [frames])
    assert fan_out_pages(local_store, context, shared) == 3  # nine pages: 3 + 3 + 3, four batches would hold 2.25
    for batch in range(3):
        write_pages(local_store, context, shared, batch)
    assert len(merge(local_store, context, shared).pages) == 9


def test_batch_may_be_a_single_page(local_store: ObjectStore) -> None:
    day = Day(DAY1, {number: ("NEW", ["1.00"]) for number in NUMBERS[:2]})
    shared, context = shared_out(local_store, day, 2), terms(local_store, day, max_page_bytes=8192 + 1)
    render_shard(local_store, context, shared, 0, day.slices(2))
    assert fan_out_pages(local_store, context, shared) == 2


def test_temporary_files_are_removed(
    s3_store: ObjectStore, day: Day, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert len(by_several(s3_store, day, 4).pages) > 1
    assert list(tmp_path.iterdir()) == []


def test_shard_of_other_portfolios_is_refused(local_store: ObjectStore, day: Day) -> None:
    shared = shared_out(local_store, day, 3)
    frames = list(day.slices(3))
    with pytest.raises(BuildError, match="no record of 3 portfolios of the plan"):
        render_shard(local_store, terms(local_store, day), shared, 0, [frames[1]])


def test_missing_shard_is_refused(local_store: ObjectStore, day: Day) -> None:
    shared, context = shared_out(local_store, day, 3), terms(local_store, day)
    render_shard(local_store, context, shared, 0, [next(day.slices(3))])
    with pytest.raises(ObjectNotFoundError, match=r"rendered-0001\.json"):
        fan_out_pages(local_store, context, shared)


def test_changed_shard_is_refused(local_store: ObjectStore, day: Day) -> None:
    shared, context = shared_out(local_store, day, 9), terms(local_store, day)
    render_shard(local_store, context, shared, 0, day.slices(9))
    (key,) = (key for key in local_store.list(shared.prefix) if key.endswith(".parquet"))
    local_store.put(key, b"PAR1 no more")
    with pytest.raises(DamagedRecordError, match="it differs from the rendered file"):
        fan_out_pages(local_store, context, shared)


def test_missing_batch_is_refused(local_store: ObjectStore, day: Day) -> None:
    """Another attempt has divided the pages into fewer batches."""
    shared, context = shared_out(local_store, day, 9), terms(local_store, day)
    render_shard(local_store, context, shared, 0, day.slices(9))
    batches = fan_out_pages(local_store, context, shared)
    before = list(local_store.list(""))
    write_pages(local_store, context, shared, batches)
    assert list(local_store.list("")) == before
    write_pages(local_store, context, shared, batches - 1)
    assert list(local_store.list("")) != before
