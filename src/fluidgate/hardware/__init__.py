"""A model on a GPU: step time and KV capacity."""
