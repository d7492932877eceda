"""Sensors, one file a concern."""
