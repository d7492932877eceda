"""bigsite's contract: schema and value drift, the contract's lock, and its history."""
