"""Incidents and their notifications in Slack and PagerDuty."""
