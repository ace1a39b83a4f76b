"""What every long-running process has.

``health``       ``/livez`` and ``/readyz``
``periodic``     a thread that does something again and again
``cancellation`` cancelling asyncio tasks until they have ended
"""
