"""Simulated customers: their plans, daily actions, bookings in bigsite, and own books."""
