"""Embedded services for a laptop, a demo or a test: PostgreSQL, Snowflake, Dagster."""
