"""The postprocess stage: calibrate, decide, shape the result."""
