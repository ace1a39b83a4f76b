"""The producers' door to the ledger.

``submissions``   requests on their way in, and what is answered
``accept``        accepts requests and cancels them
``refusals``      the problems for what accept refuses
``status``        reads the statuses of requests
``notifications`` announces the ends of requests to waiters
"""
