"""The delivered ledger: columnar files that say what was sent, and arithmetic over them. Knows no manifest."""
