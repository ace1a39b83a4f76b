"""Which versions of models are served: artifacts become releases in the ledger (``publishing``)."""
