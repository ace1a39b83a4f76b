"""Models as files.

``artifacts`` one version of a model: its manifest and files, read and checked
``manifests`` what a manifest must say
``folder``    the model store: a folder of artifacts, read and written
"""
