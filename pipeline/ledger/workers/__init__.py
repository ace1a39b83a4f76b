"""The workers' door to the ledger.

``claims``     claim a batch, settle it, give it back, park for more
``batch``      a claimed batch, as a worker holds it
``settlement`` what is written for each kind of outcome
"""
