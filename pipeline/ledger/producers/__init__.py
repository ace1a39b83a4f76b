"""The producers' door to the ledger.

``submissions``   requests on their way in, and what is answered
``accept``        accept requests, read how they stand, cancel them
``refusals``      what accept refuses, as problems
``notifications`` hears when requests end
"""
