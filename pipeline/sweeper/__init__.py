"""The sweeper service: ``python -m pipeline.sweeper`` starts it.

``loop``      its rounds, and the steps of a round
``grace``     when the silence of workers does not count
``degraded``  degraded mode: when it begins, and when batches may take longer
``lanes``     when a lane with work is rung again
"""
