"""The workers' door to the ledger: claim a batch, settle it, wait for more."""
