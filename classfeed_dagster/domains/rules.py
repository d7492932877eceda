"""Declarations of the data rules: the condition, the severity of a breach and the remedy.

QUARANTINE holds the portfolio back until bigsite is corrected; the other portfolios are delivered. WARNING informs
people and never stops a delivery: valid contract notes break these rules too. ``breaches`` detects the breaches.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from classfeed_dagster.domains import breaches
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.domains.slice import Slice

Check = Callable[[Slice, Mapping[str, pl.DataFrame]], pl.DataFrame]


class RuleSeverity(enum.StrEnum):
    """Effect of a breach."""

    QUARANTINE = "QUARANTINE"
    WARNING = "WARNING"


@dataclass(frozen=True, slots=True)
class DataRule:
    """One rule over the frames of one domain. ``breaches`` returns portfolio_number, subject, detail."""

    name: str
    domain: str
    title: str
    severity: RuleSeverity
    description: str
    breaches: Check


_HELD_BACK = (
    "The portfolio is held back; the others are delivered. Once bigsite is corrected, it is delivered automatically."
)
_NOT_HELD_BACK = "It is a warning: nothing is held back."


def _quarantine(domain: str, check: Check, title: str, proves: str, do: str) -> DataRule:
    return DataRule(
        check.__name__, domain, title, RuleSeverity.QUARANTINE, f"{proves} If it fails: {do} {_HELD_BACK}", check
    )


def _warning(domain: str, check: Check, title: str, proves: str, do: str) -> DataRule:
    return DataRule(
        check.__name__, domain, title, RuleSeverity.WARNING, f"{proves} If it fails: {do} {_NOT_HELD_BACK}", check
    )


_UNREADABLE = (
    "Every value of the rows concerned is a number or a date that a document can carry: not NaN, infinity or a "
)
_FREE_TEXT = (
    "No {} holds a tax file number, a payment card number or an e-mail address. Documents have them masked; with the "
    "setting CLASSFEED_FREE_TEXT=hold-back the portfolio is held back."
)
_CORRECT = "correct the value that the reason names in bigsite and take a fresh snapshot."

RULES: tuple[DataRule, ...] = (
    _quarantine(
        "consented_portfolios",
        breaches.unreadable_value,
        "Values of the portfolio can be read",
        _UNREADABLE + "year beyond 9999. A row with such a value is not landed.",
        _CORRECT,
    ),
    _warning(
        "consented_portfolios",
        breaches.history_begins_later,
        "Shared history has begun",
        "The customer shares movements from a day on or before the business date. Otherwise the opening record is "
        "dated after the business date, and until that day the recipient's sums fall short of the holdings.",
        "ask the customer's support whether the date on the consent is intended.",
    ),
    _quarantine(
        "account_details",
        breaches.unknown_account_value,
        "Entity types and statuses are known",
        "Entity type and status of the portfolio and its cash accounts are among those of bigsite's contract.",
        "bigsite has a new value; agree with the recipient what it means before the contract is extended.",
    ),
    _quarantine(
        "account_details",
        breaches.hin_shape,
        "HIN is X and ten digits",
        "The recipient and the registries match holdings by HIN, so a wrong one shows them another holder's.",
        "have client services correct the HIN in bigsite.",
    ),
    _quarantine(
        "account_details",
        breaches.abn_check_digits,
        "ABN passes its check digits",
        "An ABN that fails them belongs to no entity, and the data could be filed under the wrong fund.",
        "have client services correct the ABN in bigsite.",
    ),
    _quarantine(
        "account_details",
        breaches.bsb_shape,
        "BSB is NNN-NNN",
        "The recipient matches cash accounts by BSB and number and rejects a BSB of another shape.",
        "have client services correct the BSB in bigsite.",
    ),
    _quarantine(
        "account_details",
        breaches.shared_hin,
        "A HIN belongs to one portfolio",
        "No two open portfolios have the same HIN. Otherwise the recipient files one holder's holdings under the "
        "other. Every portfolio with the HIN is held back and named.",
        "have client services find out whose HIN it is and correct the others in bigsite.",
    ),
    _quarantine(
        "account_details",
        breaches.shared_account_number,
        "A BSB and number belong to one cash account",
        "No two open cash accounts have the same BSB, number and currency. Otherwise the recipient adds one customer's "
        "cash to the other's. Every portfolio with such an account is held back and named.",
        "have client services find out whose account it is and correct the others in bigsite.",
    ),
    _warning(
        "account_details",
        breaches.bsb_missing,
        "Accounts in AUD have a BSB",
        "Only foreign-currency accounts have no BSB; the recipient cannot match an AUD account without one.",
        "have client services add the BSB in bigsite.",
    ),
    _quarantine(
        "account_details",
        breaches.ambiguous_cash_account,
        "Cash accounts are distinguishable",
        "No two cash accounts of a portfolio share number and currency, by which the recipient identifies them.",
        "find out which of the accounts is real and correct the other in bigsite.",
    ),
    _warning(
        "account_details",
        breaches.identifier_in_name,
        "Names hold no identifier of a person",
        _FREE_TEXT.format("name"),
        "have client services remove it from the name in bigsite.",
    ),
    _quarantine(
        "account_balances",
        breaches.balance_missing,
        "Every open cash account has an end-of-day balance",
        "bigsite's end of day covers every cash account that is open on the business date.",
        "ask bigsite's team to run its end of day for the account.",
    ),
    _quarantine(
        "account_balances",
        breaches.cash_ledger,
        "Cash ledger sums to the balance",
        "The ledger balance is the sum of the account's transactions dated by the business date and recorded by the "
        "end-of-day run, which is what the recipient adds up; a closed or unopened account sums to zero.",
        "compare cash_balance_eod with cash_transaction for the account; bigsite's team corrects the wrong one.",
    ),
    _warning(
        "investment_holdings",
        breaches.holding_isin,
        "ISINs of held securities have the right form",
        "An ISIN is two letters, nine letters or digits and a digit (XSD, Isin). The document leaves out another text, "
        "which is the same for every holder.",
        "have the ISIN corrected in bigsite's security table.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.unreadable_holding_security,
        "Values of held securities can be read",
        _UNREADABLE + "year beyond 9999. A price or code change with such a value is not landed.",
        _CORRECT,
    ),
    _quarantine(
        "investment_holdings",
        breaches.holding_missing,
        "Every security with units has an end-of-day holding",
        "bigsite's end of day covers every security whose ledger does not sum to zero.",
        "ask bigsite's team to run its end of day for the holding.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.units_ledger,
        "Units ledger sums to the holding",
        "Units held are the sum of trades and security movements dated by the business date and recorded by the "
        "end-of-day run, which is what the recipient adds up.",
        "compare holding_eod with trade and security_movement for the holding; bigsite's team corrects the wrong one.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.holding_too_large,
        "Figures of a holding fit the document",
        "Units x price and the settled units have no more digits than the document's numbers.",
        "units or price in bigsite are very likely wrong; correct them there.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.unknown_security_type,
        "Security types are known",
        "The type of every security held is among those of bigsite's contract.",
        "bigsite has a new type; agree with the recipient what it means before the contract is extended.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.ambiguous_security,
        "Holdings are distinguishable",
        "No two holdings of a portfolio share exchange and code on the business date.",
        "look for a code change that is missing in security_code_change, or a security entered twice.",
    ),
    _quarantine(
        "investment_holdings",
        breaches.holding_code,
        "Security codes of holdings are well-formed",
        "The code as on the business date is 1 to 12 capitals, digits or full stops, without blanks. The exchange has "
        "letters, digits, full stops, hyphens, underscores and colons.",
        "correct the code in bigsite's security or security_code_change, or the exchange in security.",
    ),
    _warning(
        "investment_holdings",
        breaches.isin_check_digit,
        "ISIN passes its check digit",
        "The recipient identifies a security by exchange and code; a wrong ISIN misleads people. It is the same for "
        "every holder, so no portfolio is held back.",
        "correct the ISIN in bigsite's security.",
    ),
    _warning(
        "movement_transactions",
        breaches.movement_isin,
        "ISINs of moved securities have the right form",
        "An ISIN is two letters, nine letters or digits and a digit (XSD, Isin). The document leaves out another text, "
        "which is the same for every holder.",
        "have the ISIN corrected in bigsite's security table.",
    ),
    _warning(
        "movement_transactions",
        breaches.identifier_in_narrative,
        "Narratives hold no identifier of a person",
        _FREE_TEXT.format("narrative"),
        "tell client services which row it is; bigsite's team changes the text.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.unreadable_movement_security,
        "Values of moved securities can be read",
        _UNREADABLE + "year beyond 9999. A price or code change with such a value is not landed.",
        _CORRECT,
    ),
    _quarantine(
        "movement_transactions",
        breaches.unknown_transaction_type,
        "Transaction types are known",
        "Side, movement type, income type and cash type are among those of bigsite's contract; an unknown type is "
        "never sent as 'other'.",
        "bigsite has a new type; agree with the recipient what it means before the contract is extended.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.movement_code,
        "Security codes of movements are well-formed",
        "The code as on the transaction date is 1 to 12 capitals, digits or full stops, without blanks. The exchange "
        "has letters, digits, full stops, hyphens, underscores and colons.",
        "correct the code in bigsite's security or security_code_change, or the exchange in security.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.net_amount,
        "Net amount agrees with consideration, fees and side",
        "A BUY costs consideration + brokerage + other fees, a SELL brings consideration - brokerage - other fees.",
        "compare with the contract note; a wrong row is reversed in bigsite and entered again.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.repeated_confirmation,
        "No confirmation is recorded twice",
        "The same confirmation (number, side, security and units) is in the ledger once, unless reversed. Duplicate "
        "trades are the most frequent complaint of fund administrators.",
        "have the surplus row reversed in bigsite.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.foreign_reversal,
        "A reversal undoes a row of its own portfolio",
        "A reversed row belongs to the same portfolio, so no document names another customer's transaction.",
        "have the reversal corrected in bigsite.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.inexact_reversal,
        "A reversal undoes exactly its original",
        "A reversal carries the opposite units and amounts of its original, whole, on the same security and account, "
        "and never names itself. A reversal that was itself reversed since is not a breach.",
        "have the wrong reversal reversed in bigsite, and a right one entered.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.repeated_reversal,
        "A row is undone once",
        "Only one reversal of a row stands. A second one takes away what was never there.",
        "have the surplus reversal reversed in bigsite.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.foreign_relation,
        "A cash movement names causes of its own portfolio",
        "The trade or income that caused a cash movement belongs to the same portfolio, so no document names another "
        "customer's transaction.",
        "have the cash movement reversed in bigsite and entered on the right account.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.cash_currency,
        "Cash is in its account's currency",
        "An amount in another currency than its account would be added to the wrong balance.",
        "have the row reversed in bigsite and entered on the right account.",
    ),
    _quarantine(
        "movement_transactions",
        breaches.opening_too_large,
        "Openings fit the document",
        "The balances before the shared history have no more digits than the document's numbers.",
        "the ledger's figures are very likely wrong; correct them in bigsite.",
    ),
    _warning(
        "movement_transactions",
        breaches.price_times_units,
        "Consideration agrees with units x price",
        "Consideration differs from units x price by no more than the rounding of the printed price explains.",
        "compare with the contract note: several fills may have been averaged, or a figure is wrong.",
    ),
    _warning(
        "movement_transactions",
        breaches.settlement_date,
        "ASX trades settle on T+2",
        "The stated settlement date is two ASX business days after the trade. The stated date is sent in any case.",
        "compare with the contract note: CHESS may have moved a settlement day, or the date is wrong.",
    ),
)


@dataclass(frozen=True, slots=True)
class LedgerRule:
    """One rule over a feed's date against what the feed sent before. A breach holds the portfolio back."""

    name: str
    title: str
    description: str


NUMBER_CHANGED = LedgerRule(
    "number_changed",
    "A number belongs to whom it was sent for",
    "The recipient knows portfolios and cash accounts by their numbers. bigsite's key of each is compared with the "
    "number under which it was last sent: a new number, a number that was given again, and two that swapped all hold "
    "the portfolio back, so that no record is sent under two numbers. If it fails: have the number restored in "
    "bigsite, or agree with the recipient how the history moves. The other portfolios go.",
)
DELIVERED_BALANCE = LedgerRule(
    "delivered_balance",
    "Everything sent adds up to what is stated",
    "Per security and cash account, the records sent so far that are dated by the business date add up to the units "
    "or balance that the date states, less what bigsite recorded after the cut-off. The finding has the difference, "
    "and sent records of that size. If it fails: look for a row that changed, vanished or appeared behind a closed "
    "window in bigsite; have it corrected by a new row, or the end of day rewritten. The portfolio is held back; the "
    "others go.",
)
# Rules that need the delivered ledger. They are evaluated for each feed; see feed_run.ledger_view.
LEDGER_RULES: tuple[LedgerRule, ...] = (NUMBER_CHANGED, DELIVERED_BALANCE)


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
