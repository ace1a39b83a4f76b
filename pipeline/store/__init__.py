"""The connection to the Redis or Valkey server.

``connection`` clients with time limits, and the server's errors as problems
``client``     redis-py's clients, without what they do around every call
"""
