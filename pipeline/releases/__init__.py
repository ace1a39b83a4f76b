"""Which model versions are served: ``publishing`` turns artifacts into releases in the ledger."""
