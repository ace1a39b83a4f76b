"""Circuit breakers: around services elsewhere (``calls``), and around a model that has a fallback (``window``)."""
