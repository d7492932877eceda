"""The real daemon and real processes, faults let loose on them, and nobody at hand."""
