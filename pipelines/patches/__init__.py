"""From scenes to a store of patches, and from the store to a dataset that passed its checks."""
