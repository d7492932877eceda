"""classfeed: an online share broker's daily data feeds to Class and other fund-administration software."""

from classfeed_dagster import allocators as memory

memory.configure()  # before anything that allocates much is loaded
