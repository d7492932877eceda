Feature: Held-back portfolios are delivered after a correction
  As the on-call person I have bigsite corrected and start no run by hand.

  @proves-portfolios-independent @proves-dates-in-order @proves-automatic-retry @proves-sums-match
  Scenario: A portfolio is held back and later released, and the others are delivered
    Given bigsite has "a saver with one share"
    And bigsite has "another saver with one share"
    And the end of day of Monday misstates the holdings of "a saver with one share"
    When Monday ends and the feed runs the next morning
    And Tuesday ends and the feed runs the next morning
    Then "a saver with one share" is held back for Monday: breaks delivered_balance (once), units_ledger (once)
    And "a saver with one share" is held back for Tuesday: waiting for 2026-03-02
    And "another saver with one share" is delivered as: NEW on Monday, CURRENT on Tuesday
    When bigsite corrects its end of day of Monday on Wednesday morning
    And repair is evaluated at 08:00 on Wednesday
    Then revision 1 of Monday holds "a saver with one share" alone
    And revision 1 of Tuesday holds "a saver with one share" alone
    And no portfolio is held back
    And the recipient's sums match on Tuesday

  @proves-corrections-delivered @proves-sums-match
  Scenario: A correction is sent in its own window, and changed dates are re-issued
    Given bigsite has "a saver with one share"
    And bigsite has "a reversal across month end"
    And bigsite has "a row backdated by a week"
    When Monday ends and the feed runs the next morning
    And Tuesday ends with a rewritten past and the feed runs the next morning
    Then Tuesday's document has a BUY of "a reversal across month end" dated 2026-02-25 with -100 units
    And Tuesday's document has a TRANSFER_IN of "a row backdated by a week" dated 2026-02-24 with 25 units
    When repair is evaluated at 08:00 on Wednesday
    Then revision 1 of Monday restates the holdings of "a row backdated by a week" and "a reversal across month end"
    And the recipient's sums match on Tuesday

  @proves-portfolios-independent
  Scenario: A breach holds back its own portfolio only
    Given bigsite has "a saver with one share"
    And bigsite has "another saver with one share"
    And bigsite has "a fund in pension phase"
    And bigsite has "a HIN that is too short"
    And bigsite has "an ABN with a wrong check digit"
    And bigsite has "a contract note that does not add up"
    When Monday ends and the feed runs the next morning
    Then "a HIN that is too short" is held back for Monday: breaks hin_shape
    And "an ABN with a wrong check digit" is held back for Monday: breaks abn_check_digits
    And "a contract note that does not add up" is held back for Monday: breaks net_amount
    And "a fund in pension phase" is delivered as: NEW on Monday
