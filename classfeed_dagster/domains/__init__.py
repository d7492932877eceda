"""The consented portfolios and the four export domains, computed as pure functions over frames. Dagster-free."""
