"""Which model serves: evidence, gate, history, and the health of a registry."""
