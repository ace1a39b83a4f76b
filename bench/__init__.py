"""Benchmarks. ``README.md`` says how to run and read each; goals and figures are there, too.

``python -m bench``      every way of sending (``ways``) beside the baselines: a plain Celery chain (``chain_app``, of
                         ``plain_tasks``) and bare lists (``floor``). ``rows`` has figures and goals, ``processes``
                         what runs and its CPU, ``http_load`` the HTTP client
``bench.profile``        where a request's microseconds go
``bench.growth``         cost as processes, features and inputs grow, with models of their own (``models``)
``bench.waiting``        a million requests that wait, on a store and workers of its own (``services``)
``bench.start``          from ``scoreline up`` to the first score
``bench.restart``        how long a stage's only worker is away after its death
``bench.eta``            how good ``eta_s`` is
``bench.scoring_stage``  what the scoring stage adds to the model
``bench.peers``          others that install from PyPI
``synthetic``            writes made-up models, also for chaos
"""
