"""Whether a model can be trusted with the data it was trained on."""
