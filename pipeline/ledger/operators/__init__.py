"""The operators' door to the ledger: dead letters (list, replay, purge) and counts."""
