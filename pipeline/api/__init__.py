"""The HTTP API: what WIRE promises, over the asynchronous client. Needs no torch and no Celery.

``app``        the application: lifespan, problems, health
``scores``     submit, read and wait
``operations`` models, stats, dead letters, metrics
``bodies``     bodies in (bounded JSON), documents out
``access``     API keys
"""
