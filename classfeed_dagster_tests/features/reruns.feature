Feature: The support group runs a date again
  As a member of the support group I may run a date again, and nothing else.

  @proves-delivered-once @proves-rerun-on-record
  @s3
  Scenario: A re-run is granted, on record, and delivers nothing twice
    Given bigsite has "a saver with one share"
    When Monday ends and the feed runs the next morning
    And pat of classfeed-support asks to run Monday again: the recipient says that it has no file
    Then the re-run says: nothing to do
    And pat's request for Monday is on record as ACCEPTED
    And Monday was delivered once

  @proves-rerun-guarded @proves-rerun-on-record
  Scenario: Somebody else asks
    When kim of analysts asks to run Monday again: I would like to see how it works
    Then the door stays shut: only members of classfeed-support
    And kim's request for Monday is on record as REFUSED
    And nothing is stored of Monday
