"""For tests only, imported where a setting asks for it: failpoints, and a stand-in for NVIDIA's library."""
