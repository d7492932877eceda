"""Simulated customers: who they are, what they do each business day, what bigsite books, and what they believe they own."""
