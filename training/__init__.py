"""Where the shipped models come from: ``credit_default`` is trained, ``relevance_minilm`` is converted."""
