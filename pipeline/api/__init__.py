"""The HTTP API, over the clients' core. Needs no torch and no Celery.

``app``        the application: lifespan, problems, health, the hot path
``call``       one HTTP call, parsed: its caller, its time, what it carries
``scores``     submit, read, wait, cancel
``operations`` models, stats, dead letters
``metrics``    the stats, for Prometheus
``bodies``     bodies in (bounded JSON), documents out
``access``     API keys
``openapi``    what the OpenAPI document says of what handlers parse themselves
"""
