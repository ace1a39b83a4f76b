"""Circuit breakers: around calls to other services (``calls``), and around a model that has a fallback (``window``)."""
