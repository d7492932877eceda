Feature: Consent decides who receives data
  As a customer I decide who receives my portfolio's data, and can withdraw consent at any time.

  @proves-consent-required @proves-removal-announced-once @proves-full-history-for-new @proves-sums-match
  Scenario: Consent is granted, withdrawn, and never granted
    Given bigsite has "a saver with one share"
    And bigsite has "a customer who consents on Tuesday"
    And bigsite has "a customer who leaves on Tuesday"
    And bigsite has "a customer who never consents"
    When Monday ends and the feed runs the next morning
    And Tuesday ends and the feed runs the next morning
    And Wednesday ends and the feed runs the next morning
    Then "a saver with one share" is delivered as: NEW on Monday, CURRENT on Tuesday, CURRENT on Wednesday
    And "a customer who consents on Tuesday" is delivered as: NEW on Tuesday, CURRENT on Wednesday
    And "a customer who leaves on Tuesday" is delivered as: NEW on Monday, REMOVED on Tuesday
    And "a customer who never consents" is delivered as: nothing
    And Tuesday's document has the whole history of "a customer who consents on Tuesday"
    And the recipient's sums match on Wednesday

  @proves-consent-rechecked @proves-portfolios-independent
  Scenario: Consent is revoked after the cut-off, before publishing
    Given bigsite has "a saver with one share"
    And bigsite has "another saver with one share"
    And "a saver with one share" revokes consent at 05:00 after Monday
    When Monday ends and the feed runs the next morning
    Then "a saver with one share" is delivered as: nothing
    And "another saver with one share" is delivered as: NEW on Monday
    And "a saver with one share" is held back for Monday: consent ended
