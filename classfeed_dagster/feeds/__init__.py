"""Feed declarations, one file a feed."""
