"""The ledger: the truth about every request, in one Redis or Valkey server.

``keys``         the legend: every key's name, type, life and owner
``lua/``         the scripts: every write of more than one key is one script; ``lua/prelude/`` stands before each
``scripts``      loads and calls them
``records``      what the values look like
``letters``      what dead letters look like
``status_documents`` what producers read of a request
``releases``     which version of a model is current
``result_cache`` results that may be given again
``registry``     what the live workers say of themselves
``recovery``     claims given back, and outcomes given to all who wait for them
``early_ends``   ends from outside a worker: deadlines that passed, and cancelling
``rights``       what the store's user must be allowed to do

Four doors, each for one kind of process: ``producers/``, ``workers/``, ``sweeper/``, ``operators/``.
"""
