"""The source: tables, queries, consent, snapshot, landing, readiness."""
