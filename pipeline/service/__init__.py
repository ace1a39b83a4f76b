"""What every long-running process needs.

``entry_points`` the modules that are started by their names, and the command that starts one
``signals``      SIGTERM and SIGINT
``health``       the health port: ``/livez`` and ``/readyz``
``periodic``     a thread that does something again and again
``cancellation`` cancelling asyncio tasks until they have ended
"""
