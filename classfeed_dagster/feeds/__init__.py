"""The feeds: one short file each, found by looking into this folder, and what Dagster makes of them."""
