"""The source: bigsite's tables, the snapshot taken of them, and whether they are ready to be read."""
