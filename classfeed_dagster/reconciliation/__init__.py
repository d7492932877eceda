"""Proof that what was delivered is right: independent reads, an exact comparison, breaks that live and resolve."""
