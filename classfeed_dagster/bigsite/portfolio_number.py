"""A portfolio's key by its number."""

from __future__ import annotations

import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import portfolio
from classfeed_dagster.errors import UsageError


class UnknownPortfolioError(UsageError):
    """bigsite has no portfolio of this number."""


def require_portfolio(connection: sa.Connection, number: str) -> int:
    """Return bigsite's key of a portfolio; UnknownPortfolioError if there is none of this number."""
    key: int | None = connection.scalar(
        sa.select(portfolio.c.portfolio_id).where(portfolio.c.portfolio_number == number)
    )
    if key is None:
        raise UnknownPortfolioError(f"bigsite has no portfolio {number!r}: check the number")
    return key
