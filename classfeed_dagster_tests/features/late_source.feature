Feature: bigsite's end of day is late
  As the on-call person I get one message that the feed is late, and one when it has recovered.

  @proves-end-of-day-required @proves-one-notification @proves-automatic-retry
  @s3
  Scenario: A late feed is notified once and delivered once the end of day exists
    Given bigsite has "a saver with one share"
    And bigsite has not written its end of day of Monday
    When the feed runs on the morning after Monday
    Then the run's outcome is: source not ready
    And nothing is stored of Monday
    When the alerts are evaluated at 07:05 on Tuesday
    Then class_super has an open incident: late
    When bigsite writes its end of day of Monday
    And repair is evaluated at 08:10 on Tuesday
    And the alerts are evaluated at 08:20 on Tuesday
    Then "a saver with one share" is delivered as: NEW on Monday
    And class_super has no open incident
