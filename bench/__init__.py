"""Benchmarks: ``make bench``. Figures and their caveats stand in ``bench/README.md``."""
