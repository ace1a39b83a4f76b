"""Celery adapters and the composition root: the only place where stages, ledger and broker meet."""
