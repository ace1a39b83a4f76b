"""The postprocess stage (``service``): a raw number becomes a calibrated score and a decision."""
