"""Rehearsal of the production deployment: its own templates, images' scripts and settings, on this machine."""
