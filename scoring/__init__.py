"""The scoring stage: models, the service that runs them, and the training of the demo's model. Torch lives here."""
