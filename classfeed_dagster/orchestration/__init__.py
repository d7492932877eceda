"""Dagster: every asset, check, sensor, schedule, job, resource and executor. Nothing else imports Dagster."""
