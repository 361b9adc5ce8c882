"""`fluidgate calibrate server`: load a running vLLM in phases, watch its counters, and fit a step time to them."""
