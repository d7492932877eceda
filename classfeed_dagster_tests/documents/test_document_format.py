"""Shared parts of all formats: additive control totals, and division of portfolios into pages."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.documents.document_format import CurrencyTotals, Paging, Totals

SUMS = st.decimals("-1e6", "1e6", places=2)
TOTALS = st.builds(
    Totals,
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    st.dictionaries(st.sampled_from(["AUD", "USD"]), st.builds(CurrencyTotals, *[SUMS] * 5), max_size=2),
    SUMS,
    SUMS,
)


@given(st.lists(TOTALS, max_size=6))
def test_totals_are_added_field_by_field(some: list[Totals]) -> None:
    together = sum(some, Totals())
    for name in "abc":
        assert together.counts.get(name, 0) == sum(portfolio.counts.get(name, 0) for portfolio in some)
    for currency in ("AUD", "USD"):
        result = together.currencies.get(currency, CurrencyTotals())
        for field in CurrencyTotals.__slots__:
            sums = [
                getattr(portfolio.currencies[currency], field) for portfolio in some if currency in portfolio.currencies
            ]
            assert getattr(result, field) == sum(sums, Decimal(0))
    assert list(together.currencies) == sorted(together.currencies)
    assert (together.units_held, together.units_moved) == (
        sum((portfolio.units_held for portfolio in some), Decimal(0)),
        sum((portfolio.units_moved for portfolio in some), Decimal(0)),
    )


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 40))
def test_pages_are_filled_in_order_within_the_limit(sizes: list[int], limit: int) -> None:
    paging = Paging(limit)
    numbers = [paging.add(size) for size in sizes]
    pages = paging.pages
    assert [at for page in pages for at in page] == list(range(len(sizes)))
    assert numbers == [number for number, page in enumerate(pages, 1) for _ in page]
    for page, following in zip(pages, [*pages[1:], None], strict=True):
        used = sum(sizes[at] for at in page)
        assert used <= limit or len(page) == 1
        assert following is None or used + sizes[following.start] > limit
    assert len(pages) == 1 or all(pages)


def test_pages_without_a_limit_are_one() -> None:
    paging = Paging(None)
    assert paging.pages == [range(0)]
    assert [paging.add(10**12) for _ in range(3)] == [1, 1, 1]
    assert paging.pages == [range(3)]
