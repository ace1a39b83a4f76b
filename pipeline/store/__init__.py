"""The connection to the Redis or Valkey server.

``connection``        clients with time limits
``errors``            what they raise, and the problems that these are to a caller
``client``            redis-py's clients, without what they do around every call
``broker_connection`` connections for Celery's broker
"""
