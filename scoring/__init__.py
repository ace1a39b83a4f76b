"""The scoring stage. torch is imported here and in ``training`` only.

``service``       a batch of encoded features in, raw numbers out; loads models and warms them
``serving``       a model with its fallback, and what decides between the two
``model``         a model version in memory: its batches, and what happens when memory runs out
``pieces``        rows in blocks of few fixed shapes, so that a row's bits do not depend on its neighbours
``architectures`` what a manifest can name: ``vectors``, ``relevance`` (over ``bert``), ``chaos_probe``
``device``        the CPU or a GPU, ``canary`` the check that it computes correctly
``failures``      what torch and CUDA raise, as failures of a stage
"""
