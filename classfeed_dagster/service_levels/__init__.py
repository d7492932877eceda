"""Service levels: objectives, metrics, toil, heartbeats, due dates."""
