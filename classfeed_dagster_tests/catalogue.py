"""The catalogue of test cases: portfolios by name, each built by the one builder, each saying what it is for.

All cases live around the same days: the feed's first business date is Monday, 2 March 2026, so February's end is the
weekend before it. ``Cast(bigsite)`` makes cases by name, as often as they are asked for::

    cast = Cast(Bigsite(engine))
    cast["a reversal across month end"]   # a Portfolio of the builder

Features name them too. A case that nobody names is found by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from classfeed_dagster_tests.bigsite_builder import Bigsite, Portfolio, Row

MONDAY, TUESDAY, WEDNESDAY = "2026-03-02", "2026-03-03", "2026-03-04"
_SHARES_SINCE = "2026-02-20T00:00:00Z"
_PRICES = {"2026-02-27": "45.10", MONDAY: "45.50", TUESDAY: "45.80", WEDNESDAY: "45.20"}
_CODES = {"BHP": {}, "NAB": {}, "OLD": {}, "PELC": {"exchange": "NASDAQ", "currency": "USD"}}


@dataclass(frozen=True, slots=True)
class Case:
    """One case. ``breaks``: the rule that holds it back from the first date on; None: it goes."""

    name: str
    purpose: str
    build: Callable[[Cast, Portfolio], None]
    breaks: str | None = None
    shares: bool = True


CASES: dict[str, Case] = {}


def case(
    name: str, purpose: str, *, breaks: str | None = None, shares: bool = True
) -> Callable[[Callable[[Cast, Portfolio], None]], Callable[[Cast, Portfolio], None]]:
    """Enters a function into the catalogue: given a new portfolio, it makes it what the name says."""

    def enter(build: Callable[[Cast, Portfolio], None]) -> Callable[[Cast, Portfolio], None]:
        assert name not in CASES, f"two cases are called {name!r}"
        CASES[name] = Case(name, purpose, build, breaks, shares)
        return build

    return enter


@dataclass
class Cast:
    """The cases in one bigsite, made when first asked for."""

    bigsite: Bigsite
    portfolios: dict[str, Portfolio] = field(default_factory=dict)
    securities: dict[str, Row] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Portfolio:
        if name not in CASES:
            raise KeyError(f"the catalogue has no {name!r}; it has {', '.join(sorted(CASES))}")
        if name not in self.portfolios:
            # A portfolio's number says its case, so that whatever fails names it.
            number = f"SW{list(CASES).index(name) + 1:08d}"
            portfolio = self.portfolios[name] = self.bigsite.portfolio(number)
            if CASES[name].shares:
                portfolio.consent(granted_at=_SHARES_SINCE)
            portfolio.deposit("20000.00", "2026-02-23")
            CASES[name].build(self, portfolio)
        return self.portfolios[name]

    def security(self, code: str) -> Row:
        """One of the market's few securities."""
        if code not in self.securities:
            self.securities[code] = self.bigsite.security(code, price=_PRICES, **_CODES[code])
        return self.securities[code]

    def name_of(self, number: str) -> str:
        """The case of a portfolio number."""
        return next(name for name, portfolio in self.portfolios.items() if portfolio.number == number)


# -- who shares, and from when ----------------------------------------------------------------------------------------


@case("a saver with one share", "the plainest portfolio: a deposit, a purchase, a settlement")
def saver(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("BHP"), "100", "45.00", "2026-02-24")


@case("another saver with one share", "somebody who goes when the first one doesn't")
def other_saver(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("BHP"), "60", "45.00", "2026-02-24")


@case("a customer who never consents", "must never appear in any document", shares=False)
def private(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("BHP"), "10", "45.00", "2026-02-24")


@case("a customer who consents on Tuesday", "is new on Tuesday, with the whole history", shares=False)
def joiner(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.consent(granted_at="2026-03-03T01:00:00Z")
    portfolio.buy(cast.security("BHP"), "30", "45.00", "2026-02-24")


@case("a customer who leaves on Tuesday", "is announced as removed, once, in Tuesday's document", shares=False)
def leaver(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.consent(granted_at=_SHARES_SINCE, revoked_at="2026-03-03T02:00:00Z")
    portfolio.buy(cast.security("BHP"), "20", "45.00", "2026-02-24")


@case("a consent that begins after the first trades", "what stood before comes as opening records", shares=False)
def late_history(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.consent(granted_at=_SHARES_SINCE, history_from="2026-02-25")
    portfolio.buy(cast.security("BHP"), "100", "44.00", "2026-02-24")
    portfolio.sell(cast.security("BHP"), "40", "45.10", "2026-02-27")


# -- ledgers ----------------------------------------------------------------------------------------------------------


@case("a reversal across month end", "a February trade undone in March: same dates, opposite signs, another window")
def reversal(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("NAB"), "50", "30.00", "2026-02-24")
    wrong = portfolio.buy(cast.security("BHP"), "100", "45.00", "2026-02-25")
    portfolio.reverse(wrong, "2026-03-03T03:00:00Z")


@case("a row backdated by a week", "travels in the window in which it was recorded, and restates past end of days")
def backdated(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("BHP"), "100", "45.00", "2026-02-24")
    portfolio.security_movement(
        cast.security("BHP"), "TRANSFER_IN", "25", "2026-02-24", recorded_at="2026-03-03T04:00:00Z"
    )


@case("a sale that is not settled yet", "units are gone and the money is still to come on the first date")
def unsettled(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("BHP"), "100", "45.00", "2026-02-24")
    portfolio.sell(cast.security("BHP"), "70", "45.50", MONDAY)


@case("a dividend reinvested", "income without cash; the units come as a movement of their own")
def reinvestor(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("BHP"), "200", "45.00", "2026-02-24")
    portfolio.dividend(cast.security("BHP"), "137.40", MONDAY, ex_date="2026-02-26", reinvested_units="3")


@case("a fund in pension phase", "franked dividends in cash, a pension paid out, tax withheld by nobody")
def pension(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("NAB"), "300", "30.00", "2026-02-24")
    portfolio.dividend(cast.security("NAB"), "252.00", MONDAY, ex_date="2026-02-26")
    portfolio.withdraw("1500.00", MONDAY, description="Pension payment")


@case("dollars abroad", "a second cash account in another currency, with American shares in it")
def abroad(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.deposit("5000.00", "2026-02-23", account=portfolio.cash("USD"))
    portfolio.buy(cast.security("PELC"), "40", "45.00", "2026-02-24")


@case("a share that is renamed on Tuesday", "the holding carries the code of the date, and stays one security")
def renamed(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.buy(cast.security("OLD"), "80", "45.00", "2026-02-24")
    cast.bigsite.code_change(cast.security("OLD"), TUESDAY, "NEW")


@case("a name that needs escaping", "letters, signs and quotes that XML and CSV must carry unharmed")
def escaped(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.row["portfolio_name"] = 'Nguyễn & Søren <"Ünïted"> O\'Brien, Super Fund'
    portfolio.buy(cast.security("BHP"), "5", "45.00", "2026-02-24")


# -- what is held back ------------------------------------------------------------------------------------------------


@case("a HIN that is too short", "the registries could not match it: held back", breaks="hin_shape")
def short_hin(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.row["hin"] = "X001234"


@case("an ABN with a wrong check digit", "somebody mistyped it: held back", breaks="abn_check_digits")
def wrong_abn(cast: Cast, portfolio: Portfolio) -> None:
    portfolio.row["abn"] = "12345678901"


@case("a contract note that does not add up", "carried numbers are checked, never mended", breaks="net_amount")
def wrong_note(cast: Cast, portfolio: Portfolio) -> None:
    note = portfolio.buy(cast.security("BHP"), "10", "45.00", "2026-02-24", settles=False)
    note["net_amount"] = note["net_amount"] + 1
