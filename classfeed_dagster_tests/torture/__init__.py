"""Real processes, real faults. Not part of the default run: pytest -m torture."""
