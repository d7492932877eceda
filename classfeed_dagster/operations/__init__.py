"""Running the feeds: jobs, schedules, one run of one date, and the local services that a laptop needs."""
