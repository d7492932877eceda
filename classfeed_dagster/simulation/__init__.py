"""Simulated customers: who they are, what they do each day, what bigsite books, and what they believe to own."""
