"""Dagster definitions: assets, checks, sensors, schedules, jobs, executors, resources. Nothing else imports Dagster.

Files with decorated functions have no postponed annotations: Dagster reads the annotations as objects.
"""
