"""The consented portfolios and the four export domains: frames in, frames out, nothing of Dagster."""
