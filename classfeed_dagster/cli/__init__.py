"""The command line, one file a group of commands; ``app`` is the entry point."""
