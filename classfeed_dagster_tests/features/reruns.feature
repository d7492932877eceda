Feature: The support group runs a date again
  As a member of the support group I may run a date again, and nothing else.

  @proves-delivered-once @proves-rerun-recorded
  Scenario: An accepted re-run is recorded and delivers nothing twice
    Given bigsite has "a saver with one share"
    When Monday ends and the feed runs the next morning
    And pat of classfeed-support asks to run Monday again: the recipient says that it has no file
    Then the re-run's outcome is: nothing to do
    And pat's request for Monday is recorded as ACCEPTED
    And Monday was delivered once

  @proves-rerun-restricted @proves-rerun-recorded
  Scenario: A request from outside the group is refused
    When kim of analysts asks to run Monday again: I would like to see how it works
    Then the request is refused: only members of classfeed-support
    And kim's request for Monday is recorded as REFUSED
    And nothing is stored of Monday

  @proves-refreshed-once @proves-rerun-recorded @proves-sums-match
  Scenario: A portfolio is sent again in full between two dates
    Given bigsite has "a saver with one share"
    And bigsite has "another saver with one share"
    When Monday ends and the feed runs the next morning
    And Tuesday ends and the feed runs the next morning
    And pat of classfeed-support asks to refresh "a saver with one share" after Tuesday: the recipient lost its history
    Then revision 1 of Tuesday holds "a saver with one share" alone
    And revision 1 of Tuesday has the whole history of "a saver with one share"
    And pat's request for Tuesday is recorded as ACCEPTED
    When Wednesday ends and the feed runs the next morning
    Then the recipient's sums match on Wednesday
