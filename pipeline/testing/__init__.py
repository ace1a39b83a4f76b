"""For tests only, imported only where ``SCORELINE_FAILPOINTS`` asks for it.

``failpoints`` named steps at which a child is stopped or killed
``stub_nvml``  a stand-in for NVIDIA's management library
"""
