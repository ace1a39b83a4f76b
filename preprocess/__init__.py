"""The preprocess stage: validate features against the model's schema, encode them, mark anomalies."""
