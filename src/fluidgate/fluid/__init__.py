"""The fluid model: equilibrium, stability, thresholds, safety buffer, plan."""
