"""The sweeper service: ``loop`` is its rounds, ``python -m pipeline.sweeper`` starts it."""
