"""Models as files: artifacts in a folder (``folder``), and what their manifests must say (``manifests``)."""
