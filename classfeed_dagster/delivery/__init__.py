"""Delivery: what goes, the pages, the gate before them, publishing exactly once, quarantine, and proof afterwards."""
