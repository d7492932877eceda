"""Celery workers on machines of their own, and everything that they share: the network."""
