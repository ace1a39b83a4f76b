"""Load on a running deployment.

``generator`` submits requests that arrive at a rate, and follows each to its end
``targets``   where they go: the store, or the HTTP API
"""
