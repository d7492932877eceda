Feature: A feed moves off its old app
  As the recipient I notice nothing when class_trade is written by another program.

  @proves-shadow-first @proves-live-after-parity
  Scenario: Shadow beside the old app, parity, then live
    Given bigsite has "a saver with one share"
    And bigsite has "a reversal across month end"
    And one clean date of parity is enough
    When Monday ends and class_trade runs the next morning
    Then class_trade of Monday is in shadow alone
    When the switch says that class_trade is live, and class_super and class_cash are off
    And Tuesday ends and class_trade runs the next morning
    Then the run says: stopped by checks
    When the old app's file of Monday arrives, and is compared
    And class_trade runs on the morning after Tuesday
    Then the run says: delivered
    And the recipient has a class_trade file of Tuesday, and none of Monday
