"""The warehouse: what was delivered as a star schema in Snowflake, and the breaks found over time."""
