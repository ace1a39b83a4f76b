"""The proof: faults under load, and a check that every accepted request has ended once, with the right answer.

``run``            one run: load, faults, settling, check
``schedule``       which fault is injected when, by the seed
``testbed``        the stack: a network and a store user for each process, clocks that can be set
``targets``        its processes, found again each time, and watched until they serve
``faults``         every fault by name: of ``process_faults``, ``model_faults`` and ``global_faults``
``injections``     what was injected, and what was not met
``load``           the producer over HTTP, and its history
``proxy``          the network that can be cut and slowed
``rights``         commands that the store refuses for a while
``events``         the events of the ledger's log, which ``log_follower`` reads while the run goes on
``recovery``       how long what was affected took
``leftovers``      what is left in the ledger at the end
``reference``      what the models give without queues, store or workers
``checker``        the verdict
``report``         the result as a document and as a table
``make_probe``     writes ``models/``, the artifacts that fail on demand
``stock``          stock Celery under the same kills
"""
