"""Scoreline beside others that install from PyPI: the same rows, the same model, one machine."""
