"""Comparison of a new feed with the retired application that it replaces."""
