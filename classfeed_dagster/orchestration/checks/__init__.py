"""Asset checks, one file a layer."""
