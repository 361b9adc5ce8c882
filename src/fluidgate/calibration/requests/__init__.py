"""A step time from the latencies that clients saw: what is compared, the fit, and how sure it is."""
