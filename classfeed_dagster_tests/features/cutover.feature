Feature: A feed replaces its old app
  As the recipient I see no change when another program writes class_trade.

  @proves-shadow-first @proves-live-after-parity
  Scenario: Shadow next to the old app, parity, then live
    Given bigsite has "a saver with one share"
    And bigsite has "a reversal across month end"
    And one clean date of parity is enough
    When Monday ends and class_trade runs the next morning
    Then class_trade of Monday is in shadow only
    When class_trade is switched to live, and class_super and class_cash to off
    And Tuesday ends and class_trade runs the next morning
    Then the run's outcome is: stopped by checks
    When the old app's file of Monday arrives and is compared
    And class_trade runs on the morning after Tuesday
    Then the run's outcome is: delivered
    And the recipient has a class_trade file of Tuesday, and none of Monday
