Feature: What is wrong is held back, and goes by itself once it is mended
  As the person on call I don't start runs by hand: I have bigsite mended, and the rest happens.

  @proves-judged-alone @proves-in-order @proves-mended-by-itself @proves-adds-up
  Scenario: A portfolio is quarantined and released, and the others go
    Given bigsite has "a saver with one share"
    And bigsite has "another saver with one share"
    And the end of day of Monday misstates the holdings of "a saver with one share"
    When Monday ends and the feed runs the next morning
    And Tuesday ends and the feed runs the next morning
    Then "a saver with one share" is held back for Monday: breaks delivered_balance (once), units_ledger (once)
    And "a saver with one share" is held back for Tuesday: waiting for 2026-03-02
    And the recipient is told of "another saver with one share": NEW on Monday, CURRENT on Tuesday
    When bigsite mends its end of day of Monday on Wednesday morning
    And the repair looks at 08:00 on Wednesday
    Then revision 1 of Monday holds "a saver with one share" alone
    And revision 1 of Tuesday holds "a saver with one share" alone
    And nobody is held back any more
    And what the recipient has adds up on Tuesday

  @proves-corrections-travel @proves-adds-up
  Scenario: A mistake is corrected in its own window, and the dates that it changes are issued again
    Given bigsite has "a saver with one share"
    And bigsite has "a reversal across month end"
    And bigsite has "a row backdated by a week"
    When Monday ends and the feed runs the next morning
    And Tuesday ends, with its rewritten past, and the feed runs the next morning
    Then Tuesday's document has a BUY of "a reversal across month end" dated 2026-02-25 with -100 units
    And Tuesday's document has a TRANSFER_IN of "a row backdated by a week" dated 2026-02-24 with 25 units
    When the repair looks at 08:00 on Wednesday
    Then revision 1 of Monday restates the holdings of "a row backdated by a week" and "a reversal across month end"
    And what the recipient has adds up on Tuesday

  @proves-judged-alone
  Scenario: Each portfolio is judged on its own
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
    And the recipient is told of "a fund in pension phase": NEW on Monday
