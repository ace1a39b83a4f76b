"""The operators' door to the ledger.

``dead_letters`` list, replay and purge requests that were given up
``stats``        counts: what waits, what is claimed, which workers live
"""
