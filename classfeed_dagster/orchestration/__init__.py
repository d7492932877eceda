"""Dagster definitions: assets, checks, sensors, schedules, jobs, executors, resources. Nothing else imports Dagster.

Files with decorated functions have no postponed annotations, because Dagster reads annotations as objects.
"""
