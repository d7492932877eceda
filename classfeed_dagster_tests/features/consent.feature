Feature: Only those who consent, and only while they do
  As a customer I decide who sees my portfolio, and I can take it back at any moment.

  @proves-consent-decides @proves-removal-told-once @proves-new-gets-history @proves-adds-up
  Scenario: Consent is given, taken back, and never given
    Given bigsite has "a saver with one share"
    And bigsite has "a customer who consents on Tuesday"
    And bigsite has "a customer who leaves on Tuesday"
    And bigsite has "a customer who never consents"
    When Monday ends and the feed runs the next morning
    And Tuesday ends and the feed runs the next morning
    And Wednesday ends and the feed runs the next morning
    Then the recipient is told of "a saver with one share": NEW on Monday, CURRENT on Tuesday, CURRENT on Wednesday
    And the recipient is told of "a customer who consents on Tuesday": NEW on Tuesday, CURRENT on Wednesday
    And the recipient is told of "a customer who leaves on Tuesday": NEW on Monday, REMOVED on Tuesday
    And the recipient is told of "a customer who never consents": nothing
    And Tuesday's document has the whole history of "a customer who consents on Tuesday"
    And what the recipient has adds up on Wednesday

  @proves-consent-asked-again @proves-judged-alone
  @s3
  Scenario: Consent is revoked after the cut-off, before publishing
    Given bigsite has "a saver with one share"
    And bigsite has "another saver with one share"
    And "a saver with one share" revokes at 5 in the morning after Monday
    When Monday ends and the feed runs the next morning
    Then the recipient is told of "a saver with one share": nothing
    And the recipient is told of "another saver with one share": NEW on Monday
    And "a saver with one share" is held back for Monday: consent ended
