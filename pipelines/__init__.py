"""Plain stages of the chain, in the order in which data flows: from sampling to scores."""
