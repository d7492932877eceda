"""Counts in sentences, and values in Markdown tables, for people."""


def counted(count: int, noun: str) -> str:
    """Return ``count`` with the singular ``noun`` or its plural."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and not noun.endswith("day") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def markdown_cell(value: object) -> str:
    """Return ``value`` as the text of one cell of a Markdown table. It cannot end the cell or the row."""
    text = " ".join(str(value).splitlines())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
