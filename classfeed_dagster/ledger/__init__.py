"""The delivered ledger: columnar files that say what was sent, and arithmetic over them. Imports no manifest."""
