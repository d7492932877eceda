"""The real daemon and real processes under faults, without an operator."""
