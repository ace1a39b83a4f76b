"""Scoreline beside others that install from PyPI: the same rows, model and machine. ``python -m bench.peers``.

``scoreline``, ``tuned_celery``, ``batches``, ``ray_serve``, ``mosec_http`` are what is measured; ``peer`` starts a
peer's processes in an environment of its own (``environments``), and ``inside`` is what runs there. ``measure`` goes
through rounds, ``points`` holds their figures, ``plot`` draws them.
"""
