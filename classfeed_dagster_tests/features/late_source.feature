Feature: A morning on which the source is late
  As the channel I hear once that the feed is late, and once that it has recovered.

  @proves-nothing-too-early @proves-told-once @proves-mended-by-itself
  @s3
  Scenario: The feed is late, people are told, and it goes when the source is there
    Given bigsite has "a saver with one share"
    And bigsite has not written its end of day of Monday
    When the feed runs on the morning after Monday
    Then the run says: source not ready
    And nothing is stored of Monday
    When the alerts look at 07:05 on Tuesday
    Then people are told of class_super that it is late
    When bigsite writes its end of day of Monday
    And the repair looks at 08:10 on Tuesday
    And the alerts look at 08:20 on Tuesday
    Then the recipient is told of "a saver with one share": NEW on Monday
    And people are told of class_super no more
