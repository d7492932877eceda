"""Traces of one number from the source to the document."""
