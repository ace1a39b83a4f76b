"""The ledger: the truth about every request, in one Redis or Valkey server.

``legend``           every key: its name, type, life, owners and meaning
``keys``             the names of keys, as code makes them
``lua/``             the scripts: whatever a request's end depends on is written by one; ``lua/prelude/`` stands before
                     each
``scripts``          loads and calls them
``constants``        what scripts and Python both know, written once
``records``          what the values look like
``letters``          what dead letters look like
``status_documents`` what producers read of a request
``releases``         which version of a model is current
``result_cache``     results on a server of their own; the ledger's own are found by ``accept.lua``
``registry``         what the live workers say of themselves
``recovery``         claims given back, and outcomes given to all who wait for them
``early_ends``       ends from outside a worker: deadlines that passed, and cancelling
``clock``            the server's time, and the ledger's
``rights``           what the store's user must be allowed to do

Four doors, each for one kind of process: ``producers/``, ``workers/``, ``sweeper/``, ``operators/``.
"""
