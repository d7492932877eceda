"""Counts in sentences for people."""


def counted(count: int, noun: str) -> str:
    """Return ``count`` with the singular ``noun`` or its plural."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"
