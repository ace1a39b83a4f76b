"""The preprocess stage.

``service``    a batch of features in, what the model reads out
``validation`` features against the model's input schema
``encoding``   tabular features as a vector, with anomalies marked
``text``       texts as token ids
"""
