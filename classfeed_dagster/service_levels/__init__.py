"""Service levels: due times, punctuality, metrics, toil, heartbeats, the owner's numbers."""
