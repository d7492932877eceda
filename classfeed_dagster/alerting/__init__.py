"""Incidents and how they are announced: Slack, PagerDuty."""
