"""The ledger: the truth about every request, in one Redis or Valkey server.

``keys``       the legend: every key's name, type, life and owner
``lua/``       the scripts: every write of more than one key is one script; ``lua/prelude/`` stands before each
``scripts``    loads and calls them
``connection`` clients with time limits, and the store's errors as problems
``records``    what the values look like
``parcels``    requests on their way in, and what is answered
``producing``  accept, read, cancel: the producers' side (asynchronous)
``endings``    hears when requests end
``cache``      results that may be given again
``claiming``   claim, settle, linger: the workers' side
``sweeping``   release, due retries, deadlines, idle lanes: the sweeper's side
``releases``   which version of a model is current
``letters``    dead letters: list, replay, purge
``overview``   counts for operators
"""
