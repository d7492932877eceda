"""Grafana, as code."""
