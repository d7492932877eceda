"""Declarations of the data rules: the condition, the severity of a breach and the remedy.

QUARANTINE holds the portfolio back until bigsite is corrected; the other portfolios are delivered. WARNING informs
people and never stops a delivery: valid contract notes break these rules too. ``breaches`` detects the breaches.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import polars as pl

from classfeed_dagster.bigsite.ledger_tables import LETTERS
from classfeed_dagster.domains import breaches
from classfeed_dagster.domains.columns import (
    ACCOUNT_BALANCES,
    ACCOUNTS,
    FINDINGS,
    INVESTMENT_HOLDINGS,
    MOVEMENT_TRANSACTIONS,
)
from classfeed_dagster.domains.ledger_rows import OPENING_CASH, OPENING_UNITS, carried_ledgers
from classfeed_dagster.domains.slice import Slice

Check = Callable[[Slice, Mapping[str, pl.DataFrame]], pl.DataFrame]


class RuleSeverity(enum.StrEnum):
    """Effect of a breach."""

    QUARANTINE = "QUARANTINE"
    WARNING = "WARNING"


@dataclass(frozen=True, slots=True)
class DataRule:
    """One rule over the frames of one domain. ``breaches`` returns portfolio_number, subject, detail.

    The condition adds to the title; it is empty if the title states all.
    """

    name: str
    domain: str
    title: str
    severity: RuleSeverity
    condition: str
    remedy: str
    breaches: Check

    @property
    def description(self) -> str:
        """Title, condition, remedy and effect, for the check in the UI."""
        return _description(self.title, self.condition, self.remedy, self.severity)


_EFFECTS = {
    RuleSeverity.QUARANTINE: (
        "The portfolio is held back; the others are delivered. Once bigsite is corrected, it is delivered "
        "automatically."
    ),
    RuleSeverity.WARNING: "It is a warning: nothing is held back.",
}


def _description(title: str, condition: str, remedy: str, severity: RuleSeverity) -> str:
    detail = f" {condition}" if condition else ""
    return f"{title}.{detail} If it fails: {remedy} {_EFFECTS[severity]}"


def _quarantine(domain: str, check: Check, title: str, condition: str, remedy: str) -> DataRule:
    return DataRule(check.__name__, domain, title, RuleSeverity.QUARANTINE, condition, remedy, check)


def _warning(domain: str, check: Check, title: str, condition: str, remedy: str) -> DataRule:
    return DataRule(check.__name__, domain, title, RuleSeverity.WARNING, condition, remedy, check)


_READABLE = "No value is NaN, infinite or a year beyond 9999."
_FREE_TEXT = (
    "A tax file number, card number or e-mail address is masked in documents; with `CLASSFEED_FREE_TEXT=hold-back` the "
    "portfolio is held back."
)
_CORRECT = "have the value that the reason names corrected."
_NEW_VALUE = "agree the new value's meaning with the recipient, then extend the contract."
_CODE = (
    "The code on the {} date is 1 to 12 capitals, digits or full stops; the exchange has letters, digits and `.-_:`."
)
_SECURITY_ISIN = "Two letters, nine letters or digits, a digit. Other text is left out."

RULES: tuple[DataRule, ...] = (
    _quarantine(
        "consented_portfolios",
        breaches.unreadable_value,
        "Values of the portfolio can be read",
        _READABLE + " A row with such a value is not landed.",
        _CORRECT,
    ),
    _warning(
        "consented_portfolios",
        breaches.history_begins_later,
        "Shared history has begun",
        "Until the start date on the consent, the recipient's sums are below the holdings, also if the customer shares "
        "an earlier history before that date.",
        "ask client services whether that start date is intended. `classfeed refresh` sends an earlier history that "
        "was shared since.",
    ),
    _quarantine(
        "account_details",
        breaches.unknown_account_value,
        "Entity types and statuses are known",
        "Portfolio and cash accounts have values of bigsite's contract.",
        _NEW_VALUE,
    ),
    _quarantine(
        "account_details",
        breaches.hin_shape,
        "HIN is X and ten digits",
        "",
        "have client services correct the HIN.",
    ),
    _quarantine(
        "account_details",
        breaches.abn_check_digits,
        "ABN passes its check digits",
        "",
        "have client services correct the ABN.",
    ),
    _quarantine(
        "account_details",
        breaches.bsb_shape,
        "BSB is NNN-NNN",
        "",
        "have client services correct the BSB.",
    ),
    _quarantine(
        "account_details",
        breaches.shared_hin,
        "A HIN belongs to one portfolio",
        "Every open portfolio with a shared HIN is held back.",
        "have client services find its owner and correct the others.",
    ),
    _quarantine(
        "account_details",
        breaches.shared_account_number,
        "A BSB and number belong to one cash account",
        "Every portfolio with an open account of the same BSB, number and currency is held back.",
        "have client services find its owner and correct the others.",
    ),
    _warning(
        "account_details",
        breaches.bsb_missing,
        "Accounts in AUD have a BSB",
        "",
        "have client services add it.",
    ),
    _quarantine(
        "account_details",
        breaches.ambiguous_cash_account,
        "Cash accounts are distinguishable",
        "No two of a portfolio have the same number and currency.",
        "have the wrong account corrected.",
    ),
    _warning(
        "account_details",
        breaches.identifier_in_name,
        "Names contain no identifier of a person",
        _FREE_TEXT,
        "have client services remove it.",
    ),
    _quarantine(
        "account_balances",
        breaches.balance_missing,
        "Every open cash account has an end-of-day balance",
        "Open on the business date.",
        "ask bigsite's team to run its end of day for the account.",
    ),
    _quarantine(
        "account_balances",
        breaches.cash_ledger,
        "Cash ledger sums to the balance",
        "It counts transactions dated by the business date and recorded by the end-of-day run. A closed or unopened "
        "account sums to zero.",
        "compare cash_balance_eod with cash_transaction; bigsite's team corrects the wrong one.",
    ),
    _warning(
        "investment_holdings",
        breaches.holding_isin,
        "ISINs of held securities have the right form",
        _SECURITY_ISIN,
        "have bigsite's security corrected.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.unreadable_holding_security,
        "Values of held securities can be read",
        _READABLE + " A price or code change with such a value is not landed.",
        _CORRECT,
    ),
    _quarantine(
        "investment_holdings",
        breaches.holding_missing,
        "Every security with units has an end-of-day holding",
        "A security has units if its ledger does not sum to zero.",
        "ask bigsite's team to run its end of day for the holding.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.units_ledger,
        "Units ledger sums to the holding",
        "It counts trades and security movements dated by the business date and recorded by the end-of-day run.",
        "compare holding_eod with trade and security_movement; bigsite's team corrects the wrong one.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.holding_too_large,
        "Figures of a holding fit the document",
        "Units x price and settled units have few enough digits.",
        "very likely wrong: have units or price corrected.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.unknown_security_type,
        "Security types are known",
        "They are values of bigsite's contract.",
        _NEW_VALUE,
    ),
    _quarantine(
        "investment_holdings",
        breaches.ambiguous_security,
        "Holdings are distinguishable",
        "No two of a portfolio have the same exchange and code on the business date.",
        "look for a code change missing in security_code_change, or a security entered twice.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.holding_code,
        "Security codes of holdings are well-formed",
        _CODE.format("business"),
        "have bigsite's security or security_code_change corrected.",
    ),
    _warning(
        "investment_holdings",
        breaches.isin_check_digit,
        "ISIN passes its check digit",
        "",
        "have bigsite's security corrected.",
    ),
    _warning(
        "movement_transactions",
        breaches.movement_isin,
        "ISINs of moved securities have the right form",
        _SECURITY_ISIN,
        "have bigsite's security corrected.",
    ),
    _warning(
        "movement_transactions",
        breaches.identifier_in_narrative,
        "Narratives contain no identifier of a person",
        _FREE_TEXT,
        "name the row to client services, so that bigsite's team changes the text.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.unreadable_movement_security,
        "Values of moved securities can be read",
        _READABLE + " A price or code change with such a value is not landed.",
        _CORRECT,
    ),
    _quarantine(
        "movement_transactions",
        breaches.unknown_transaction_type,
        "Transaction types are known",
        "They are values of bigsite's contract; none is sent as 'other'.",
        _NEW_VALUE,
    ),
    _quarantine(
        "movement_transactions",
        breaches.movement_code,
        "Security codes of movements are well-formed",
        _CODE.format("transaction"),
        "have bigsite's security or security_code_change corrected.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.net_amount,
        "Net amount agrees with consideration, fees and side",
        "BUY: consideration + brokerage + other fees. SELL: consideration - brokerage - other fees.",
        "compare with the contract note; have a wrong row reversed and entered again.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.repeated_confirmation,
        "No confirmation is recorded twice",
        "Number, side, security and units identify it. A reversed row does not count.",
        "have the surplus row reversed.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.foreign_reversal,
        "A reversal undoes a row of its own portfolio",
        "",
        "have it reversed and entered on the right account.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.inexact_reversal,
        "A reversal undoes exactly its original",
        "Its units and amounts are the opposite, on the same security and account. A reversal that was reversed since "
        "is no breach.",
        "have it reversed and a right one entered.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.repeated_reversal,
        "A row is undone once",
        "",
        "have the surplus reversal reversed.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.foreign_relation,
        "A cash movement names causes of its own portfolio",
        "",
        "have it reversed and entered on the right account.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.cash_currency,
        "Cash is in its account's currency",
        "",
        "have it reversed and entered on the right account.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.opening_too_large,
        "Openings fit the document",
        "Balances before the shared history have few enough digits.",
        "very likely wrong: have the ledger's rows reversed and entered again.",
    ),
    _warning(
        "movement_transactions",
        breaches.price_times_units,
        "Consideration agrees with units x price",
        "They differ by the rounding of the printed price at most.",
        "compare with the contract note: fills were averaged, or a figure is wrong.",
    ),
    _warning(
        "movement_transactions",
        breaches.settlement_date,
        "ASX trades settle on T+2",
        "The stated date is sent in any case.",
        "compare with the contract note: CHESS moved a settlement day, or the date is wrong.",
    ),
)
# Rules whose breach a change of another portfolio can end.
SHARED_NUMBERS = frozenset({breaches.shared_hin.__name__, breaches.shared_account_number.__name__})


@dataclass(frozen=True, slots=True)
class LedgerRule:
    """One rule over a feed's date against what the feed sent before. A breach holds the portfolio back."""

    name: str
    title: str
    condition: str
    remedy: str

    @property
    def description(self) -> str:
        """Title, condition, remedy and effect, for the check in the UI."""
        return _description(self.title, self.condition, self.remedy, RuleSeverity.QUARANTINE)


NUMBER_CHANGED = LedgerRule(
    "number_changed",
    "Portfolio and account numbers keep their owner",
    "The recipient knows portfolios and cash accounts by it. None is new, reused or swapped since the last delivery.",
    "have the number restored, or agree with the recipient how the history moves.",
)
DELIVERED_BALANCE = LedgerRule(
    "delivered_balance",
    "Everything sent adds up to what is stated",
    "Per security and cash account, records sent and dated by the business date equal the units or balance stated, "
    "less what bigsite recorded after the cut-off. The comparison starts on the day before the shared history. "
    "Openings sent with a later date count at once. The finding has the difference and sent records of that size.",
    "look in bigsite for a row that changed, vanished or appeared behind a closed window. Have it corrected by a new "
    "row, or the end of day rewritten. A row of the last `CLASSFEED_LATE_ROW_DAYS` is sent automatically. For a row "
    "dated before the shared history, run the date of its `recorded_at` with `--fresh-snapshot`; if that date holds "
    "the portfolio back as well, as after a reversal of the row, `classfeed refresh` the portfolio.",
)
ID_SENT_BEFORE = LedgerRule(
    "id_sent_before",
    "A TransactionId is sent for one row alone",
    "Checked for `CLASSFEED_LATE_ROW_DAYS`. The recipient would take the new row for the old one.",
    "bigsite was probably restored from an older backup: have its sequences set beyond every id that was sent, and the "
    "rows entered again.",
)
# Rules that need the delivered ledger. They are evaluated for each feed; see feed_run.ledger_view.
LEDGER_RULES: tuple[LedgerRule, ...] = (NUMBER_CHANGED, DELIVERED_BALANCE, ID_SENT_BEFORE)


_SECURITY = {(MOVEMENT_TRANSACTIONS.name, "exchange"), (MOVEMENT_TRANSACTIONS.name, "security_code")}
_COLUMNS = {  # domain columns that a rule is about
    breaches.hin_shape.__name__: {(ACCOUNTS.name, "hin")},
    breaches.abn_check_digits.__name__: {(ACCOUNTS.name, "abn")},
    breaches.unreadable_movement_security.__name__: _SECURITY,
    breaches.movement_code.__name__: _SECURITY,
    breaches.movement_isin.__name__: {(MOVEMENT_TRANSACTIONS.name, "isin")},
}
# Landed tables whose rows are values of one frame, or of a ledger or opening.
_FRAME_OF = {"holding_eod": INVESTMENT_HOLDINGS.name, "cash_balance_eod": ACCOUNT_BALANCES.name}
_UNREADABLE = breaches.unreadable_value.__name__
_LEDGER_OF = {**LETTERS, "opening_units": OPENING_UNITS, "opening_cash": OPENING_CASH}
_TRADES_ALONE = breaches.repeated_confirmation.__name__  # its subject is a number of the market's


def concerning(
    findings: pl.DataFrame, ledgers: AbstractSet[str], columns: AbstractSet[tuple[str, str]]
) -> pl.DataFrame:
    """Return the FINDINGS about what a document carries: its ``ledgers``, and ``columns`` as (frame, column).

    A row of another ledger and a code that the document never states hold back no portfolio in its feed. The subject of
    a rule over movements is the TransactionId of a row.
    """
    of_columns = [name for name, about in _COLUMNS.items() if not about & columns]
    of_movements = [rule.name for rule in rules_of(MOVEMENT_TRANSACTIONS.name) if rule.name != _TRADES_ALONE]
    subject, rule = pl.col("subject"), pl.col("rule")
    row = pl.when(subject.str.starts_with("O")).then(subject.str.slice(0, 2)).otherwise(subject.str.slice(0, 1))
    table = subject.replace_strict(_LEDGER_OF, default=None, return_dtype=pl.String)
    frames = {frame for frame, _ in columns}
    of_frames = [table for table, frame in _FRAME_OF.items() if frame not in frames]
    ledger = (
        pl.when(rule.is_in(of_movements))
        .then(row)
        .when(rule == _TRADES_ALONE)
        .then(pl.lit(LETTERS["trade"]))
        .when(rule == _UNREADABLE)
        .then(table)
    )  # null: any ledger
    return findings.filter(
        ~rule.is_in(of_columns),
        (rule != _UNREADABLE) | ~subject.is_in(of_frames),
        ledger.is_in(sorted(carried_ledgers(ledgers))).fill_null(value=True),
    )


def rules_of(domain: str) -> tuple[DataRule, ...]:
    """Return the rules over one domain, in the order of the table."""
    return tuple(rule for rule in RULES if rule.domain == domain)


def find(domain: str, part: Slice, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the FINDINGS of every rule of ``domain`` over its ``frames`` of one slice."""
    findings = [FINDINGS.empty()]
    for rule in rules_of(domain):
        rows = rule.breaches(part, frames)
        if not rows.is_empty():
            named = (pl.lit(rule.name).alias("rule"), pl.lit(rule.severity.value).alias("severity"))
            findings.append(FINDINGS.conform(rows.with_columns(named)))
    return FINDINGS.conform(pl.concat(findings).unique())
